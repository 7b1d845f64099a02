"""Runs whose weights come from another program's checkpoint: at step 0, ready to be evaluated or trained."""

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seedfast import recipes, sealed_folder
from seedfast.data.text import tokenizers
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters, Subwords, Tokenizer
from seedfast.errors import UserError
from seedfast.families.family import FamilyConfig
from seedfast.families.text.masked import Masked, MaskedObjective
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.proofreading.family import ProofreadingObjective
from seedfast.families.text.proofreading.mask_bias import Bias
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.loop.validate import validate
from seedfast.models import import_gpt2
from seedfast.models.import_gpt2 import Imported
from seedfast.models.masked_checkpoints import special_symbols

_LARGEST_META = 1 << 24
_PADDING = 128
"""Rows that an embedding may have beyond the tokens of its tokenizer: nanoGPT rounds 50257 up to 50304."""
_TRIALS = 8
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class ImportedRun:
    """The outcome of an import. notes: what could not be checked, and what looks wrong, in sentences."""

    run: Run
    notes: tuple[str, ...]


def import_checkpoint(source: Path, folder: Path, *, data: str, tokenizer: str | None) -> ImportedRun:
    """Make a run at step 0 in `folder` from a nanoGPT checkpoint (a file) or the folder of a GPT-2.

    A checkpoint of masked diffusion becomes a run of text-masked, or of text-proofreading where it has the symbols of
    wrong words. tokenizer: "characters", "bytes", or the folder or hub name of a pretrained one; None: that of the
    folder, or else characters, whose alphabet is in a meta.pkl beside the checkpoint or the data, or is that of the
    data. Raises UserError for a checkpoint that cannot be read, and for a tokenizer that is not the checkpoint's.
    """
    if (folder / "run.yaml").exists():
        raise UserError(f"{folder} holds a run already; choose a new folder for --out.")
    model = import_gpt2.open_model(source)
    notes: list[str] = []
    text = TextData(
        path=data, tokenizer=_tokenizer(source, folder, data, tokenizer, notes), context=model.network.context
    )
    if text.tokenizer == "bpe":
        raise UserError(
            f"A tokenizer that is learned from {data} is not the one that {source} was trained with; name that one."
        )
    corpus = text.load()
    ids = _words(source, data, model, corpus.assets.tokenizer)
    name, objective, symbols = _family(model, len(ids), corpus.assets.tokenizer)
    run = replace(recipes.make(name), objective=objective, data=text, model=model.network.config)

    def initialise(network: Any) -> None:
        special = _symbol_ids(objective.build(corpus.assets).objective)
        rows = ids | {special[symbol]: theirs for symbol, theirs in symbols.items()}
        import_gpt2.copy_weights(network, model.network, rows)

    with open_session(run, folder, initialise=initialise) as session:
        notes += _doubts(session, data)
    return ImportedRun(run, tuple(notes))


def _tokenizer(source: Path, folder: Path, data: str, asked: str | None, notes: list[str]) -> str:
    """The value of `data.tokenizer`; an alphabet that is known from a meta.pkl is written into the run folder."""
    if asked is None and source.is_dir() and any((source / name).is_file() for name in _TOKENIZER_FILES):
        return str(source)
    if asked not in (None, "characters"):
        return asked
    beside = [path.parent / "meta.pkl" for path in (source, Path(data).expanduser())]
    meta = next((path for path in beside if path.is_file()), None)
    if meta is None:
        notes.append(
            f"no meta.pkl lies beside {source} or {data}, so the sorted characters of {data} are taken for those "
            "that the model was trained on; with other letters of the same number, every token would be another one."
        )
        return "characters"
    letters = Characters(_alphabet(meta))
    place = folder / "data" / f"tokenizer-{tokenizers.digest(letters)[:8]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with sealed_folder.new_folder(place) as attempt:
            TextAssets(letters, 1, validation_tokens=1, validation_bytes=1).save(attempt)
    return str(place.absolute())


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickled dicts, lists, numbers and strings; anything else, which could run code, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _alphabet(meta: Path) -> str:
    """The characters of nanoGPT's meta.pkl in the order of their ids. Raises UserError if it does not hold them."""
    try:
        if meta.stat().st_size > _LARGEST_META:
            raise UserError(f"{meta} is too large for the alphabet of a model: move it away, or name the tokenizer.")
        with meta.open("rb") as file:
            content = _PlainUnpickler(file).load()
        ids: Mapping[str, int] = content["stoi"]
        letters = sorted(ids, key=lambda letter: ids[letter])
        is_whole = [ids[letter] for letter in letters] == list(range(len(letters)))
        if not is_whole or any(not isinstance(letter, str) or len(letter) != 1 for letter in letters):
            raise ValueError("its stoi does not number single characters from 0 on")
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{meta} does not hold the alphabet of a nanoGPT model ({error}).") from None
    return "".join(letters)


