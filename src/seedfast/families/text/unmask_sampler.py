"""Generation by filling [MASK]s, for every family whose network sees both sides: in parallel steps, in any order.

Which positions are decided never depends on the tokens that are about to be drawn, so a draw of one position at a time
follows the chain rule exactly.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.config import TextAssets
from seedfast.errors import UserError
from seedfast.families.text.base import TextFamily
from seedfast.families.text.categorical import draw, shape
from seedfast.families.text.positions import first
from seedfast.families.text.request import Canvas, Show, TextRequest, at_least_one
from seedfast.keys import Draws

NoiseSchedule = Literal["linear", "cosine", "polynomial"]


def alpha(schedule: str, t: Tensor) -> Tensor:
    """The probability that a token is still visible at time t in [0, 1]: 1 at t = 0, 0 at t = 1."""
    match schedule:
        case "linear":
            return 1 - t
        case "cosine":
            return 1 - torch.cos(math.pi / 2 * (1 - t))
        case "polynomial":
            return 1 - t**2
    raise ValueError(f"no noise schedule is called {schedule}")


@dataclass(frozen=True, kw_only=True)
class MaskedRequest(TextRequest):
    """What is wanted of a masked diffusion model."""

    steps: int | None = None
    """Parallel decoding steps (default: one for each token)."""
    order: Literal["random", "confidence", "ancestral"] = "random"
    """Which positions are decided first."""
    remdm: float = 0.0
    """Strength η of remasking (ReMDM): each step hides some of what is written, to be written anew; 0 hides nothing."""
    remdm_rule: Literal["rescale", "cap"] = "rescale"
    """`rescale` hides η of the most that is possible, `cap` no more than η."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps)
        if not 0 <= self.remdm <= 1:
            raise UserError(f"remdm must lie in [0, 1], not {self.remdm}.")
        if self.remdm and (self.order != "ancestral" or self.steps is None):
            raise UserError("--remdm goes with --order ancestral and a number of --steps.")
        if not self.remdm and self.remdm_rule != "rescale":
            raise UserError("--remdm-rule has no meaning without --remdm.")


class Options(Protocol):
    """The options that generation depends on."""

    @property
    def schedule(self) -> NoiseSchedule:
        """How many tokens each step decides."""
        ...

    @property
    def document_mask(self) -> bool:
        """Whether tokens see only their own document."""
        ...


