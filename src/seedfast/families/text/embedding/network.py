"""The network of embedding diffusion: token embeddings, their noise schedule, and a transformer that denoises them.

Shapes: B batch, L window, P prompt, N = P + L where the prompt is a prefix (else L), V vocabulary, D channels of an
embedding, W width of the transformer.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.diffusion.levels import NoiseLevel, add_noise, from_gamma, match_dims
from seedfast.diffusion.parameterisation import Prediction, to_x0
from seedfast.families.text.embedding import noise_schedule as schedules

Reading = Literal["prefix", "cross"]


@dataclass(frozen=True)
class Answer:
    """What the network says of noisy embeddings.

    estimate_BLD: the expected clean embeddings. logits_BLV: which tokens they are.
    """

    estimate_BLD: Tensor
    logits_BLV: Tensor


@dataclass(frozen=True)
class Bound:
    """Everything that a bound of -log p(text) is made of.

    x0_BLD: the clean embeddings. answer: about z at time t. level, slope_B: t's noise level and dγ/dt.
    decoded_BLV: log p(x | z₀). prior: KL(q(z₁|x) ‖ N(0, I)) of each token. length_B: -log p(how many tokens), where
    windows are not always full. surprise_B: of a learned schedule.
    """

    x0_BLD: Tensor
    answer: Answer
    level: NoiseLevel
    slope_B: Tensor
    decoded_BLV: Tensor
    prior: Tensor
    length_B: Tensor | None
    surprise_B: Tensor | None


class EmbeddingNetwork(nn.Module):
    """A transformer that reads symbols and noisy vectors and answers with distributions over tokens, or vectors.

    A position's symbol is its token where that is given, `open` where its embedding is noisy, and `withheld` for a
    condition that is missing: the learned null prompt.
    """

    def __init__(
        self,
        model: Any,
        *,
        vocabulary: int,
        context: int,
        prompt: int,
        reading: Reading,
        channels: int,
        schedule: schedules.Kind,
        prediction: Prediction | Literal["tokens"],
        self_conditioned: bool,
        ragged: bool = False,
    ) -> None:
        super().__init__()
        self.vocabulary, self.context, self.prediction = vocabulary, context, prediction
        self.open, self.withheld = vocabulary, vocabulary + 1
        self.prompt = prompt
        is_cross = reading == "cross" and prompt > 0
        outputs = vocabulary if prediction == "tokens" else channels
        self.transformer = model.build(
            vocabulary=vocabulary + 2,
            outputs=vocabulary + 2 if model.tied and prediction == "tokens" else outputs,
            context=context if is_cross else prompt + context,
            causal=False,
            time_conditioned=True,
            memory_width=model.width if is_cross else None,
        )
        self.outputs = outputs
        self.vectors = nn.Embedding(vocabulary, channels)
        self.frequency = nn.Parameter(torch.zeros(vocabulary))
        self.lengths = nn.Parameter(torch.zeros(context)) if ragged else None
        self.schedule = schedules.build(schedule)
        self.read = nn.Linear(channels, model.width, bias=False)
        self.recall = nn.Linear(channels, model.width, bias=False) if self_conditioned else None
        self.places = nn.Embedding(prompt, model.width) if is_cross else None
        for linear in (self.read, self.recall):
            if linear is not None:
                nn.init.normal_(linear.weight, std=channels**-0.5)

    def get_output_embeddings(self) -> nn.Linear:
        """The output layer, by the name that transformers gives it."""
        head: nn.Linear = self.transformer.head
        return head

    def embeddings(self) -> Tensor:
        """All embeddings, [V, D], each of length √D: a channel's mean square is 1, which is what a schedule assumes.

        Of one length they can neither shrink under the noise nor outgrow it.
        """
        embeddings_VD: Tensor = F.normalize(self.vectors.weight, dim=1) * self.vectors.embedding_dim**0.5
        return embeddings_VD

    def forward(
        self,
        targets_BL: Tensor,
        symbols_BN: Tensor,
        noise_BLD: Tensor,
        time_B: Tensor,
        twice_B: Tensor,
        real_BN: Tensor,
    ) -> Bound:
        """Noise the embeddings of texts to times t and answer.

        twice_B: where the answer may build on a first one (self-conditioning, Chen et al. 2023, "Analog Bits").
        real_BN: false at padding.
        """
        with torch.autocast(noise_BLD.device.type, enabled=False):
            vectors_VD = self.embeddings()
            x0_BLD = F.embedding(targets_BL, vectors_VD)
            gamma_B, slope_B = self.schedule(time_B)
            level = from_gamma(gamma_B, time_B)
            z_BLD = add_noise(x0_BLD, noise_BLD, level)
            edges = self.schedule(torch.tensor([0.0, 1.0], dtype=torch.float64, device=time_B.device))[0]
            # One noise serves both times: each expectation is taken by itself.
            first = from_gamma(edges[0], edges[0])
            decoded_BLV = self.decode(add_noise(x0_BLD, noise_BLD, first), first)
        size_B = real_BN[:, self.prompt :].sum(dim=1)
        # Without padding no mask is needed, and attention has a faster kernel.
        seen_BN = None if self.lengths is None or bool(real_BN.all()) else real_BN
        recalled_BLD = self._recalled(z_BLD, symbols_BN, level, twice_B, seen_BN)
        return Bound(
            x0_BLD=x0_BLD,
            answer=self.answer(z_BLD, symbols_BN, level, recalled_BLD, seen_BN),
            level=level,
            slope_B=slope_B,
            decoded_BLV=decoded_BLV,
            prior=schedules.prior_kl(edges[1], vectors_VD.shape[1]),
            length_B=None if self.lengths is None else -self.lengths.log_softmax(dim=0)[size_B - 1],
            surprise_B=self.schedule.surprise(time_B) if isinstance(self.schedule, schedules.Learned) else None,
        )

    @torch.no_grad()
    def _recalled(
        self, z_BLD: Tensor, symbols_BN: Tensor, level: NoiseLevel, twice_B: Tensor, real_BN: Tensor | None = None
    ) -> Tensor:
        """A first estimate where it is asked for, and zero elsewhere. No gradient flows through it."""
        recalled_BLD = torch.zeros_like(z_BLD)
        if bool(twice_B.any()):
            there = NoiseLevel(level.a[twice_B], level.s[twice_B], level.time[twice_B])
            seen_BN = None if real_BN is None else real_BN[twice_B]
            first = self.answer(z_BLD[twice_B], symbols_BN[twice_B], there, real_BN=seen_BN)
            recalled_BLD[twice_B] = first.estimate_BLD
            torch.clear_autocast_cache()  # of weights that were cast where nothing could be differentiated
        return recalled_BLD

    def answer(
        self,
        z_BLD: Tensor,
        symbols_BN: Tensor,
        level: NoiseLevel,
        recalled_BLD: Tensor | None = None,
        real_BN: Tensor | None = None,
    ) -> Answer:
        """What the clean embeddings are, given noisy ones at open positions and symbols everywhere.

        recalled_BLD: an earlier estimate, zero or None where there is none. real_BN: false at padding.
        """
        # Where a token is given there is nothing else to see: in sampling, the vectors there mean nothing.
        open_BL1 = (symbols_BN[:, self.prompt :] == self.open).unsqueeze(2)
        with torch.autocast(z_BLD.device.type, enabled=False):
            evidence_BLV = self.evidence(z_BLD, level)
            alone_BLV = (evidence_BLV + self.frequency).softmax(dim=-1)
        # A noisy token is read as the tokens that it may be by itself, through the table of those that are given.
        x_BLW = torch.where(open_BL1, alone_BLV @ self.transformer.tokens.weight[: self.vocabulary], 0)
        x_BLW = x_BLW + self.read(torch.where(open_BL1, z_BLD, 0))
        if self.recall is not None and recalled_BLD is not None:
            x_BLW = x_BLW + self.recall(torch.where(open_BL1, recalled_BLD, 0))
        x_BNW = self.transformer.tokens(symbols_BN)
        memory_BPW = None
        if self.places is not None:
            memory_BPW, x_BNW = x_BNW[:, : self.prompt] + self.places.weight, x_BNW[:, self.prompt :]
            real_BN = None if real_BN is None else real_BN[:, self.prompt :]
        x_BNW = x_BNW + F.pad(x_BLW, (0, 0, x_BNW.shape[1] - x_BLW.shape[1], 0))
        time_B = schedules.angle(level).to(z_BLD.device).expand(len(z_BLD))
        y_BNO = self.transformer(embeddings_BLD=x_BNW, time_B=time_B, memory_BMD=memory_BPW, real_BL=real_BN)
        y_BLO = y_BNO[:, -z_BLD.shape[1] :, : self.outputs].to(z_BLD.dtype)
        with torch.autocast(z_BLD.device.type, enabled=False):
            if self.prediction == "tokens":
                logits_BLV = y_BLO + evidence_BLV
                return Answer(self.mean(logits_BLV.softmax(dim=-1)), logits_BLV)
            estimate_BLD = to_x0(self.prediction, y_BLO, z_BLD, level)
            return Answer(estimate_BLD, estimate_BLD @ self.embeddings().T)

    def evidence(self, z_BLD: Tensor, level: NoiseLevel) -> Tensor:
        """log N(z; a E_v, s² I) of every token v, but for what all tokens share: a/s² · z·E_v, [B, L, V].

        Added to the network's logits it makes them a posterior, by Bayes' rule, of which the network has to know only
        what the other positions say (the "output prior" of Gulrajani & Hashimoto 2023, section 3.2).
        """
        return match_dims(level.a / level.s.square(), z_BLD) * (z_BLD @ self.embeddings().T)

    def decode(self, z_BLD: Tensor, level: NoiseLevel) -> Tensor:
        """log p(x | z₀), each token by itself: the posterior from its own evidence and how frequent it is."""
        return (self.evidence(z_BLD, level) + self.frequency).log_softmax(dim=-1)

    def mean(self, probabilities_BLV: Tensor) -> Tensor:
        """The expected embedding, [B, L, D]."""
        embeddings_VD = self.embeddings()
        return probabilities_BLV.to(embeddings_VD.dtype) @ embeddings_VD
