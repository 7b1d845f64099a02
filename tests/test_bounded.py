"""Templates of strangers end, however they are written, and take no more memory than they may."""

import resource
import signal
import threading
from typing import Any

import pytest

from seedfast.bounded import OutOfBoundsError, bounded
from seedfast.data.text.tokenizers import chat
from seedfast.data.text.tokenizers.chat import ChatTemplate
from seedfast.errors import UserError

CHAT = [{"role": "user", "content": "a question"}]


def state() -> tuple[Any, ...]:
    return resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)


def forever() -> None:
    while True:
        pass


def test_code_without_an_end_is_stopped_and_leaves_no_bound_behind() -> None:
    before = state()
    with pytest.raises(OutOfBoundsError, match=r"within 0\.05 seconds"), bounded(seconds=0.05, size=1 << 30):
        forever()
    assert state() == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_code_may_not_take_more_memory_than_it_is_given() -> None:
    before = state()
    with pytest.raises(OutOfBoundsError, match="more than 64 MiB"), bounded(seconds=9, size=64 << 20):
        b"x" * (256 << 20)
    assert state() == before
    assert len(b"x" * (256 << 20)) == 256 << 20


def test_another_thread_is_bounded_in_memory_alone() -> None:
    found = []

    def work() -> None:
        with bounded(seconds=1, size=64 << 20):
            found.append(state()[1])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGVTALRM)]


ENDLESS = {
    "silent loops": ("{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
    "a product": ("{{ 'a' * 9999999999 }}", "memory"),
    "doubling": ("{% set n = namespace(t='a') %}{% for x in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}", "mem"),
    "a long text": ("{{ 'a' * 20000000 }}", "writes 20,000,000 characters"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_template_is_bounded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_SECONDS", 1.0)
    monkeypatch.setattr(chat, "_MEMORY", 1 << 28)
    template, message = ENDLESS[case]
    with pytest.raises(UserError, match=f"is out of bounds on row 1: .*{message}"):
        ChatTemplate(template, {}).render(CHAT, add_generation_prompt=True, name="row 1")


def test_a_template_that_calls_itself_fails_in_a_sentence() -> None:
    with pytest.raises(UserError, match="fails on row 1"):
        ChatTemplate("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", {}).render(
            CHAT, add_generation_prompt=True, name="row 1"
        )
