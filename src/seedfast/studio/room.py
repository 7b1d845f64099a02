"""The model room: it loads a run's model once, describes what can be asked of it, and samples from it."""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seedfast import api
from seedfast.console import silenced
from seedfast.errors import UserError
from seedfast.evaluate.conversation import Conversation
from seedfast.evaluate.sampling_options import make_request
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.generator import CaptionGenerator
from seedfast.families.caption.samples import CaptionSamples, picture_of
from seedfast.families.film import Film, TextFrame
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.chat import template_of
from seedfast.report.animation.page import film_data, page
from seedfast.report.animation.picture import animation
from seedfast.studio.jobs import Emit
from seedfast.studio.options import described
from seedfast.studio.runs import MEDIA, UnknownError

_LOADED, _KEPT = 2, 16
"""The most models, and the most results, that are kept."""
_MOST, _MOST_SAMPLES = 4096, 64
"""The largest whole number among the options, and the most samples of a request."""
_MOST_OF = {"num": _MOST_SAMPLES, "top_k": 2**63 - 1, "to_seed": 2**63 - 1}
"""The largest whole numbers of the options that have another one."""
_PICTURES = ("image", "inpaint", "mask")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Result:
    """Samples that can be downloaded: their animation and their files."""

    title: str
    facts: list[str]
    films: list[Film]
    files: dict[str, bytes]


