# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Saves the result of a training, a model or a pipeline, with its card, and pushes it to the Hub."""

from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..hub import push_folder, write_card
from ..pipelines.pipeline_rq_image_generation import RQImageGenerationPipeline
from .arguments import CodeDataArguments, Recipe
from .trainer import RQTrainer

ADAPTER_FOLDER = "adapter"
# Weights that are never rounded: moving averages of the codebook.
KEPT_IN_FP32 = (".cluster_size", ".embedding_sum", ".num_updates")
# The card leaves out training arguments that begin like this. They say how a run is stored and watched.
NOT_IN_CARD = (
    "output_dir", "model_name_or_path", "log", "report_to", "run_name", "hub_", "push_to_hub", "save_", "eval_",
    "do_", "per_device_eval", "disable_tqdm", "resume_from_checkpoint", "use_cpu", "dataloader_num_workers",
)  # fmt: skip


def publish_rqvae(trainer: RQTrainer, recipe: Recipe, metrics: dict[str, float]) -> None:
    """Saves a trained RQ-VAE with its card and the `metrics` of its last evaluation, and pushes it if asked for."""
    trainer.save_model()
    if trainer.is_world_process_zero():
        folder = Path(recipe.training.output_dir)
        write_card(folder, "rqvae", run_facts(recipe, metrics, {"rqvae": trainer.model}))
        push_if_asked(recipe, folder)


def publish_pipeline(trainer: RQTrainer, recipe: Recipe, metrics: dict[str, float]) -> None:
    """Saves a pipeline with its card and the `metrics` of the last evaluation, and pushes it if asked for.

    With LoRA the pipeline gets merged weights. The adapter is also saved to the folder `adapter`, and only that folder
    is pushed. The trainer's model cannot be trained any further.
    """
    training = recipe.training
    folder = shared_folder = Path(training.output_dir)
    transformer = gather_transformer(trainer) if trainer.is_sharded else trainer.model
    if not trainer.is_world_process_zero():
        return
    with trainer.averaged_weights():
        if training.lora_rank is not None:
            from .lora import save_adapter  # PEFT is optional

            shared_folder = folder / ADAPTER_FOLDER
            save_adapter(transformer, shared_folder, training.model_name_or_path)
            configs = {"adapter": transformer.peft_config["default"].to_dict()}
            facts = run_facts(recipe, metrics, {}) | {"configs": configs, "sample_images": {}}
            write_card(shared_folder, "adapter", facts)
            transformer = transformer.merge_and_unload()
        pipeline = RQImageGenerationPipeline(trainer.rqvae, transformer, trainer.tokenizer, trainer.text_encoder)
        save_pipeline(pipeline, folder, training.save_dtype)
    settings = transformer.generation_config.to_settings()
    facts = {"examples": example_captions(trainer, recipe.data), "sampling": settings}
    facts |= run_facts(recipe, metrics, {"rqvae": trainer.rqvae, "transformer": transformer})
    write_card(folder, "pipeline", facts)
    push_if_asked(recipe, shared_folder)


def example_captions(trainer: RQTrainer, data: CodeDataArguments) -> list[str]:
    """Captions of the first rows of the training data."""
    if data.caption_column is None:
        return []
    captions = [row[data.caption_column] for row in islice(trainer.train_dataset.rows, 6)]
    captions = [next(iter(each), None) if isinstance(each, list) else each for each in captions]
    return list(dict.fromkeys(each for each in captions if each))


def gather_transformer(trainer: RQTrainer) -> PreTrainedModel:
    """The sharded transformer in one piece. All processes must call this; only the main one gets the weights."""
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = type(trainer.model)(trainer.model.config)
    model.generation_config = trainer.model.generation_config
    if trainer.is_world_process_zero():
        model.load_state_dict(weights)
    return model


def push_if_asked(recipe: Recipe, folder: Path) -> None:
    """With `push_to_hub`, pushes a folder in one commit."""
    training = recipe.training
    if training.push_to_hub:
        repo_id = training.hub_model_id or Path(training.output_dir).absolute().name
        where = {"private": training.hub_private_repo, "revision": training.hub_revision, "token": training.hub_token}
        push_folder(folder, repo_id, commit_message="End of training", **where)


def save_pipeline(pipeline: RQImageGenerationPipeline, folder: str | Path, dtype: str | None = None) -> None:
    """Saves a pipeline. With `dtype` `"float16"` or `"bfloat16"` the files are smaller, and still load in fp32."""
    pipeline.save_pretrained(folder)
    if dtype is not None:
        for name in ("rqvae", "transformer"):
            model = getattr(pipeline, name)
            weights = model.state_dict()
            for key, value in weights.items():
                if value.is_floating_point() and not key.endswith(KEPT_IN_FP32):
                    weights[key] = value.to(getattr(torch, dtype))
            model.save_pretrained(Path(folder, name), state_dict=weights)


def run_facts(recipe: Recipe, metrics: dict[str, float], models: dict[str, Any]) -> dict[str, Any]:
    """Facts of a training for its card, see [`render_card`]. The recipe's section `card` overrides them."""
    training = recipe.training
    folder, base = Path(training.output_dir), training.model_name_or_path
    is_local = base is not None and Path(base).exists()
    values, defaults = training.to_dict(), type(training)(output_dir="", use_cpu=training.use_cpu).to_dict()
    names = [each.name for each in fields(training) if not each.name.startswith(NOT_IN_CARD)]
    pictures = sorted(folder.glob("pictures/step-*.png"), key=lambda path: path.stat().st_mtime)
    left_out = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "epoch")
    kept = [name for name in metrics if name not in left_out and "_depth_" not in name]
    facts = {
        "model_name": folder.absolute().name,
        "repo_id": training.hub_model_id,
        "based_on": Path(base).resolve().name if is_local else base,
        "configs": {name: model.config for name, model in models.items()},
        "num_parameters": {name: model.num_parameters() for name, model in models.items()},
        "training_arguments": {
            name: values[name] for name in names if name == "seed" or values.get(name) != defaults.get(name)
        },
        "metrics": {name.removeprefix("eval_"): metrics[name] for name in kept},
        "datasets": [name] if (name := recipe.data.dataset_name) and not Path(name).exists() else None,
        "metrics_dataset": Path(recipe.data.dataset_name or "data").name,
        "metrics_split": recipe.data.validation_split,
        "sample_images": {f"pictures/{path.name}": "At the end of the training" for path in pictures[-1:]},
    }
    return facts | recipe.card
