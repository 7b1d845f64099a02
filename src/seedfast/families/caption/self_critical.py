"""Self-critical training: REINFORCE on the CIDEr-D of sampled captions.

Luo 2020, "A Better Variant of Self-Critical Sequence Training". Shapes: B images, K samples of each, P = B · K,
L positions, N = P · L.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seedfast.data.caption.dataset import CaptionAssets
from seedfast.families.caption.decoding import captioner_of, nucleus_captions
from seedfast.families.caption.metrics import CiderScorer, Words, words
from seedfast.families.caption.teacher_forcing import TeacherForcing
from seedfast.families.family import Terms


def self_critical_terms(
    network: nn.Module,
    images: dict[str, Tensor],
    u_BKL: Tensor,
    references: Sequence[Sequence[Words]],
    *,
    assets: CaptionAssets,
    scorer: CiderScorer,
) -> Terms:
    """-Σ advantage · log q(sample) of each image (Luo 2020, equation 4).

    images: the network's inputs for the images. u_BKL: the quantiles in [0, 1) by which the samples' tokens are drawn.
    references: the words of each image's references. Also the mean reward, as the diagnostic "reward". Every position
    is scored, and those behind a caption's end weigh nothing: no shape depends on where captions end.
    """
    samples, samples_per_image = _samples(network, images, u_BKL, assets), u_BKL.shape[1]
    reward_BK = _rewards(samples, samples_per_image, references, assets, scorer)
    advantage_P = _advantages(reward_BK).flatten().float().to(u_BKL.device)
    layout = TeacherForcing.of_lists(samples, end=assets.tokenizer.end_of_text, context=assets.context)
    targets_PL, loss_mask_PL = layout.targets_PL.to(u_BKL.device), layout.loss_mask_PL.to(u_BKL.device)
    scores = network(
        layout.inputs_PL.to(u_BKL.device),
        **images,
        image_P=_image_of(u_BKL),
        where_N=torch.arange(targets_PL.numel(), device=u_BKL.device),
        targets_N=targets_PL.flatten(),
    )
    loss_PL = scores.nats_N.view_as(targets_PL) * loss_mask_PL * advantage_P.unsqueeze(1)
    total_B = loss_PL.sum(dim=1).view(len(u_BKL), samples_per_image).sum(dim=1)
    reward = torch.tensor([float(reward_BK.sum()), reward_BK.numel()], dtype=torch.float64, device=u_BKL.device)
    return Terms(total_B=total_B, diagnostics={"reward": reward})


def _image_of(u_BKL: Tensor) -> Tensor:
    """The image of each sample, [P]."""
    return torch.arange(len(u_BKL), device=u_BKL.device).repeat_interleave(u_BKL.shape[1])


@torch.no_grad()
def _samples(network: nn.Module, images: dict[str, Tensor], u_BKL: Tensor, assets: CaptionAssets) -> list[list[int]]:
    """K captions of each image from the whole distribution, without dropout."""
    captioner = captioner_of(network)  # sampling has no gradient for the wrapper to synchronise
    was_training = captioner.training
    captioner.eval()
    memory_BMU = captioner(**images)
    samples = nucleus_captions(captioner, memory_BMU[_image_of(u_BKL)], assets, u_BKL.flatten(0, 1), top_p=1.0)
    captioner.train(was_training)
    return samples


def _rewards(
    samples: list[list[int]],
    samples_per_image: int,
    references: Sequence[Sequence[Words]],
    assets: CaptionAssets,
    scorer: CiderScorer,
) -> Tensor:
    """The CIDEr-D of each sample against all references of its image, float64 [B, K] on the CPU."""
    rewards = [
        scorer(words(assets.tokenizer.decode(sample)), references[index // samples_per_image])
        for index, sample in enumerate(samples)
    ]
    return torch.tensor(rewards, dtype=torch.float64).view(-1, samples_per_image)


def _advantages(reward_BK: Tensor) -> Tensor:
    """Each reward minus its baseline: the mean reward of the image's other samples."""
    others_BK = (reward_BK.sum(dim=1, keepdim=True) - reward_BK) / (reward_BK.shape[1] - 1)
    return reward_BK - others_BK
