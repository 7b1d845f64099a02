"""Fine-tuning recipes: a pretrained causal language model of transformers, trained further on text or dialogues."""

from dataclasses import replace

from seedfast.data.text.config import TextData
from seedfast.families.family import FamilyConfig
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.dpo import DPO
from seedfast.families.text.masked import Masked
from seedfast.loop.config import Run
from seedfast.models.causal_lm import PretrainedLM
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig


def finetune() -> Run:
    """Next-token prediction, of all weights or through LoRA (`--model.adapter.kind lora` at a higher rate)."""
    return _finetune("finetune", Autoregressive(document_mask=True), lr=5e-5)


def finetune_masked() -> Run:
    """The same model as masked diffusion: its attention becomes bidirectional, its shift by one token stays."""
    return _finetune("finetune-masked", Masked(document_mask=True), lr=1e-4)


def dpo() -> Run:
    """Direct preference optimization, without dropout: the log-probabilities of two networks are compared."""
    run = _finetune("dpo", DPO(), lr=1e-6)
    return replace(run, data=TextData(tokenizer="model", context=512), model=PretrainedLM(dropout=0.0))


def _finetune(recipe: str, objective: FamilyConfig, *, lr: float) -> Run:
    return Run(
        recipe=recipe,
        objective=objective,
        data=TextData(tokenizer="model", context=256),
        model=PretrainedLM(),
        optimizer=OptimizerConfig(lr=lr, betas=(0.9, 0.99), weight_decay=0.01),
        schedule=Schedule(shape="cosine", warmup=20, min_lr_factor=0.1),
        steps=500,
        batch_size=16,
        micro_batch=4,
        eval_every=50,
        eval_examples=256,
        save_every=100,
    )