class Room:
    """Models and results. All methods but `file`, `html` and `gif` are called by one thread at a time."""

    def __init__(self, path_of: Callable[[str], Path], *, device: Any = "auto", trust: bool = False) -> None:
        self._path_of, self._device, self._trust = path_of, device, trust
        self._models: OrderedDict[tuple[Any, ...], Trained] = OrderedDict()
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._number = 0

    def describe(self, run: str) -> dict[str, Any]:
        """What can be asked of the model of a run. Raises UserError for a run without a model that samples."""
        model = self._model(run)
        generator, assets = model.generator, model.assets
        found: dict[str, Any] = {
            "kind": _kind(generator), "origin": model.origin, "options": described(generator.Request), "demo": "",
            "classes": list(getattr(assets, "classes", ())), "size": getattr(assets, "size", None), "chats": False,
        }  # fmt: skip
        if isinstance(generator, TextGenerator):
            found["chats"] = template_of(model.tokenizer) is not None
            found["context"] = generator.context
        return found

    def count(self, run: str, text: str) -> int:
        """The tokens of a text. Raises UserError for a character that the model has no token for."""
        return len(self._model(run).tokenizer.encode(text))

    def sample(self, run: str, asked: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """Samples of a request, and how they came about. Raises UserError for a request that does not fit the model.

        asked: `seed`, `options` by name, and pictures as base64 by the name of their option. The frames of the first
        text are emitted while it is written.
        """
        model, seed = self._model(run), _seed(asked)
        with TemporaryDirectory() as place:
            try:
                request = _request(model, asked, Path(place), emit)
                with silenced():
                    samples: Any = model.sample(request, seed=seed)
                facts = [fact for fact in (model.origin, model.decoding(request), f"seed {seed}") if fact]
            except UserError as error:
                raise UserError(error.reason.replace(f"{place}/", "")) from None
            text = str(samples).replace(f"{place}/", "")
        films = list(samples.films)
        files = {name: content for name, content in samples.files().items() if Path(name).suffix in MEDIA}
        attention = _attention(samples, files) if isinstance(samples, CaptionSamples) else None
        key = self._keep(Result(model.run.recipe or "Samples", facts, films, files))
        return {
            "result": key,
            "facts": facts,
            "films": [film_data(film) for film in films],
            "files": list(files),
            "text": text,
            "attention": attention,
        }

    def chat(self, run: str, asked: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """The answer to the last message of a chat, whose pieces are emitted. Raises UserError."""
        model = self._model(run)
        system, messages, text = asked.get("system"), asked.get("messages", []), asked.get("text")
        answers = asked.get("answers", 0)
        if not isinstance(text, str) or not text.strip():
            raise UserError("There is no message to answer: write one.")
        if not _is_chat(messages) or not isinstance(system, str | None) or type(answers) is not int:
            raise UserError("The chat is malformed: begin a new one.")
        request = make_request(model.generator.Request, _options(asked))
        talk = Conversation(model, request, system or None, _seed(asked), [*messages], answers)
        answer = talk.answer(
            text,
            on_text=lambda piece: emit({"piece": piece}),
            on_frame=lambda frame: emit({"text": frame.after(_given(frame)).text, "status": frame.status}),
        )
        return {"answer": answer.text, "messages": talk.messages, "answers": talk.answers}

    def file(self, key: str, name: str) -> tuple[bytes, str]:
        """A file of a result, and its media type. Raises UnknownError."""
        result = self._result(key)
        if name not in result.files:
            raise UnknownError(f"The samples have no file {name!r:.80}.")
        return result.files[name], MEDIA[Path(name).suffix]

    def html(self, key: str) -> bytes:
        """The animation of a result as one HTML file. Raises UnknownError."""
        result = self._filmed(key)
        return page(result.title, result.facts, result.films).encode()

    def gif(self, key: str) -> bytes:
        """The animation of a result as a GIF. Raises UnknownError."""
        return animation(self._filmed(key).films)

    def _filmed(self, key: str) -> Result:
        result = self._result(key)
        if not result.films:
            raise UnknownError("These samples have no animation.")
        return result

    def _result(self, key: str) -> Result:
        if key not in self._results:
            raise UnknownError("These samples are no longer kept: generate them again.")
        return self._results[key]

    def _keep(self, result: Result) -> str:
        self._number += 1
        key = f"{self._number:06d}"
        self._results[key] = result
        if len(self._results) > _KEPT:
            self._results.popitem(last=False)
        return key

    def _model(self, run: str) -> Trained:
        """The best model of a run, loaded again when there is a better one."""
        path = self._path_of(run)
        pointers = (path / name for name in ("best.json", "latest.json"))
        key = (run, *(file.stat().st_mtime_ns if file.exists() else 0 for file in pointers))
        if key not in self._models:
            for old in [each for each in self._models if each[0] == run]:
                del self._models[old]
            while len(self._models) >= _LOADED:
                self._models.popitem(last=False)
            self._models[key] = api.load(path, device=self._device, trust=self._trust)
        self._models.move_to_end(key)
        return self._models[key]


def _kind(generator: Any) -> str:
    if isinstance(generator, TextGenerator):
        return "text"
    return "caption" if isinstance(generator, CaptionGenerator) else "image"


def _seed(asked: Mapping[str, Any]) -> int:
    seed = asked.get("seed", 1)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise UserError(f"seed must be a whole number from 0, not {seed!r:.40}.")
    return seed


def _options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request, none of which asks for absurdly many evaluations. Raises UserError."""
    options = asked.get("options", {})
    if not isinstance(options, dict):
        raise UserError("options must be a JSON object.")
    for name, value in options.items():
        most = _MOST_OF.get(name, _MOST)
        if type(value) is int and value > most:
            raise UserError(f"{name} is {value!r:.40}, and the studio takes {most} at most.")
        if isinstance(value, list) and len(value) > _MOST_SAMPLES:
            raise UserError(f"{name} has {len(value)} values, and the studio takes {_MOST_SAMPLES} at most.")
    return dict(options)


def _request(model: Trained, asked: Mapping[str, Any], place: Path, emit: Emit) -> Any:
    """The request, whose pictures are written into a folder, with its frames kept where the family has some."""
    kind = model.generator.Request
    known = {f.name for f in fields(kind)}
    options = _options(asked)
    for name in _PICTURES:
        if name in options:  # a path of this machine
            raise UserError(f"{name} is sent as a picture, not as the name of a file.")
        if content := asked.get(name):
            options[name] = _written(content, place / name)
    request: Any = make_request(kind, options)
    if "attention" in known:
        return replace(request, attention=True)
    if "trace" in known:
        request = replace(request, trace=True)
    if "on_frame" in known:
        request = replace(request, on_frame=_Sending(emit))
    return request


def _written(content: Any, path: Path) -> Path:
    try:
        path.write_bytes(base64.b64decode(content, validate=True))
    except (TypeError, ValueError, binascii.Error):
        raise UserError(f"The picture {path.name} is not base64.") from None
    return path


class _Sending:
    """Emits the frames of a text as the changes from one to the next."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._before: list[TextFrame] = []

    def __call__(self, frame: TextFrame) -> None:
        self._before = [*self._before[-1:], frame]
        self._emit({"frame": film_data(tuple(self._before))["frames"][-1]})


def _attention(samples: CaptionSamples, files: dict[str, bytes]) -> dict[str, Any] | None:
    """The attention of the first caption's tokens to parts of the picture, which becomes one of the files."""
    maps = samples.captions[0][0].attention
    if maps is None:
        return None
    files["seen.png"] = picture_of(samples.images, 0)
    weights = [[[round(value, 5) for value in row] for row in grid] for grid in maps.weights_LHW.tolist()]
    return {"tokens": list(maps.tokens), "weights": weights}


def _is_chat(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(each, dict)
        and each.keys() == {"role", "content"}
        and each["role"] in _ROLES
        and isinstance(each["content"], str)
        for each in messages
    )


def _given(frame: TextFrame) -> int:
    """The number of cells at the start of a frame that are part of the request."""
    return next((place for place, cell in enumerate(frame.cells) if cell.state != "given"), len(frame.cells))