def _words(source: Path, data: str, model: Imported, tokenizer: Tokenizer) -> dict[int, int]:
    """The ids of the tokens that the model knows: each is the same in the tokenizer and in the checkpoint.

    Raises UserError if the number of tokens shows that they are not the same tokens.
    """
    rows = model.network.tokens.num_embeddings
    # Tokenizers without learned merges have an end-of-text behind their tokens, which the model need not have.
    words = tokenizer.size if isinstance(tokenizer, Subwords) else tokenizer.size - 1
    if model.masked:
        return {token: token for token in range(words)}
    if words == rows or (isinstance(tokenizer, Subwords) and words < rows < words + _PADDING):
        return {token: token for token in range(words)}
    if words + 1 == rows and not isinstance(tokenizer, Subwords):  # a model that was trained here has its end-of-text
        return {token: token for token in range(rows)}
    kind = "different characters" if isinstance(tokenizer, Characters) else "tokens"
    hint = " (50257 and 50304 are the sizes of GPT-2's tokenizer: --tokenizer gpt2)" if rows in (50257, 50304) else ""
    raise UserError(
        f"{data} has {words} {kind}, but {source} was trained on {rows}, so every id would mean another token; name "
        f"the text or the tokenizer that it was trained with{hint}, or put the meta.pkl of its data beside it."
    )


def _family(model: Imported, words: int, tokenizer: Tokenizer) -> tuple[str, FamilyConfig, dict[str, int]]:
    """The recipe, its objective, and the ids of the special symbols in the checkpoint."""
    if model.masked is None:
        name = "text-autoregressive"
        return name, recipes.make(name).objective, {}
    rows, bias = model.network.tokens.num_embeddings, model.config.get("mask_logit_bias")
    exact = not isinstance(tokenizer, Subwords)
    symbols = special_symbols(model.config, size=rows, words=words, exact=exact)
    if "insert" in symbols and "delete" in symbols:
        return "text-proofreading", Proofreading(version="edit"), symbols
    if "wrong" in symbols:
        return "text-proofreading", Proofreading(version="mask-wrong"), symbols
    if isinstance(bias, int | float) and bias:
        fixed = Bias(kind="fixed", initial=float(bias))
        return "text-proofreading", Proofreading(version="mask", bias=fixed), symbols
    return "text-masked", Masked(), symbols


def _symbol_ids(objective: Any) -> dict[str, int]:
    """The ids of the special symbols of a run, by name."""
    if isinstance(objective, ProofreadingObjective):
        return {name: id_ for id_, name in objective.symbols.names.items()}
    return {"mask": objective.mask} if isinstance(objective, MaskedObjective) else {}


def _doubts(session: Session, data: str) -> list[str]:
    """A warning if the model predicts the first held-out windows worse than chance."""
    objective, validation = session.family.evaluated, session.corpus.validation
    score = validate(
        objective,
        session.state.network,
        session.state.family,
        validation,
        range(min(_TRIALS, len(validation))),
        seed=session.run.seed,
        batch_size=_TRIALS,
        draws=1,
        distributed=session.distributed,
    )
    chance = math.log(session.corpus.assets.tokenizer.size)
    if score.loss <= chance:
        return []
    return [
        f"the model scores {score.loss:.2f} nats per token on the first windows of {data}, and equal probabilities "
        f"would score {chance:.2f}: check that the text and the tokenizer are those that it was trained with."
    ]
