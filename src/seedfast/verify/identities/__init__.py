"""The identities of docs/identities.md, checked on the installed code: closed forms and enumeration, in seconds.

Each check is a function of the component under test, whose default is the installed one. The tests also pass a
deliberately broken twin, for which the identity must fail.

Sahoo et al. 2024 is "Simple and Effective Masked Diffusion Language Models" (MDLM); Zheng et al. 2024 is "Masked
Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate Categorical Sampling".
"""

from collections.abc import Callable, Iterator, Mapping

from seedfast.verify.identities.check import Check

__all__ = ["Check", "check_all", "checks"]


def checks() -> Mapping[str, tuple[Callable[[], Check], ...]]:
    """The checks of the installed code by the heading of their identity in docs/identities.md, as in its links."""
    from seedfast.verify.identities import (
        block,
        bracket,
        captions,
        embedding,
        gaussian,
        images,
        inpainting,
        likelihood,
        loop,
        masked,
        sampling,
        trajectories,
    )

    return {
        "subs": (masked.subs,),
        "nelbo-forms": (masked.nelbo_three_ways,),
        "schedule-invariance": (masked.schedule_invariance,),
        "tightness": (masked.tightness,),
        "uniform-network": (masked.uniform_network,),
        "estimator-variance": (masked.loss_variance, masked.gradient_variance),
        "sampler-exactness": (sampling.exact_sampler, sampling.exact_generation),
        "deployed-likelihood": (bracket.deployed_likelihood, bracket.deployed_blocks, bracket.explained),
        "bracket": (bracket.inside,),
        "block-diffusion": (block.chain_rule, block.whole_window, block.cached_blocks, block.separate_blocks),
        "autoregressive": (
            likelihood.next_token_loss,
            likelihood.windows_score_once,
            likelihood.context_only_helps,
            likelihood.cached_generation,
        ),
        "bits-per-byte": (likelihood.bits_per_byte,),
        "known-entropy": (likelihood.known_entropy_causal, likelihood.known_entropy_masked),
        "categorical-draws": (sampling.categorical_frequencies, sampling.categorical_boundaries),
        "embedding-nelbo": (embedding.variational_bound,),
        "packing": (likelihood.packing,),
        "conversions": (gaussian.conversions, gaussian.weights),
        "ddim-is-ddpm": (trajectories.ancestral,),
        "two-point": (trajectories.two_points, trajectories.churned),
        "ode-order": (trajectories.orders,),
        "edm": (gaussian.preconditioning,),
        "dynamic-thresholding": (gaussian.dynamic_thresholding,),
        "zero-terminal-snr": (gaussian.terminal_snr,),
        "low-precision": (gaussian.low_precision,),
        "guidance": (gaussian.classifier_free, images.null_label),
        "inpainting": (inpainting.conditional_distribution,),
        "oracle": (embedding.oracle, images.oracle, images.augmentation),
        "cider": (captions.cider_by_hand, captions.bleu_and_rouge_by_hand),
        "beam": (captions.greedy_search, captions.exhaustive_search, captions.cached_search),
        "micro-batches": (loop.accumulation,),
        "train-is-validation": (loop.validation_is_training_loss,),
        "ema": (loop.moving_average,),
        "processes": (loop.split_invariance,),
    }


def check_all() -> Iterator[Check]:
    """Check every identity on the installed code, one after another."""
    yield from (check() for those in checks().values() for check in those)
