# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From a folder to a repository on the Hub: safetensors, a card, and code for those who have not this library."""

import itertools
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCardData,
    save_torch_state_dict,
)
from safetensors.torch import load_file

from .card_folders import extended_card, folder_card, folder_kind
from .card_metadata import evaluation_results
from .cards import NO_REPOSITORY
from .configuration_common import add_sampling
from .remote_code import code_files, is_brought_code

logger = logging.getLogger(__name__)

VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
# What `Trainer` and pickle-based checkpoints leave; none of it is shared, nor what is a pickle by another name.
PICKLES = (".bin", ".ckpt", ".distcp", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_NOT_SHARED = re.compile(r"[._]|checkpoint-\d+$")
_WEIGHTS = re.compile(r"(?:.*/)?model(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")
_WEIGHTS_INDEX = re.compile(r"(?:.*/)?model\.safetensors\.index(?:\.(\w+))?\.json")
# What makes a folder that of a model, whose weights a pickle beside it may be.
_MODEL_CONFIGS = ("config.json", "adapter_config.json")
# Running averages of the codebook lose their meaning in half precision.
KEPT_PRECISE = (".cluster_size", ".embedding_sum", ".num_updates")


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    with_code: bool = False,
    variants: Sequence[str] = (),
    max_shard_size: int | str | None = None,
    evaluations: Sequence[dict[str, Any] | str | Path] = (),
    tags: Sequence[str] | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
) -> CommitInfo:
    r"""Uploads a pipeline, a model, an adapter or a tokenizer from its folder, which is left as it is, in one commit.

    Checkpoints of a training, hidden files, files that begin with `_` and pickles are not uploaded. Weights that an
    earlier push left under other names are deleted; those of a variant that this push does not bring are kept, with a
    warning.

    Args:
        folder (`str` or `Path`): with `model_index.json`, `config.json`, `adapter_config.json` or a tokenizer.
        repo_id (`str`): repository, made if it is missing.
        private (`bool`, *optional*): whether a new repository is private.
        revision (`str`, *optional*): branch, made if it is missing, or `refs/pr/N`; `main` by default.
        token (`str` or `bool`, *optional*): of the Hub; by default the one that the machine is logged in with.
        with_code (`bool`, defaults to `False`):
            Add the code that loads it with diffusers or transformers alone, by `trust_remote_code=True`. A repository
            that has this code gets it anew in any case.
        variants (`list[str]`, defaults to none): `"fp16"`, `"bf16"`: weights to add in half precision.
        max_shard_size (`int` or `str`, *optional*): such as `"2GB"`; larger weights are split into files of that size.
        evaluations (`list` of `dict` or path, defaults to none): for the card, see [`~rq_hf.cards.render_card`].
        tags (`list[str]`, *optional*): for a new card.
        create_pr (`bool`, defaults to `False`): open a pull request instead of changing the branch.
        commit_message (`str`, *optional*): of the commit.
        commit_description (`str`, *optional*): of the commit.

    Returns:
        `huggingface_hub.CommitInfo`

    Raises:
        `ValueError`: a folder of none of these kinds, weights that are only pickled, an unknown variant, variants or
        shards of what has no weights of a model, or what is no evaluation.
        `OSError`: an evaluation's file that cannot be read.
    """
    folder = Path(folder)
    files, kind = shared_files(folder), folder_kind(folder)
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f"`variants` must be among {list(VARIANTS)}, got {unknown}.")
    for evaluation in evaluations:
        evaluation_results(evaluation)
    added = code_files(folder) if with_code else {}
    added |= _configs_with_sampling(files, added)
    with tempfile.TemporaryDirectory(prefix="rq_hf_") as workplace:
        files |= _rewritten_weights(files, Path(workplace), variants, max_shard_size)
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        present = api.list_repo_files(repo_id, revision=revision)
        if not with_code and kind in ("pipeline", "model") and _has_code(api, repo_id, revision, present):
            with_code, added = True, code_files(folder)
            added |= _configs_with_sampling(files, added)
        if "README.md" in files:
            own = files["README.md"].read_text(encoding="utf-8")
            # What the card was written for, before there was a repository.
            for place in (NO_REPOSITORY, folder.as_posix()):
                own = own.replace(f'from_pretrained("{place}"', f'from_pretrained("{repo_id}"')
            added["README.md"] = extended_card(own, kind, repo_id, with_code, evaluations)
        elif "README.md" in present:
            if with_code or evaluations:
                path = api.hf_hub_download(repo_id, "README.md", revision=revision)
                own = Path(path).read_text(encoding="utf-8")
                added["README.md"] = extended_card(own, kind, repo_id, with_code, evaluations)
        else:
            metadata = ModelCardData(tags=list(tags or []) or None)
            added["README.md"] = str(folder_card(folder, metadata, repo_id, with_code, evaluations))
        uploads: dict[str, Path | bytes] = {path: file for path, file in files.items() if file is not None}
        uploads |= {path: text.encode() for path, text in added.items()}
        operations = [CommitOperationAdd(path, uploads[path]) for path in sorted(uploads)]
        operations += [CommitOperationDelete(path) for path in _stale_weights(present, uploads)]
        if kept := _kept_variants(present, uploads):
            logger.warning("%s keeps weights of an earlier push, which may be older than these: %s.", repo_id, kept)
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"Upload {kind} with rq_hf",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def save_and_push(
    item: Any, repo_id: str, *, variant: str | None, max_shard_size: int | str | None, **options
) -> CommitInfo:
    """Uploads a pipeline or a model.

    Args:
        item: anything with `save_pretrained`.
        repo_id (`str`): repository, made if it is missing.
        variant (`str`, *optional*): of `save_pretrained`.
        max_shard_size (`int` or `str`, *optional*): of `save_pretrained`.
        options: of [`push_folder`], and `safe_serialization`, which is `True`.

    Returns:
        `huggingface_hub.CommitInfo`
    """
    if not options.pop("safe_serialization", True):
        raise ValueError("`safe_serialization` must be True, got False: pickles are not shared.")
    saving = {"variant": variant, "max_shard_size": max_shard_size}
    with tempfile.TemporaryDirectory(prefix="rq_hf_") as folder:
        item.save_pretrained(folder, **{name: value for name, value in saving.items() if value is not None})
        return push_saved(item, folder, repo_id, **options)