class Unmasking(TextFamily):
    """A family that reads [MASK] where a word is missing. Its network's first V outputs are the words."""

    mask: int
    """The id of [MASK], an input symbol."""

    def __init__(self, options: Options, assets: TextAssets) -> None:
        super().__init__(assets)
        self.schedule, self.document_mask = options.schedule, options.document_mask

    def documents(self, batch: Batch) -> Tensor | None:
        """Which document of its window each token is of: an end-of-text still belongs to the one that it ends.

        None where tokens see the whole window.
        """
        if not self.document_mask:
            return None
        if "documents" in batch:
            return batch["documents"][:, 1:]
        ends_BL = batch["tokens"][:, 1:] == self.end_of_text
        return ends_BL.cumsum(dim=1) - ends_BL.long()

    def showcase(self, validation: Dataset) -> MaskedRequest:
        """Held-out text with a gap of up to twenty tokens in its middle."""
        tokens_L = self.excerpt(validation)
        gap = max(1, min(20, len(tokens_L) // 4))
        start = (len(tokens_L) - gap) // 2
        given_L = torch.ones_like(tokens_L, dtype=torch.bool)
        given_L[start : start + gap] = False
        return MaskedRequest(canvas=Canvas(tokens_L, given_L))

    @torch.no_grad()
    def fill(
        self,
        network: nn.Module,
        canvases: list[Canvas],
        request: MaskedRequest,
        draws: Draws,
        show: Show | None,
    ) -> list[list[int]]:
        """Unmask the open positions in `steps` parallel steps: which ones first, then their tokens from q.

        order "random" decides a fixed number of random positions in each step and "confidence" those whose likeliest
        token is likeliest; with one token a step both draw exactly from the model (identity 7). "ancestral" is MDLM's
        reverse process, in which each position is decided at a time of its own. A family may also go back over what it
        has written (`revised`), for which it may ask for more evaluations of the network.
        """
        device = draws.positions_B.device
        tokens_BL, open_BL, real_BL = self._start(canvases, device)
        writable_BL, count_B = open_BL, open_BL.sum(dim=1)
        steps = request.steps or int(count_B.max())
        evaluations = self.evaluations(request, steps)
        may_end_B = torch.tensor([not canvas.is_infill for canvas in canvases], device=device)
        padding_BL = None if bool(real_BL.all()) else real_BL
        for step in range(evaluations):
            logits_BLV = network(tokens_BL, real_BL=padding_BL).double()
            probabilities_BLV = self._words(logits_BLV, may_end_B, request)
            hidden = self._hidden(request, min(1.0, (step + 1) / steps))
            now_BL = self._decided(open_BL, count_B, hidden, probabilities_BLV, request, draws, step)
            u_BL = draws.at(step).uniform("token", tokens_BL.shape[1], dtype=torch.float64)
            before = Page(tokens_BL, open_BL, writable_BL)
            after = Page(torch.where(now_BL, draw(probabilities_BLV, u_BL), tokens_BL), open_BL & ~now_BL, writable_BL)
            page = self.revised(before, after, logits_BLV, request, draws.at(step), step, evaluations - 1 - step)
            tokens_BL, open_BL = page.tokens_BL, page.open_BL
            if show:
                for row, canvas in enumerate(canvases):
                    size = len(canvas.tokens_L)
                    show(row, tokens_BL[row, :size].tolist(), open_BL[row, :size].tolist())
        assert not bool(open_BL.any()), "a position was left open"
        filled = [tokens_BL[row, : len(canvas.tokens_L)].tolist() for row, canvas in enumerate(canvases)]
        return [
            tokens if canvas.is_infill else self.until_end(tokens, canvas)
            for tokens, canvas in zip(filled, canvases, strict=True)
        ]

    def evaluations(self, request: MaskedRequest, steps: int) -> int:
        """How often the network is asked, if gaps are to be filled in so many steps."""
        return steps

    def revised(
        self,
        before: "Page",
        after: "Page",
        logits_BLV: Tensor,
        request: MaskedRequest,
        draws: Draws,
        step: int,
        left: int,
    ) -> "Page":
        """What becomes of a page on which gaps have just been filled; nothing may be open when none is `left`.

        ReMDM (Wang et al. 2025, "Remasking Discrete Diffusion Models with Inference-Time Scaling", equation 7): each
        written token is hidden again with probability σ. The share of hidden tokens stays that of the noise schedule,
        for as many more are written (`_decided`).
        """
        if not request.remdm:
            return after
        sigma = self._sigma(request, step)
        hides_BL = draws.uniform("remdm", before.tokens_BL.shape[1], dtype=torch.float64) < sigma
        return after.hide(before.written & hides_BL, self.mask)

    def _sigma(self, request: MaskedRequest, step: int) -> float:
        """ReMDM's σ: at most min(1, (1 - α_s) / α_t), or more would be hidden than the schedule allows."""
        assert request.steps is not None
        visible, still_hidden = (
            1 - self._hidden(request, step / request.steps),
            self._hidden(request, (step + 1) / request.steps),
        )
        most = min(1.0, still_hidden / visible) if visible else 1.0
        return request.remdm * most if request.remdm_rule == "rescale" else min(request.remdm, most)

    def _words(self, logits_BLV: Tensor, may_end_B: Tensor, request: MaskedRequest) -> Tensor:
        """The distribution over words at each position: no special symbol is ever drawn."""
        logits_BLV = logits_BLV[..., : self.vocabulary].clone()
        self.forbid(logits_BLV)
        # An infilled text goes on after its gaps, so it cannot end inside one.
        logits_BLV[..., self.end_of_text].masked_fill_(~may_end_B.unsqueeze(1), -torch.inf)
        return shape(logits_BLV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)

    def _start(self, canvases: list[Canvas], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Canvases as one batch: tokens with [MASK], which are open, and which are real (padding is on the right)."""
        length = max(len(canvas.tokens_L) for canvas in canvases)
        tokens_BL = torch.full((len(canvases), length), self.end_of_text, dtype=torch.int64)
        open_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
        real_BL = torch.zeros_like(open_BL)
        for row, canvas in enumerate(canvases):
            size = len(canvas.tokens_L)
            tokens_BL[row, :size] = canvas.tokens_L.masked_fill(~canvas.given_L, self.mask)
            open_BL[row, :size] = ~canvas.given_L
            real_BL[row, :size] = True
        return tokens_BL.to(device), open_BL.to(device), real_BL.to(device)

    def _hidden(self, request: MaskedRequest, progress: float) -> float:
        """The share of open positions that are still hidden after this much of the steps; 0 at the end.

        Without a number of steps each decides one token, whatever the schedule.
        """
        if progress == 1:
            return 0.0
        schedule = self.schedule if request.steps else "linear"
        return float(1 - alpha(schedule, torch.tensor(1 - progress, dtype=torch.float64)))

    def _decided(
        self,
        open_BL: Tensor,
        count_B: Tensor,
        hidden: float,
        probabilities_BLV: Tensor,
        request: MaskedRequest,
        draws: Draws,
        step: int,
    ) -> Tensor:
        """Which open positions are decided in this step.

        That never depends on the tokens that are about to be drawn, so a draw of one position at a time follows the
        chain rule.
        """
        length = open_BL.shape[1]
        if request.remdm:
            return open_BL & (draws.at(step).uniform("time", length, dtype=torch.float64) < self._share(request, step))
        if request.order == "ancestral":
            # The reverse process: each position has its own time, and is decided when the steps have passed it.
            return open_BL & (draws.uniform("time", length, dtype=torch.float64) >= hidden)
        if request.order == "confidence":
            priority_BL = probabilities_BLV.amax(dim=-1)
        else:
            priority_BL = draws.at(step).uniform("position", length, dtype=torch.float64)
        take_B = open_BL.sum(dim=1) - (count_B * hidden).round().long()
        return first(-priority_BL, open_BL, take_B)

    def _share(self, request: MaskedRequest, step: int) -> float:
        """The share of hidden tokens that ReMDM writes: (α_s - (1 - σ) α_t) / (1 - α_t)."""
        assert request.steps is not None
        if step >= request.steps:
            return 1.0
        before, after = (self._hidden(request, at / request.steps) for at in (step, step + 1))
        return (1 - after - (1 - self._sigma(request, step)) * (1 - before)) / before


@dataclass(frozen=True)
class Page:
    """A batch of texts that are being written: their tokens, which are open, and which may be written on at all."""

    tokens_BL: Tensor
    open_BL: Tensor
    writable_BL: Tensor

    @property
    def written(self) -> Tensor:
        """What the model itself has written."""
        return self.writable_BL & ~self.open_BL

    def hide(self, where_BL: Tensor, mask: int) -> "Page":
        """The page with these positions open again."""
        return replace(self, tokens_BL=self.tokens_BL.masked_fill(where_BL, mask), open_BL=self.open_BL | where_BL)
