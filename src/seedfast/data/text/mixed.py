"""A mixture of texts: each source is prepared by itself, with one tokenizer for all."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

from seedfast.console import say
from seedfast.data.dataset import Fingerprint, Mixed
from seedfast.data.joined_dataset import JoinedDataset
from seedfast.data.mixture import MixedSource, Mixture, read_mixture
from seedfast.data.mixture_order import Source
from seedfast.data.prepare import SPLITS, json_digest
from seedfast.data.text.corpus import TextCorpus
from seedfast.data.text.fields import TEXT
from seedfast.data.text.folders import Mode
from seedfast.data.text.packing import JoinedPacked, PackedDataset
from seedfast.data.text.preferences import PreferenceDataset
from seedfast.data.text.sharded_corpus import sample_of
from seedfast.data.text.shards import is_large
from seedfast.data.text.sources import TextSource
from seedfast.data.text.tokenize import learned_tokenizer
from seedfast.errors import UserError
from seedfast.files import sha256
from seedfast.user_code import named_in

if TYPE_CHECKING:
    from seedfast.data.text.config import TextData

_OPTIONS = {"field": str, "include": tuple, "exclude": tuple, "mode": str, "by_shard": bool}
"""The options of text data that a source of a mixture has for itself."""


def mixed_corpus(data: "TextData") -> TextCorpus:
    """The corpus of the mixture that `data.path` names. Raises UserError on an unusable mixture or source."""
    if data.also:
        raise UserError(f"{data.path} is a mixture, which names all of its sources: leave {data.also[0]} out.")
    data.refuse_unused(tuple(_OPTIONS), f"{data.path} is a mixture, whose sources have their own")
    mixture = read_mixture(data.path, _OPTIONS)
    given = data.given_tokenizer()
    corpora: dict[str, TextCorpus] = {}
    with named_in(mixture.file):
        configurations = {source.name: _configuration(data, mixture, source) for source in mixture.sources}
        sources = {name: each.source() for name, each in configurations.items()}
        configurations = {name: _sharded(each, sources[name]) for name, each in configurations.items()}
        tokenizer = given or learned_tokenizer(
            list(sources.values()),
            fields=[each.field or TEXT for each in configurations.values()],
            kind=data.tokenizer,
            vocabulary=data.most_tokens,
            validation=data.validation,
            samples={
                number: sample_of(each, sources[name], data.validation)
                for number, (name, each) in enumerate(configurations.items())
                if each.by_shard
            },
        )
        for name, each in configurations.items():
            corpora[name], why = each.prepared(sources[name], tokenizer, alone=False)
            if why:
                say(f"The source {name} validates nothing: {why}")
    return _joined(mixture, corpora)


def _configuration(data: "TextData", mixture: Mixture, source: MixedSource) -> "TextData":
    """The configuration of one source."""
    options: dict[str, Any] = dict(source.options)
    if options.get("mode", "auto") not in get_args(Mode):
        raise UserError(
            f"{mixture.file}: {source.name}.mode must be {', '.join(get_args(Mode))}, not {options['mode']}."
        )
    path, *also = source.paths
    return replace(data, path=path, also=tuple(also), **options)


def _sharded(data: "TextData", source: TextSource) -> "TextData":
    """The configuration with `by_shard` decided as a new run decides it."""
    if data.by_shard is not None:
        return data
    return replace(data, by_shard=data.tokenizer != "characters" and is_large(source))


def _joined(mixture: Mixture, corpora: Mapping[str, TextCorpus]) -> TextCorpus:
    """The corpora of the sources as one."""
    kinds = {name: _kind(corpus) for name, corpus in corpora.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise UserError(f"{mixture.file} mixes {found}, which are prepared in different ways: keep one kind.")
    if "preferences" in kinds.values():
        raise UserError(f"{mixture.file} mixes preferences, which a mixture cannot weigh: name them all after --data.")
    parts = list(corpora.values())
    train, validation = (_dataset([getattr(part, split) for part in parts]) for split in SPLITS)
    sizes = [len(part.train) for part in parts]
    shares = mixture.shares(sizes)
    ranges = dict(zip(corpora, validation.ranges(), strict=True))
    identity = {
        "mixture": [[name, corpus.fingerprint.digest] for name, corpus in corpora.items()],
        "steps": shares.steps,
        "shares": shares.shares_SK,
    }
    files = {
        f"{name}: {file}": digest for name, each in corpora.items() for file, digest in each.fingerprint.files.items()
    }
    return TextCorpus(
        train=train,
        validation=validation,
        assets=replace(
            parts[0].assets,
            validation_tokens=sum(part.assets.validation_tokens for part in parts),
            validation_bytes=sum(part.assets.validation_bytes for part in parts),
        ),
        fingerprint=Fingerprint(json_digest(identity), {mixture.file.name: sha256(mixture.file), **files}),
        splits={
            split: {key: sum(part.splits[split][key] for part in parts) for key in parts[0].splits[split]}
            for split in SPLITS
        },
        skipped=tuple(chain.from_iterable(part.skipped for part in parts)),
        mixed=Mixed(
            tuple(Source(name, size) for name, size in zip(corpora, sizes, strict=True)),
            shares,
            {name: ids for name, ids in ranges.items() if len(ids)},
        ),
    )


def _kind(corpus: TextCorpus) -> str:
    """The kind of the examples, for messages."""
    if isinstance(corpus.train, PreferenceDataset):
        return "preferences"
    return "chats" if isinstance(corpus.train, PackedDataset | JoinedPacked) else "texts"


def _dataset(parts: list[Any]) -> JoinedDataset:
    packed = all(isinstance(part, PackedDataset | JoinedPacked) for part in parts)
    return JoinedPacked(parts) if packed else JoinedDataset(parts)