def push_saved(item: Any, folder: str | Path, repo_id: str | None = None, **options) -> CommitInfo:
    """Uploads the folder that a pipeline or a model was saved to.

    Args:
        item: what was saved.
        folder (`str` or `Path`): where.
        repo_id (`str`, *optional*): repository, made if it is missing; by default one of the folder's name.
        options: of [`push_folder`].

    Returns:
        `huggingface_hub.CommitInfo`
    """
    options["commit_message"] = options.get("commit_message") or f"Upload {type(item).__name__}"
    options["tags"] = [*(options.get("tags") or ()), *(getattr(item, "model_tags", None) or ())]
    return push_folder(folder, repo_id or Path(folder).absolute().name, **options)


def shared_files(folder: str | Path) -> dict[str, Path]:
    """The files of a folder that are shared, by their paths in the repository.

    Raises:
        `ValueError`: a folder of no known kind, or weights that are only pickled.
    """
    folder = Path(folder)
    kind = folder_kind(folder)
    files, left_out = {}, []
    # Folders that are links are followed where `from_pretrained` would.
    linked = (
        [folder / name for name in _components(folder) if (folder / name).is_symlink()] if kind == "pipeline" else []
    )
    walks = [os.walk(each) for each in (folder, *linked)]  # pass over what a training deletes meanwhile
    for place, folders, names in itertools.chain(*walks):
        folders[:] = sorted(name for name in folders if not _NOT_SHARED.match(name))
        for path in (Path(place, name) for name in sorted(names) if not _NOT_SHARED.match(name)):
            if _is_pickle(path):
                left_out.append(path)
            else:
                files[path.relative_to(folder).as_posix()] = path
    for path in left_out:
        beside = [other for other in files.values() if other.parent == path.parent]
        safe = [other for other in beside if other.suffix == ".safetensors"]
        is_of_model = any(other.name in _MODEL_CONFIGS for other in beside)
        if is_of_model and not safe and path.name != "training_args.bin":
            raise ValueError(
                f"`folder` must hold weights as safetensors, got {str(path)!r}: load and save it, which pickles none."
            )
        logger.warning("%s is a pickle and is not uploaded.", path)
    if kind == "pipeline":
        _check_components(folder, files)
    return files


def _check_components(folder: Path, files: Iterable[str]) -> None:
    """Refuses a pipeline's folder without all that its components are loaded from."""
    for name in _components(folder):
        own = sorted(path for path in files if path.startswith(f"{name}/"))
        if name in ("rqvae", "transformer"):
            expected = f"{name}/config.json and weights beside it"
            is_whole = f"{name}/config.json" in own and any(path.endswith(".safetensors") for path in own)
        else:
            expected, is_whole = f"a folder {name!r}", bool(own)
        if not is_whole:
            raise ValueError(f"`folder` must hold {expected}, for the `{name}` of its model_index.json, got {own}.")


