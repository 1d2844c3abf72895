# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a training run leaves for others: its card, the folder of its pipeline, a repository on the Hub."""

import hashlib
import json
import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, ModelCard, ModelCardData

from ..card_metadata import TrainingFootprint
from ..cards import render_card, save_card
from ..metrics import replacing, write_text
from ..pipeline_rq_image_generation import RQImageGenerationPipeline
from ..sharing import cast_weights, push_folder
from .arguments import ScriptArguments

# kg CO2eq per kWh, the mean of the world in 2023 (Ember, Global Electricity Review 2024: 480 g).
WORLD_CARBON_INTENSITY = 0.48
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
# Of the README.md that was written last and before, in a hidden file, which is not shared: whoever changes the text
# owns it.
_DIGEST_FILE = ".README.sha256"


def write_card(
    kind: str,
    arguments: ScriptArguments,
    architecture: Any,
    num_parameters: Any,
    history: list[dict] | None = None,
    seconds: float = 0.0,
) -> str | None:
    """Renders README.md into the run's output folder; one that somebody else wrote or changed is left alone.

    It is rendered before the training, for pushes that show how it goes, and once more after it, with the hours that
    it took, what it was measured to do and its last pictures.

    Args:
        kind: "rqvae" or "pipeline".
        arguments: of the training script; its `card` section may hold `license`, `language`, `dataset` (Hub id),
            `model_name`, `training_commands`, texts (`summary`, `training_data`, `training_procedure`, `attribution`,
            `intended_use`, `limitations`, `example_input`) and `sampling`; its `footprint` may hold `hardware`,
            `power_watts`, `carbon_intensity` and `location`.
        architecture: configuration, or those of a pipeline.
        num_parameters: parameters, or those of a pipeline.
        history: `trainer.state.log_history` at the end of the training.
        seconds: that the training took, at its end.

    Returns:
        The text, or `None` on processes that write none.
    """
    training, card = arguments.training, arguments.card
    if not training.should_save:
        return None
    given = json.loads(training.to_json_string())
    defaults = json.loads(type(training)(output_dir=training.output_dir, use_cpu=training.use_cpu).to_json_string())
    changed = {
        name: value
        for name, value in given.items()
        if value != defaults.get(name) and not name.startswith(_NOT_IN_CARD)
    }
    base = training.model_name_or_path
    metadata = ModelCardData(
        license=card.get("license"),
        language=card.get("language"),
        datasets=card.get("dataset"),
        model_name=card.get("model_name", Path(training.output_dir).name),
        base_model=base if base is not None and not Path(base).exists() else None,
    )
    texts = "summary training_data attribution training_procedure intended_use limitations example_input sampling"
    parts = {
        "repo_id": training.hub_model_id,
        "architecture": architecture,
        "num_parameters": num_parameters,
        "training_arguments": {"seed": training.seed, **changed},
        "training_commands": card.get("training_commands", f"accelerate launch {fresh_command(arguments.command)}"),
        **{name: card[name] for name in texts.split() if name in card},
    }
    folder = Path(training.output_dir)
    results = {} if history is None else _results(arguments, history, seconds)
    text = str(render_card(kind, metadata, **parts, **results))
    save_own_card(ModelCard(text), folder)
    return text


def save_own_card(card: ModelCard, folder: Path) -> None:
    """Writes README.md; one that somebody else wrote, or changed since it was written here, is left alone."""
    path, digests = folder / "README.md", folder / _DIGEST_FILE
    known = digests.read_text(encoding="utf-8").split() if digests.is_file() else []
    before = _digest(path) if path.is_file() else None
    if before is not None and before not in known:
        save_card(card, folder)  # says that it is kept
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        card.save(temporary)
        texts = [_digest(temporary), *filter(None, [before])]  # whichever is there if it ends here
        write_text(digests, "\n".join(texts))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fresh_command(command: str) -> str:
    """The command that starts the run, whether or not it was resumed."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word == "--resume_from_checkpoint":
            next(words, None)  # its value
        elif not word.startswith("--resume_from_checkpoint="):
            kept.append(word)
    return shlex.join(kept)


def _results(arguments: ScriptArguments, history: list[dict], seconds: float) -> dict[str, Any]:
    """What a card says of a training that has ended."""
    training = arguments.training
    pictures = sorted(Path(training.output_dir, "pictures").glob("*.png"), key=lambda path: path.stat().st_mtime)
    return {
        "footprint": _footprint(arguments.card.get("footprint", {}), seconds, training),
        "evaluations": _last_evaluation(arguments, history),
        "sample_images": {f"pictures/{path.name}": "At the end of the training" for path in pictures[-1:]},
    }


def _footprint(known: Mapping[str, Any], seconds: float, training: Any) -> TrainingFootprint:
    """Hours by the clock; the hardware that was found, where the recipe does not name it; and with its power draw the
    emissions, of the world's electricity where the recipe names no other."""
    fields = {"hardware": f"{training.world_size} x {hardware_name(training.device)}", **known}
    if "power_watts" in fields:
        fields.setdefault("carbon_intensity", WORLD_CARBON_INTENSITY)
    return TrainingFootprint(**fields, hours=float(f"{seconds / 3600:.3g}"))


def hardware_name(device: torch.device) -> str:
    """Name of a GPU, or the number of CPU cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} ({os.cpu_count()} cores)"


def _last_evaluation(arguments: ScriptArguments, history: list[dict]) -> list[dict[str, Any]]:
    """The last evaluation of the training as one that cards show."""
    found = [entry for entry in history if "eval_loss" in entry]
    if not found:
        return []
    left_out = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    metrics = {
        name.removeprefix("eval_"): value
        for name, value in found[-1].items()
        if name.startswith("eval_") and name not in left_out and math.isfinite(value)
    }
    dataset = {"name": Path(arguments.data.dataset_name).name, "split": arguments.data.validation_split}
    return [{"dataset": dataset, "metrics": metrics}] if metrics else []


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
        component.save_pretrained(Path(folder) / name, state_dict=cast_weights(component.state_dict(), dtype))


def push_run(
    training: Any, folder: str | Path | None = None, commit_message: str = "End of training", **options
) -> CommitInfo:
    """Uploads a run's results, without checkpoints and optimizer states, as `TrainingArguments` say.

    Args:
        training: `hub_model_id`, `hub_private_repo`, `hub_revision` and `hub_token` of it are used.
        folder: what is uploaded, by default all of the run's output folder.
        commit_message: of the commit.
        options: of [`~rq_hf.sharing.push_folder`], instead of those.
    """
    given = {
        "private": training.hub_private_repo,
        "revision": training.hub_revision,
        "token": training.hub_token,
        "commit_message": commit_message,
    }
    return push_folder(
        folder if folder is not None else training.output_dir,
        training.hub_model_id or Path(training.output_dir).absolute().name,
        **{**given, **options},
    )
