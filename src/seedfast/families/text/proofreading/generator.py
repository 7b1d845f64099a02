"""Generation with a proofreading model: a draft by unmasking, then passes that mask and refill doubted words."""

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Dataset
from seedfast.data.text.corpus import TextAssets
from seedfast.families.generator import State
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.proofreading.corruption import Symbols
from seedfast.families.text.proofreading.mask_bias import answer_logits
from seedfast.families.text.proofreading.sampling import ProofreadingRequest, doubted, moved
from seedfast.families.text.request import DEMO_TEXTS, Canvas
from seedfast.families.text.unmask_policy import NoiseSchedule, Policy
from seedfast.families.text.unmask_sampler import unmask
from seedfast.families.text.unmask_step import MaskedPage, MaskedVocabulary, Step


class ProofreadingGenerator(TextGenerator[ProofreadingRequest]):
    """Unmasks a draft in `steps` evaluations of the network and proofreads it in `passes` more."""

    Request = ProofreadingRequest

    def __init__(self, assets: TextAssets, symbols: Symbols, schedule: NoiseSchedule) -> None:
        super().__init__(assets)
        self.symbols, self.schedule = symbols, schedule

    def demo(self, validation: Dataset) -> ProofreadingRequest:
        """Held-out text with a gap, which is filled and then proofread."""
        return ProofreadingRequest(canvas=Canvas.with_gap(self.excerpt(validation)), num=DEMO_TEXTS)

    def fill(self, decoding: Decoding[ProofreadingRequest], canvases: list[Canvas]) -> list[list[int]]:
        """Unmask all canvases together, then proofread them."""
        request, state = decoding.request, decoding.state
        policy = Policy(request, self.schedule)

        def revise(step: Step, page: MaskedPage) -> MaskedPage:
            if step.left > request.pass_count:
                return policy.revise(step, page)
            if step.left == 0:
                return page
            return proofread(step, page, request, state, self.symbols)

        filled = unmask(
            decoding,
            canvases,
            vocabulary=MaskedVocabulary.of(self.assets, mask=self.symbols.mask),
            policy=policy,
            revise=revise,
            passes=request.pass_count,
        )
        return [self.until_end(tokens, canvas) for tokens, canvas in zip(filled, canvases, strict=True)]


def proofread(step: Step, page: MaskedPage, request: ProofreadingRequest, state: State, symbols: Symbols) -> MaskedPage:
    """The page with this pass's doubted words masked; in the version `edit`, words also move (`moved`)."""

    def special(where_N: Tensor) -> Tensor:
        return answer_logits(step.logits(where_N).double(), state, symbols).softmax(dim=-1)[:, symbols.words :]

    q_NS = step.at(torch.ones_like(page.open_BL), special)
    q_BLS = q_NS.view(*page.open_BL.shape, -1)  # the special answers alone: those of words decide nothing here
    doubt_BL = q_BLS[..., symbols.wrong - symbols.words]
    number = request.pass_count - step.left
    page = page.remask(doubted(step.page, doubt_BL, request, number, step.draws), symbols.mask)
    return moved(step.page, page, q_BLS, symbols) if symbols.version == "edit" else page


@torch.no_grad()
def self_score(network: nn.Module, tokens_BL: Tensor, state: State, symbols: Symbols) -> Tensor:
    """The mean log-probability that each of a text's words is right, according to the network itself, float64 [B].

    No measure of quality: a model is quite sure of its own repetitions, and less sure of real text.
    """
    q_BLV = answer_logits(network(tokens_BL).double(), state, symbols).softmax(dim=-1)
    return torch.log1p(-q_BLV[..., symbols.words :].sum(dim=-1).clamp(max=1 - 1e-9)).mean(dim=1)
