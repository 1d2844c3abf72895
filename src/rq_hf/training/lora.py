# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Low-rank adapters (LoRA, Hu et al., 2021, https://arxiv.org/abs/2106.09685) of an RQ-Transformer, by PEFT."""

import os
import tempfile
from pathlib import Path

from huggingface_hub import ModelCardData
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from ..cards import render_small_card
from ..modeling_rq_transformer import RQTransformerForImageGeneration
from .arguments import ScriptArguments
from .publishing import fresh_command, save_own_card
from .trainer_rq_transformer import RQTransformerTrainingArguments

ADAPTER_FOLDER = "adapter"
# The projections of attention and MLP in every block, spatial and depth.
LORA_TARGET_MODULES = ["query_key_value", "out_proj", "mlp.0", "mlp.2"]


def add_lora(
    model: RQTransformerForImageGeneration, training: RQTransformerTrainingArguments, new_ids: list[int] | tuple = ()
) -> PeftModel:
    """Puts new adapters into a transformer, which alone train; they change nothing yet.

    Args:
        model ([`RQTransformerForImageGeneration`]): is altered, and frozen.
        training ([`RQTransformerTrainingArguments`]): its `lora_rank`, `lora_alpha` and `lora_dropout`.
        new_ids (`list[int]`): condition ids that have no trained embedding yet. Theirs train too and are saved with
            the adapter; the rows of the text head, if there is one, stay as they are.

    Returns:
        `peft.PeftModel`, whose forward is the model's.
    """
    config = LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        lora_dropout=training.lora_dropout,
        target_modules=LORA_TARGET_MODULES,
        trainable_token_indices={"condition_embedding": list(new_ids)} if new_ids else None,
    )
    adapted = get_peft_model(model, config)
    # With a name PEFT asks the Hub at every checkpoint whether the vocabulary has grown.
    config.base_model_name_or_path = None
    return adapted


def save_adapter(model: PeftModel, folder: str | Path, arguments: ScriptArguments) -> None:
    """Saves the adapter alone, `adapter_config.json` and `adapter_model.safetensors`, with a card,
    unless somebody else wrote or changed that.

    Args:
        model (`peft.PeftModel`): see [`add_lora`].
        folder: where to.
        arguments: of the training script.
    """
    training, card = arguments.training, arguments.card
    base = training.model_name_or_path
    model.peft_config["default"].base_model_name_or_path = base
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as place:  # where PEFT leaves a README.md of its own
        model.save_pretrained(place, save_embedding_layers=False)
        for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
            os.replace(Path(place, name), Path(folder, name))
    is_local = Path(base).exists()
    metadata = ModelCardData(
        base_model=None if is_local else base,
        license=card.get("license"),
        language=card.get("language"),
        datasets=card.get("dataset"),
    )
    name = card.get("model_name", Path(training.output_dir).name)
    trainable, total = model.get_nb_trainable_parameters()
    texts = ("summary", "training_data", "attribution", "intended_use", "limitations")
    rendered = render_small_card(
        "adapter",
        metadata,
        title=name,
        repo_id=training.hub_model_id or name,
        base=Path(base).name if is_local else base,
        share=f"{trainable:,} parameters, {100 * trainable / total:.2g} % of the transformer's with it",
        rank=training.lora_rank,
        alpha=training.lora_alpha,
        command=f"accelerate launch {fresh_command(arguments.command)}",
        grown=bool(model.peft_config["default"].trainable_token_indices),
        **{name: card[name] for name in texts if name in card},
    )
    save_own_card(rendered, Path(folder))
