"""The frames of a sampler of text, made from its trace and its record."""

from collections.abc import Callable, Sequence
from statistics import fmean

from seedfast.families.film import OPEN, Cell, State, TextFilm, TextFrame, pieces
from seedfast.families.text.decoding import Evaluations
from seedfast.families.text.request import Canvas
from seedfast.families.text.written import Written

Decode = Callable[[Sequence[int]], str]


class Filming:
    """Collects the frames of every text. `trace` and `record` are the callbacks of a `Decoding`.

    on_frame: called with each frame of the first text.
    """

    def __init__(
        self,
        canvases: Sequence[Canvas],
        decode: Decode,
        evaluations: Evaluations,
        on_frame: Callable[[TextFrame], None] | None = None,
    ) -> None:
        self._fixed = [canvas.fixed_L.tolist() for canvas in canvases]
        self._tokens = [canvas.tokens_L.tolist() for canvas in canvases]
        self._decode, self._evaluations, self._on_frame = decode, evaluations, on_frame
        self._known: list[dict[int, tuple[int, float]]] = [{} for _ in canvases]  # place → token and its probability
        self._entropies: list[list[float]] = [[] for _ in canvases]
        self._before: list[Sequence[int | None]] = [[] for _ in canvases]  # tokens of the last frame, None where open
        self._frames: list[list[TextFrame]] = [[] for _ in canvases]
        self._single: dict[int, str] = {}

    def record(self, written: Written) -> None:
        """Remember the probabilities and entropies of written tokens."""
        columns = (written.rows_N, written.places_N, written.tokens_N, written.log_p_N.exp(), written.entropy_N)
        for row, place, token, p, entropy in zip(*(column.tolist() for column in columns), strict=True):
            self._known[row][place] = (token, p)
            self._entropies[row].append(entropy)

    def trace(self, row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
        """Add a frame of one text; before the first one, that of what the sampler began with."""
        if not self._frames[row]:
            size = len(tokens)
            begun = self._fixed[row][:size] + [False] * (size - len(self._fixed[row]))
            self._add(row, (self._tokens[row] + [0] * size)[:size], [not given for given in begun], 0)
        self._add(row, tokens, is_open, self._evaluations.count)

    def films(self) -> list[TextFilm]:
        """The frames of each text."""
        return [tuple(frames) for frames in self._frames]

    def _add(self, row: int, tokens: Sequence[int], is_open: Sequence[bool], evaluations: int) -> None:
        frames, fixed = self._frames[row], self._fixed[row]
        number = len(frames)
        now = [None if hole else token for token, hole in zip(tokens, is_open, strict=True)]
        before, cells_before = self._before[row], frames[-1].cells if frames else ()
        cells = []
        for place, (token, text) in enumerate(zip(now, self._texts(now), strict=True)):
            same = place < len(before) and before[place] == token
            state: State = "open" if token is None else "given" if place < len(fixed) and fixed[place] else "written"
            known = self._known[row].get(place)
            probability = known[1] if known and known[0] == token and state == "written" else None
            cells.append(Cell(text, state, cells_before[place].since if same else number, probability))
        entropies: list[float] = []
        if number:  # nothing was written before the first frame
            entropies, self._entropies[row] = self._entropies[row], []
        frame = TextFrame(number, tuple(cells), evaluations, fmean(entropies) if entropies else None)
        frames.append(frame)
        self._before[row] = now
        if self._on_frame and row == 0:
            self._on_frame(frame)

    def _texts(self, tokens: Sequence[int | None]) -> list[str]:
        """What each position adds to the text."""
        found: list[str] = []
        run: list[int] = []
        for token in [*tokens, None]:
            if token is not None:
                run.append(token)
                continue
            single = [self._alone(each) for each in run]
            prefix = (self._decode(run[: size + 1]) for size in range(len(run)))
            found += [*pieces(single, self._decode(run) if run else "", prefix), OPEN]
            run = []
        return found[:-1]

    def _alone(self, token: int) -> str:
        if token not in self._single:
            self._single[token] = self._decode([token])
        return self._single[token]
