"""A trained model taken out of its run folder, to sample from and to measure."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from seedfast import keys
from seedfast.data.caption.dataset import CaptionAssets
from seedfast.data.dataset import Assets, Corpus, describe_difference
from seedfast.data.text import tokenizers
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError
from seedfast.evaluate.log_prob import log_prob
from seedfast.evaluate.origin import Origin
from seedfast.evaluate.sampling_options import make_request
from seedfast.families.family import Family
from seedfast.families.generator import Generator, Request, Samples, State
from seedfast.loop.config import Run
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.sample import generate
from seedfast.loop.session import data_of
from seedfast.run_folder import train_state
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.choice import Weights, is_best, run_folder_of
from seedfast.run_folder.train_state import NoLargerThan, load_network
from seedfast.user_code import named_by

if TYPE_CHECKING:
    from seedfast.evaluate.score import ScoredText


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode with its family, and the assets of its data.

    checkpoint: None for a bare model, the folder of another library's model. trust: whether the user trusts the code
    that the run folder names (see `user_code`). brought: the data to evaluate a bare model on. exported: the run that
    a bare model was exported from, if its folder tells.
    """

    run: Run
    family: Family
    assets: Assets
    network: nn.Module
    state: State
    weights: Weights
    checkpoint: Checkpoint | None
    distributed: DistributedContext
    trust: bool = False
    brought: Corpus | None = None
    exported: Origin | None = None

    @property
    def committed(self) -> Checkpoint:
        """The checkpoint. Raises UserError for a bare model, which has none."""
        if self.checkpoint is None:
            raise UserError("A bare model folder has no run, so it has no checkpoints; name a run folder.")
        return self.checkpoint

    @property
    def step(self) -> int | None:
        """The step of the weights: 0 for those that training began with, None for a bare model of unknown origin."""
        return self.came_from.step if self.came_from else None

    @property
    def came_from(self) -> Origin | None:
        """The step of the run that these weights are of; None for a bare model of unknown origin."""
        if self.checkpoint is None:
            return self.exported
        step = 0 if self.weights == "base" else self.checkpoint.step
        best = self.weights != "base" and is_best(self.checkpoint, self.weights)
        run = str(run_folder_of(self.checkpoint.folder))
        return Origin(self.weights, step, best, run, self.checkpoint.manifest.seal)

    @property
    def origin(self) -> str:
        """Which weights these are, for people: "ema weights, step 500 (best) of runs/book"."""
        if self.came_from is None:
            return "the weights of a model's own folder"
        return f"{self.came_from}{', exported' if self.checkpoint is None else ''}"

    @property
    def generator(self) -> Generator[Any]:
        """What samples are made with. Raises UserError for a family that cannot generate."""
        if self.family.generator is None:
            raise UserError(f"A model of {self.run.recipe} cannot be sampled from: its family has no generator.")
        return self.family.generator

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises UserError for a model without text."""
        if isinstance(self.assets, TextAssets | CaptionAssets):
            return self.assets.tokenizer
        raise UserError(f"A model of {self.run.recipe} has no tokenizer: it generates no text.")

    @property
    def digest(self) -> str:
        """A digest of all that a model of text computes with: weights, adaptive state, tokenizer, context."""
        assert isinstance(self.assets, TextAssets)
        groups = {"network": self.network.state_dict(), "family": self.state}
        named = f"{train_state.digest(groups)} {tokenizers.digest(self.tokenizer)} {self.assets.context}"
        return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()

    @cached_property
    def corpus(self) -> Corpus:
        """The data that the model was trained on, with its split; of a bare model, the data that it was given.

        Raises UserError if it is no longer the same data, comes from code that may not run, or for a bare model without
        data.
        """
        if self.checkpoint is None:
            if self.brought is None:
                raise UserError("A bare model folder has no data of its own: name some with --data.")
            return self.brought
        with named_by(self.committed.run_folder, trust=self.trust):
            corpus = data_of(self.run, self.committed).load()
        before = self.committed.fingerprint
        if before.digest != corpus.fingerprint.digest:
            raise UserError(
                f"The data is not what this run was trained on ({describe_difference(before, corpus.fingerprint)}), so "
                "its validation split is not either; restore the data to evaluate on it."
            )
        return corpus

    def sample(self, request: Request | None = None, *, seed: int = 1, **options: Any) -> Samples:
        """Samples, by a request or by its options: `model.sample(prompt="ROMEO:", tokens=100, temperature=0.8)`.

        Options are the flags of `seedfast sample`, with underscores. Sample i of a seed is always the same.
        Raises UserError for an unknown option, or where the request does not fit the model.
        """
        request = self._request(request, options)
        if not isinstance(seed, int):
            raise UserError(f"seed must be a whole number, not {seed!r}.")
        return generate(self.generator, self.network, self.state, request, seed=seed, distributed=self.distributed)

    def decoding(self, request: Request | None = None, **options: Any) -> str:
        """How `sample` decodes the same request, in words: its options, the defaults of the others, the network
        evaluations.

        Raises UserError for an unknown option, or where the request does not fit the model.
        """
        return self.generator.decoding(self._request(request, options))

    def _request(self, request: Request | None, options: dict[str, Any]) -> Request:
        if request is None:
            return make_request(self.generator.Request, options)
        is_request: bool = isinstance(request, self.generator.Request)
        if not is_request:
            raise UserError(f"Options of sampling are given by name, such as prompt={request!r:.40}.")
        if options:
            raise UserError("Sampling takes a request or options, not both.")
        return request

    def evaluate(self, *only: str, **options: Any) -> dict[str, Any]:
        """The numbers of `seedfast evaluate --json`: of all metrics that fit the model, or of those that are named.

        options: of the loss, such as draws=16. Raises UserError for a bare model or an unknown metric.
        """
        from seedfast.evaluate.evaluator import evaluate

        return evaluate(self, only, options).record()

    def log_prob(self, text: str | list[str], *, seed: int = 1) -> float | list[float]:
        """log p(text) in nats, of one text or of each; a lower bound where the loss is a bound.

        The end of the text is not scored. A text that is longer than the context is scored in consecutive windows, as
        the validation split is. Raises UserError for a model without a likelihood of text.
        """
        found = log_prob(self, [text] if isinstance(text, str) else text, seed=seed)
        return found[0] if isinstance(text, str) else found

    def score(self, text: str | list[str], *, seed: int = 1, **options: Any) -> "ScoredText | list[ScoredText]":
        """The exact probability of a text, or of each, token by token: `score(text).log_prob`, `.tokens`.

        Of an autoregressive model it is `log_prob`. Of masked, block and proofreading models it is that of writing the
        text by `sample(order="confidence", tokens=…)`, one token a step. options: of `sample`, such as steps=8 or
        temperature=0.8, for the likelihood under another policy. seed: of a random order.
        Raises UserError for a model without an exact likelihood of texts, or an option that does not fit it.
        """
        from seedfast.evaluate.score import score

        texts = [text] if isinstance(text, str) else text
        names = [f"Text {number + 1}" for number in range(len(texts))]
        found = score(self, texts, names, seed=seed, **options).texts
        return found[0] if isinstance(text, str) else found

    def compress(self, content: bytes) -> bytes:
        """These bytes, compressed by the model's probabilities (docs/compression.md); any bytes will do.

        Raises UserError for a model that gives no exact probability of a text.
        """
        from seedfast.evaluate.codec.codec import compress

        return compress(self, content).content

    def decompress(self, content: bytes) -> bytes:
        """The bytes that `compress` was given, by the same model on the same kind of machine.

        Raises UserError for bytes that are damaged, other weights, or another arithmetic; never returns other bytes.
        """
        from seedfast.evaluate.codec.codec import decompress

        return decompress(self, content)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.network.parameters())
        return f"<{self.run.recipe or 'model'}, {size / 1e6:.2f} M parameters, {self.origin}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(repr(self))}</code>"


def restored_assets(run: Run, checkpoint: Checkpoint) -> Assets:
    """The assets of the data in a checkpoint. Raises UserError if they cannot be read."""
    try:
        return run.data.restore(checkpoint.assets)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{checkpoint.assets} does not hold what this run's data needs ({error!r}).") from error


def load(run: Run, checkpoint: Checkpoint, *, weights: Weights | None = None, device: str = "auto") -> Trained:
    """The averaged weights of a checkpoint where there are some, else the raw ones, or those that training began with.

    Raises UserError for averaged weights of a run that keeps none, or pretrained ones of a run that had none.
    """
    if weights not in (None, *get_args(Weights)):
        raise UserError(f"weights must be {', '.join(get_args(Weights))} or None, not {weights!r}.")
    if weights == "ema" and "ema" not in checkpoint.groups:
        raise UserError("This run keeps no averaged weights (its ema.half_life is 0); leave --weights out or say raw.")
    kind: Weights = weights or ("ema" if "ema" in checkpoint.groups else "raw")
    distributed = DistributedContext.single(device, run.precision)
    assets = restored_assets(run, checkpoint)
    family = run.objective.build(assets)
    with torch.random.fork_rng():
        keys.seed_torch(run.seed, "init")
        with NoLargerThan(checkpoint):
            network = family.objective.network(run.model)
        if kind == "base":
            if not run.model.path:
                raise UserError("This run began with new weights, so it has no pretrained base to look at.")
            run.model.initialise(network)
    try:
        if kind != "base":
            load_network(network, checkpoint.network_tensors(kind))
    except ValueError as error:
        raise UserError(f"{checkpoint.folder} does not fit its own run.yaml: {error}.") from error
    adaptive = checkpoint.tensors("family").get("family", {})
    state = {name: tensor.to(distributed.device) for name, tensor in adaptive.items()}
    return Trained(run, family, assets, network.to(distributed.device).eval(), state, kind, checkpoint, distributed)
