"""HTML: text is escaped in every place, and only once."""

from seedfast.report.html import element, join, table


def test_text_is_escaped_in_content_and_attributes() -> None:
    assert element("p", "<&>", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">&lt;&amp;&gt;</p>'


def test_markup_is_not_escaped_again() -> None:
    assert element("div", element("b", "x & y"), "&") == "<div><b>x &amp; y</b>&amp;</div>"
    assert join([element("i"), "<"], "\n") == "<i></i>\n&lt;"


def test_attributes_may_be_bare_or_absent_and_void_elements_have_no_end_tag() -> None:
    assert element("details", open=True, hidden=False, class_="c") == '<details open class="c"></details>'
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_numbers_are_right_aligned() -> None:
    html = table(["name", "count"], [["<a>", "1"]])
    assert '<td class="">&lt;a&gt;</td><td class="number">1</td>' in html
