"""Several sources as one: their documents one after the other."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from seedfast.data.text.sources import Document, SourceRow, TextSource


@dataclass(frozen=True)
class JoinedSource(TextSource):
    """The documents of several sources. Each source's keys are its own, so the same number twice is two documents."""

    sources: tuple[TextSource, ...]

    @property
    def contents(self) -> dict[str, str]:
        """SHA-256 of each file by the number of its source and its name."""
        return {
            f"{number}:{name}": digest
            for number, source in enumerate(self.sources, 1)
            for name, digest in source.contents.items()
        }

    @property
    def has_plain_texts(self) -> bool:
        return any(source.has_plain_texts or source.is_one_text for source in self.sources)

    def check_unchanged(self) -> None:
        for source in self.sources:
            source.check_unchanged()

    @property
    def has_split(self) -> bool:
        return all(source.has_split for source in self.sources)

    def first_row(self) -> SourceRow | None:
        return next((row for source in self.sources if (row := source.first_row())), None)

    def documents(self) -> Iterator[Document]:
        for number, source in enumerate(self.sources, 1):
            for document in source.documents():
                yield replace(document, key=f"{number}:{document.key}")

    def rows(self, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
        return chain.from_iterable(source.rows(columns) for source in self.sources)


def joined(sources: Sequence[TextSource]) -> TextSource:
    """The sources as one."""
    first, *others = sources
    if not others:
        return first
    title = " and ".join(source.title for source in sources)
    skipped = tuple(each for source in sources for each in source.skipped)
    return JoinedSource(title, first.root, (), skipped=skipped, sources=tuple(sources))