def _components(folder: Path) -> list[str]:
    """The components that a pipeline's model_index.json names, but for those that were left out."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return [
        name for name, entry in index.items() if isinstance(entry, list) and name[0] != "_" and entry[0] is not None
    ]


def _has_code(api: HfApi, repo_id: str, revision: str | None, present: Iterable[str]) -> bool:
    """Whether an earlier push brought code along."""
    paths = [path for path in present if "/" not in path and path.endswith(".py")]
    files = (Path(api.hf_hub_download(repo_id, path, revision=revision)) for path in paths)
    return any(is_brought_code(file.read_text(encoding="utf-8", errors="replace")) for file in files)


def _configs_with_sampling(files: dict[str, Path], added: dict[str, str]) -> dict[str, str]:
    """Texts of each config.json that lacks the sampling settings of the generation_config.json beside it."""
    changed = {}
    for path, file in files.items():
        place = path.removesuffix("generation_config.json")
        if place != path and f"{place}config.json" in files:
            known = added.get(f"{place}config.json") or files[f"{place}config.json"].read_text(encoding="utf-8")
            config = add_sampling(json.loads(known), json.loads(file.read_text(encoding="utf-8")))
            if config != json.loads(known):
                changed[f"{place}config.json"] = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return changed


def _is_pickle(path: Path) -> bool:
    """Whether a file is called a pickle, begins as one (protocols 2 to 5), or is an archive of `torch.save`."""
    if path.suffix in PICKLES:
        return True
    with path.open("rb") as file:
        beginning = file.read(9)
    if path.suffix == ".safetensors" and beginning[8:] == b"{":  # after the header's length, which may be anything
        return False
    if re.match(rb"\x80[\x02-\x05]", beginning, re.DOTALL):
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())


def _rewritten_weights(
    files: dict[str, Path], workplace: Path, variants: Iterable[str], max_shard_size: int | str | None
) -> dict[str, Path | None]:
    """Weights that are split, or in half precision, by their paths in the repository; `None`: not to be uploaded."""
    rewritten: dict[str, Path | None] = {}
    if not variants and max_shard_size is None:
        return rewritten
    for path in files:
        own = _files_of_weights(files, path)
        if not own:
            continue
        place = workplace / path
        weights = {
            name: value
            for part in own
            if part.endswith(".safetensors")
            for name, value in load_file(files[part]).items()
        }
        if max_shard_size is not None:
            _save_weights(weights, place.parent, None, max_shard_size)
            rewritten |= dict.fromkeys(own)
        for variant in variants:
            former = (path.rpartition("/")[0], variant)
            rewritten |= dict.fromkeys(other for other in files if _weights_group(other) == former)
            _save_weights(cast_weights(weights, VARIANTS[variant]), place.parent, variant, max_shard_size or "5GB")
    made = [file for file in workplace.rglob("*") if file.is_file()]
    if not made:
        raise ValueError(
            "`variants` and `max_shard_size` need a model's whole weights, model.safetensors or its index and shards, "
            f"got {sorted(files)}."
        )
    return rewritten | {file.relative_to(workplace).as_posix(): file for file in made}


def _files_of_weights(files: dict[str, Path], path: str) -> list[str]:
    """If `path` is a model's whole weights, or the index of split ones, that and the files that it names."""
    folder, _, name = path.rpartition("/")
    place = f"{folder}/" if folder else ""
    if name == "model.safetensors":
        return [path]
    if name != "model.safetensors.index.json" or f"{place}model.safetensors" in files:  # the whole ones are loaded
        return []
    parts = {place + part for part in json.loads(files[path].read_text(encoding="utf-8"))["weight_map"].values()}
    missing = sorted(parts - files.keys())
    if missing:
        raise ValueError(f"`folder` must hold the files that {path!r} names, {missing[0]!r} is missing.")
    return [path, *sorted(parts)]


def cast_weights(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights for a file in another dtype; moving averages of a codebook and integers keep theirs."""
    return {
        name: value.to(dtype) if value.is_floating_point() and not name.endswith(KEPT_PRECISE) else value
        for name, value in weights.items()
    }


def _save_weights(
    weights: dict[str, torch.Tensor], folder: Path, variant: str | None, max_shard_size: int | str
) -> None:
    """Weights in the files whose names transformers looks for."""
    stem = f"model.{variant}" if variant else "model"
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        weights, folder, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=max_shard_size
    )
    index = folder / f"{stem}.safetensors.index.json"
    if variant and index.exists():
        index.rename(folder / f"model.safetensors.index.{variant}.json")


def _weights_group(path: str) -> tuple[str, str | None] | None:
    """Folder and variant of a file of weights, or of their index; of any other file `None`."""
    match = _WEIGHTS.fullmatch(path) or _WEIGHTS_INDEX.fullmatch(path)
    return None if match is None else (path.rpartition("/")[0], match[1])


def _stale_weights(present: Iterable[str], uploads: Iterable[str]) -> list[str]:
    """Weights on the Hub that would be loaded instead of those that are uploaded, or beside them."""
    uploads = set(uploads)
    groups = {_weights_group(path) for path in uploads} - {None}
    return [path for path in present if path not in uploads and _weights_group(path) in groups]


def _kept_variants(present: Iterable[str], uploads: Iterable[str]) -> list[str]:
    """Weights on the Hub of variants that are not uploaded, of models that are."""
    groups = {_weights_group(path) for path in uploads} - {None}
    folders = {folder for folder, variant in groups if variant is None}
    others = {path: _weights_group(path) for path in present}
    return [path for path, group in others.items() if group and group[0] in folders and group not in groups]
