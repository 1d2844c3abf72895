# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a training run leaves for others: its card, the folder of its pipeline, a repository on the Hub."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData, create_repo, upload_folder

from ..cards import render_card, save_card
from ..pipeline_rq_image_generation import RQImageGenerationPipeline
from .arguments import ScriptArguments

# Training arguments that say where and how a run is watched, not what it learns.
_NOT_IN_CARD = (
    "output_dir",
    "logging",
    "report_to",
    "run_name",
    "hub_",
    "push_to_hub",
    "save_",
    "eval_",
    "disable_tqdm",
    "resume_from_checkpoint",
    "use_cpu",
)


def write_card(kind: str, arguments: ScriptArguments, architecture: Any, num_parameters: Any) -> None:
    """Renders README.md into the run's output folder; one that is there already is left alone.

    Args:
        kind: "rqvae" or "pipeline".
        arguments: of the training script; its `card` section may hold `license`, `language`, `dataset` (Hub id),
            `summary`, `training_data`, `attribution`, `intended_use`, `limitations`, `example_input` and `sampling`.
        architecture: configuration, or those of a pipeline.
        num_parameters: parameters, or those of a pipeline.
    """
    training, card = arguments.training, arguments.card
    if not training.should_save:
        return
    given = json.loads(training.to_json_string())
    defaults = json.loads(type(training)(output_dir=training.output_dir, use_cpu=training.use_cpu).to_json_string())
    changed = {
        name: value
        for name, value in given.items()
        if value != defaults.get(name) and not name.startswith(_NOT_IN_CARD)
    }
    metadata = ModelCardData(
        license=card.get("license"),
        language=card.get("language"),
        datasets=card.get("dataset"),
        model_name=card.get("model_name", Path(training.output_dir).name),
    )
    texts = "summary training_data attribution training_procedure intended_use limitations example_input sampling"
    rendered = render_card(
        kind,
        metadata,
        architecture=architecture,
        num_parameters=num_parameters,
        training_arguments={"seed": training.seed, **changed},
        training_commands=card.get("training_commands", f"accelerate launch {arguments.command}"),
        **{name: card[name] for name in texts.split() if name in card},
    )
    save_card(rendered, training.output_dir)


def save_pipeline(pipeline: RQImageGenerationPipeline, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Saves a pipeline, its weights in a smaller dtype than it works in.

    A pipeline saved so loads in its own dtype by default: the stored weights are widened again. The moving averages of
    the codebook keep their precision.

    Args:
        pipeline: on any device.
        folder: where to.
        dtype: of the stored weights; `None` is the pipeline's own.
    """
    pipeline.save_pretrained(folder)
    if dtype is None:
        return
    for name in ("rqvae", "transformer"):
        component = getattr(pipeline, name)
        narrow = {
            key: value if key.endswith((".cluster_size", ".embedding_sum", ".num_updates")) else value.to(dtype)
            for key, value in component.state_dict().items()
        }
        component.save_pretrained(Path(folder) / name, state_dict=narrow)


def push_folder(training: Any, folder: str | Path | None = None) -> None:
    """Uploads a run's results, without checkpoints and optimizer states, as `TrainingArguments` say.

    Args:
        training: `hub_model_id`, `hub_private_repo` and `hub_token` of it are used.
        folder: what is uploaded, by default all of the run's output folder.
    """
    name = training.hub_model_id or Path(training.output_dir).name
    repo_id = create_repo(name, private=training.hub_private_repo, token=training.hub_token, exist_ok=True).repo_id
    upload_folder(
        repo_id=repo_id,
        folder_path=folder if folder is not None else training.output_dir,
        token=training.hub_token,
        ignore_patterns=["_*", "checkpoint-*", "*.bin", "*.pt", "*.pth"],
        commit_message="End of training",
    )
