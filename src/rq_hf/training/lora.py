# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (LoRA, Hu et al., 2021, https://arxiv.org/abs/2106.09685) of an RQ-Transformer, by PEFT."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..models.sampling import seeded_generator
from ..pipelines import RQImageGenerationPipeline

# The projections of attention and MLP in every block, spatial and depth.
LORA_TARGET_MODULES = ["query_key_value", "out_proj", "mlp.0", "mlp.2"]


def add_lora(model: PreTrainedModel, rank: int, alpha: int) -> PeftModel:
    """Freezes `model` and puts new adapters of width `rank` into it. They change no output before they are trained."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGET_MODULES)
    adapted = get_peft_model(model, config)
    config.base_model_name_or_path = None  # with a name PEFT would ask the Hub for it at every checkpoint
    return adapted


@torch.no_grad()
def draw_prior(
    pipe: RQImageGenerationPipeline, captions: list[str], seed: int, batch_size: int = 50
) -> dict[str, torch.Tensor]:
    """Draws captions with a model before it is adapted, for prior preservation in [`RQTransformerTrainer`].

    Returns `codes` `(N, H, W, D)` and their `prompt_embeds` `(N, S, condition_width)`.
    """
    batches = []
    for start in tqdm(range(0, len(captions), batch_size), desc="Drawing prior captions"):
        embeds, _ = pipe.encode_prompt(captions[start : start + batch_size], pipe.transformer.device)
        codes = pipe.transformer.generate(prompt_embeds=embeds, generator=seeded_generator(seed, start))
        batches.append({"prompt_embeds": embeds, "codes": codes})
    return {name: torch.cat([batch[name] for batch in batches]) for name in ("prompt_embeds", "codes")}


def save_adapter(model: PeftModel, folder: str | Path, base: str) -> None:
    """Saves the adapter of a model. `base` is the name or path of the model that it was trained on."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)
