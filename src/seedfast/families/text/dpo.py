"""Direct preference optimization (Rafailov et al. 2023): a language model learns which of two answers is preferred."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.families.family import Family, Task, Terms
from seedfast.families.generator import State
from seedfast.families.measure import Measure
from seedfast.families.text.autoregressive import (
    Autoregressive,
    AutoregressiveGenerator,
    AutoregressiveObjective,
    NextTokenTask,
    window_nats,
)
from seedfast.families.text.base import TextObjective
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.preview import TaskPreview
from seedfast.keys import Draws
from seedfast.models.causal_lm_network import CausalLMNetwork
from seedfast.options import Between, Example, MoreThan, check


@dataclass(frozen=True, kw_only=True)
class DPO:
    """Preferences between answers, against the model that training starts from."""

    beta: Annotated[float, MoreThan(0)] = 0.1
    """β of the rewards β log(π(y|x) / π_ref(y|x)): the smaller, the farther from the reference the model may go."""
    label_smoothing: Annotated[float, Between(0, 0.5, open_high=True), Example(0.2)] = 0.0
    """Probability that a preference is the wrong way round (conservative DPO, Mitchell 2023)."""

    def __post_init__(self) -> None:
        check(self, "objective.")

    def build(self, assets: TextAssets) -> Family:
        """The family for this tokenizer and context. `seedfast evaluate` measures the likelihood of chosen answers."""
        objective = DPOObjective(self, assets)
        likelihood = ChosenLikelihood(Autoregressive(), assets)
        return Family(objective, DPOGenerator(assets), likelihood=likelihood, preview=objective.preview)


@dataclass(frozen=True, kw_only=True)
class PreferenceTask(Task):
    """B pairs as 2 B answers: each chosen answer, then the rejected one."""

    answers: NextTokenTask


def preference_loss(margin_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log σ(margin) of the margins of the rewards (Rafailov et al. 2023, eq. 7), [B].

    With label smoothing ε: -(1 - ε) log σ(margin) - ε log σ(-margin) (Mitchell 2023, "A note on DPO with noisy
    preferences").
    """
    return -(1 - label_smoothing) * F.logsigmoid(margin_B) - label_smoothing * F.logsigmoid(-margin_B)


class DPOObjective(TextObjective[PreferenceTask]):
    """The logistic loss of the difference between the rewards of two answers."""

    compares_answers = True

    def __init__(self, options: DPO, assets: TextAssets) -> None:
        super().__init__(assets)
        self.options = options
        self.measure = Measure(loss_unit="logistic_loss", weight_unit="pairs", metrics={"reward_accuracy": 1})

    def network(self, model: Any) -> nn.Module:
        """A causal language model that keeps the weights it starts with as its reference.

        The reference is an adapter's base, or a frozen copy. Raises UserError for a model that is not pretrained.
        """
        network = model.build(vocabulary=self.vocabulary, context=self.assets.context, causal=True)
        if not isinstance(network, CausalLMNetwork):
            raise UserError(
                "Preferences are learned by a pretrained language model, which is the reference too; use PretrainedLM."
            )
        network.keep_reference()
        return network

    def task(self, batch: Batch, draws: Draws) -> PreferenceTask:
        """Both answers of each pair, scored behind their prompt. Draws nothing."""
        tokens_RL, scored_RL = batch["tokens"].flatten(0, 1), batch["scored"].flatten(0, 1)
        answers = NextTokenTask.of(inputs_BL=tokens_RL[:, :-1], targets_BL=tokens_RL[:, 1:], scored_BL=scored_RL)
        return PreferenceTask(weight_B=torch.ones(len(batch["tokens"]), dtype=torch.int64), answers=answers)

    def loss(self, network: nn.Module, task: PreferenceTask, state: State) -> Terms:
        """-log σ(r(chosen) - r(rejected)) with r = β (log π(y|x) - log π_ref(y|x)), of each pair.

        Diagnostics are means over pairs: both rewards and their margin, the part of pairs with a positive margin, and
        log π of both answers.
        """
        reference_R = -window_nats(network, task.answers, reference=True)[0]
        log_prob_R = -window_nats(network, task.answers)[0]
        rewards_B2 = self.options.beta * (log_prob_R - reference_R).view(-1, 2)
        margin_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        log_prob_B2 = log_prob_R.detach().view(-1, 2)
        means = {
            "chosen_reward": rewards_B2[:, 0],
            "rejected_reward": rewards_B2[:, 1],
            "reward_margin": margin_B,
            "reward_accuracy": margin_B > 0,
            "chosen_log_prob": log_prob_B2[:, 0],
            "rejected_log_prob": log_prob_B2[:, 1],
        }
        return Terms(
            total_B=preference_loss(margin_B, self.options.label_smoothing),
            diagnostics={name: _mean(values_B) for name, values_B in means.items()},
        )

    def preview(self, batch: Batch, task: PreferenceTask) -> list[TaskPreview]:
        """Each pair as its prompt, the chosen answer (green) and the rejected one (red)."""
        scored_BL = F.pad(batch["scored"], (1, 0))
        found = []
        for tokens_2L, scored_2L, documents_2L in zip(batch["tokens"], scored_BL, batch["documents"], strict=True):
            is_prompt_L = ~scored_2L[0] & (documents_2L[0] == 0)
            parts = [(tokens_2L[0, is_prompt_L], "word")]
            parts += [(tokens_2L[i, scored_2L[i]], kind) for i, kind in enumerate(("filled", "changed"))]
            shown = [span for ids, kind in parts for span in self.spans(ids.tolist(), [kind] * len(ids))]
            found.append(TaskPreview(source=shown))
        return found


def _mean(values_B: Tensor) -> Tensor:
    """A diagnostic that is averaged over pairs: the pair (sum, weight)."""
    values_B = values_B.detach().double()
    return torch.stack([values_B.sum(), torch.ones_like(values_B).sum()])


class ChosenLikelihood(AutoregressiveObjective):
    """The likelihood of the chosen answers, or of any text."""

    compares_answers = True

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        """The chosen answer of each pair; a window of text as it is."""
        return super().task(_chosen(batch), draws)


class DPOGenerator(AutoregressiveGenerator):
    """Answers prompts."""

    def demo(self, validation: Dataset) -> AutoregressiveRequest:
        """A held-out prompt, to be answered."""
        return super().demo(_Chosen(validation))


@dataclass(frozen=True)
class _Chosen:
    """The chosen answers of pairs."""

    pairs: Dataset

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, ids: list[int]) -> Batch:
        """The chosen answers of these pairs, with their prompts."""
        return _chosen(self.pairs.batch(ids))


def _chosen(batch: Batch) -> Batch:
    return {name: tensor[:, 0] if batch["tokens"].ndim == 3 else tensor for name, tensor in batch.items()}
