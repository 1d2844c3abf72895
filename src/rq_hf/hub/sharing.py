# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Uploads a folder to the Hub: safetensors, configurations, a card, and code on request. Nothing pickled."""

import json
import math
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from .cards import NO_REPOSITORY, write_card
from .remote_code import code_files

logger = logging.get_logger(__name__)

# Patterns of names that are never uploaded: pickles, checkpoints of a training, hidden files.
IGNORED = (
    "*.bin", "*.ckpt", "*.distcp", "*.joblib", "*.pickle", "*.pkl", "*.pt", "*.pth", "checkpoint-*",
    "trainer_state.json", ".*", "_*",
)  # fmt: skip
# Weights that are never rounded: moving averages of the codebook.
KEPT_IN_FP32 = (".cluster_size", ".embedding_sum", ".num_updates")
CODE_SECTION = """
## Without rq_hf

The repository brings the code that it needs. Read the code; then load it with `trust_remote_code=True`:

```python
from {library} import {loader}

{name} = {loader}.from_pretrained("{repo_id}", trust_remote_code=True)
```
"""


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    with_code: bool = False,
    license: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> CommitInfo:
    r"""Uploads the folder of a pipeline, a model, an adapter or a tokenizer in one commit. The folder stays as it is.

    Not uploaded: pickles, checkpoints of a training, hidden files, and files whose names begin with `_`. Weights of an
    earlier push that this push does not replace are deleted. The README.md of the folder becomes the card, with the
    repository in place of the folder's path and without links to files that are not uploaded. If neither the folder
    nor the repository has one, a card is rendered.

    Args:
        folder (`str` or `Path`):
            Has `model_index.json`, the `config.json` of an RQ-VAE or an RQ-Transformer, `adapter_config.json` or
            `tokenizer_config.json`.
        repo_id (`str`): the repository; is made if it is missing.
        private (`bool`, *optional*): whether a new repository is private.
        revision (`str`, *optional*): the branch, `main` by default; is made if it is missing.
        token (`str` or `bool`, *optional*): token of the Hub, by default the one that the machine is logged in with.
        with_code (`bool`, defaults to `False`):
            Add the code that loads the repository without this library, by `trust_remote_code=True`.
        license (`str`, *optional*): licence of the weights, for the card.
        create_pr (`bool`, defaults to `False`): open a pull request instead of changing the branch.
        commit_message (`str`, *optional*): title of the commit.

    Returns:
        `huggingface_hub.CommitInfo`

    Raises:
        `ValueError`: `folder` holds none of these kinds, lacks safetensors, or has damaged files.
    """
    folder = Path(folder)
    kind, facts = _describe(folder)
    with tempfile.TemporaryDirectory(prefix="rq_hf_") as place:
        stage = Path(place, "stage")
        shutil.copytree(folder, stage, copy_function=_copy, ignore=shutil.ignore_patterns(*IGNORED))
        _clean_configurations(stage)
        weights_name, places = "model", [""]
        if kind == "pipeline":
            places = [f"{name}/" for name in facts["configs"]]
        elif kind == "adapter":
            weights_name = "adapter_model"
        elif kind == "tokenizer":
            places = []
        for place in places:
            if not any((stage / place).glob(f"{weights_name}*.safetensors")):
                raise ValueError(f"`folder` must hold weights as safetensors, there are none in {folder / place}.")
        for path in stage.rglob("*.safetensors"):
            try:
                safe_open(path, "pt")
            except SafetensorError as error:
                raise ValueError(f"`folder` must hold whole weights, {path.relative_to(stage)}: {error}") from error
        if with_code:
            for path, text in code_files(stage).items():
                (stage / path).write_text(text, encoding="utf-8")
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        card = stage / "README.md"
        is_on_hub = not card.is_file() and api.file_exists(repo_id, "README.md", revision=revision)
        if is_on_hub and (license or with_code):
            shutil.copy(api.hf_hub_download(repo_id, "README.md", revision=revision), card)
        elif not card.is_file() and not is_on_hub:
            counts = {
                name: _num_parameters(stage / each) for name, each in zip(facts["configs"], places, strict=False)
            }
            write_card(stage, kind, facts | {"repo_id": repo_id, "num_parameters": counts})
        if card.is_file():
            _complete_card(card, kind, repo_id, folder, with_code, license)
        if kind in ("pipeline", "rqvae", "rq_transformer") and not with_code:
            logger.warning(f"{repo_id} loads after `pip install rq_hf`; push it `with_code` for others.")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=stage,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=[f"{place}{weights_name}*.safetensors*" for place in places] or None,
            commit_message=commit_message or f"Upload {kind} with rq_hf",
        )


