"""The identities of docs/identities.md, checked on the installed code: closed forms and enumeration, in seconds.

Each check is a function of the component under test, whose default is the installed one. The tests also pass a
deliberately broken twin, for which the identity must fail.

Sahoo et al. 2024 is "Simple and Effective Masked Diffusion Language Models" (MDLM); Zheng et al. 2024 is "Masked
Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate Categorical Sampling".
"""

from collections.abc import Iterator

from seedfast.verify.identities.check import Check

__all__ = ["Check", "check_all"]


def check_all() -> Iterator[Check]:
    """Check every identity on the installed code, one after another."""
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

    yield masked.subs()
    yield masked.nelbo_three_ways()
    yield masked.schedule_invariance()
    yield masked.tightness()
    yield masked.uniform_network()
    yield masked.estimator_variance()
    yield sampling.exact_sampler()
    yield sampling.exact_generation()
    yield bracket.deployed_likelihood()
    yield bracket.deployed_blocks()
    yield bracket.explained()
    yield bracket.inside()
    yield block.chain_rule()
    yield block.whole_window()
    yield block.cached_blocks()
    yield block.separate_blocks()
    yield likelihood.next_token_loss()
    yield likelihood.windows_score_once()
    yield likelihood.context_only_helps()
    yield likelihood.cached_generation()
    yield likelihood.bits_per_byte()
    yield likelihood.known_entropy_causal()
    yield likelihood.known_entropy_masked()
    yield sampling.categorical_frequencies()
    yield sampling.categorical_boundaries()
    yield embedding.variational_bound()
    yield likelihood.packing()
    yield gaussian.conversions()
    yield gaussian.weights()
    yield trajectories.ancestral()
    yield trajectories.two_points()
    yield trajectories.churned()
    yield trajectories.orders()
    yield gaussian.preconditioning()
    yield gaussian.dynamic_thresholding()
    yield gaussian.terminal_snr()
    yield gaussian.low_precision()
    yield gaussian.classifier_free()
    yield embedding.oracle()
    yield inpainting.conditional_distribution()
    yield images.null_label()
    yield images.oracle()
    yield images.augmentation()
    yield captions.cider_by_hand()
    yield captions.bleu_and_rouge_by_hand()
    yield captions.greedy_search()
    yield captions.exhaustive_search()
    yield captions.cached_search()
    yield loop.accumulation()
    yield loop.validation_is_training_loss()
    yield loop.moving_average()
    yield loop.split_invariance()