def cast_weights(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Rounds weights to another dtype, except integers and the moving averages of a codebook."""
    return {
        name: value.to(dtype) if value.is_floating_point() and not name.endswith(KEPT_IN_FP32) else value
        for name, value in weights.items()
    }


def copy_card(source: str, folder: str | Path) -> None:
    """Copies the card of a folder or a repository, and the pictures that it shows, to another folder.

    Args:
        source (`str`): folder or Hub id of a model or a pipeline; without a card nothing is copied.
        folder (`str` or `Path`): where README.md and pictures go.
    """
    place = Path(source)
    if not place.is_dir():
        try:
            place = Path(HfApi().snapshot_download(source, allow_patterns=["README.md", "*.png", "*.jpg"]))
        except (OSError, ValueError):  # no such repository, or no Hub
            return
    if not (place / "README.md").is_file():
        return
    text = (place / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"!\[[^]]*\]\(([^):]+)\)", text):
        target = Path(folder, path)
        if (place / path).is_file() and target.resolve().is_relative_to(Path(folder).resolve()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place / path, target)
    Path(folder, "README.md").write_text(_renamed(text, source, NO_REPOSITORY), encoding="utf-8")


def _describe(folder: Path) -> tuple[str, dict[str, Any]]:
    """The kind of what a folder holds, and the facts that its files tell a card."""
    if index := _read_json(folder / "model_index.json"):
        names = [name for name in ("rqvae", "transformer") if (index.get(name) or [None])[0] is not None]
        configs = {name: _read_json(folder / name / "config.json") for name in names}
        return "pipeline", {"configs": configs, "sampling": index.get("sampling")}
    config = _read_json(folder / "config.json")
    if config.get("model_type") in ("rqvae", "rq_transformer"):
        return config["model_type"], {"configs": {config["model_type"].removeprefix("rq_"): config}}
    if adapter := _read_json(folder / "adapter_config.json"):
        base = adapter.get("base_model_name_or_path")
        is_local = base is not None and Path(base).exists()
        return "adapter", {"configs": {"adapter": adapter}, "base_model": None if is_local else base}
    if tokenizer := _read_json(folder / "tokenizer_config.json"):
        return "tokenizer", {"configs": {"tokenizer": tokenizer}}
    raise ValueError(
        "`folder` must hold model_index.json, the config.json of an RQ-VAE or an RQ-Transformer, adapter_config.json "
        f"or tokenizer_config.json, got {str(folder)!r}."
    )


def _num_parameters(folder: Path) -> int:
    """Parameters in the weights of a model, without the buffers of its codebook."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if "quantizer." not in name and not name.startswith("codebook.")]
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total


def _copy(source: str, target: str) -> None:
    """Links to weights, which are large and stay as they are, and copies other files."""
    if target.endswith(".safetensors"):
        os.symlink(Path(source).resolve(), target)
    else:
        shutil.copyfile(source, target)


def _clean_configurations(stage: Path) -> None:
    """Removes paths of this machine from configurations, and the names of code that the folder does not have."""
    names = ("model_index.json", "config.json", "adapter_config.json", "tokenizer_config.json")
    for path in (path for name in names for path in stage.rglob(name)):
        config = _read_json(path)
        for name in ("_name_or_path", "name_or_path"):
            config.pop(name, None)
        if not any(path.parent.glob("*.py")):
            config.pop("auto_map", None)
        if Path(str(config.get("base_model_name_or_path"))).exists():
            config["base_model_name_or_path"] = None
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _complete_card(path: Path, kind: str, repo_id: str, folder: Path, with_code: bool, license: str | None) -> None:
    """Lets a card name the repository instead of a folder, its code and its licence, and unlinks missing files."""
    card = ModelCard.load(path)
    card.text = _renamed(card.text, folder, repo_id)
    links = r"(?<!!)\[([^]]*)\]\((?!https?:|#)([^)]+)\)"
    card.text = re.sub(links, lambda link: link[int(not (path.parent / link[2]).exists())], card.text)
    if with_code and "trust_remote_code" not in card.text:
        library, loader, name = "transformers", "AutoModel", "model"
        if kind == "pipeline":
            library, loader, name = "diffusers", "DiffusionPipeline", "pipe"
        card.text += CODE_SECTION.format(library=library, loader=loader, name=name, repo_id=repo_id)
    if license is not None:
        card.data.license = license
    card.save(path)


def _renamed(text: str, source: str | Path, name: str) -> str:
    """Puts `name` in place of the names of `source` that snippets of a card load."""
    for old in set(re.findall(r"from_pretrained\(\"([^\"]+)\"", text)):
        if old == NO_REPOSITORY or f"{Path(source).resolve()}/".endswith(f"/{old.strip('./')}/"):
            text = re.sub(rf"(?<![\w/]){re.escape(old)}(?![\w/-])", name, text)
    return text


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold a JSON object: {error}") from error
