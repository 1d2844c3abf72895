# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Uploads a folder to the Hub: safetensors, configurations, a card, and code on request. Nothing pickled."""

import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from .bundled_sharing import write_json
from .cards import NO_REPOSITORY, code_section, render_card, weights_digest, weights_of
from .remote_code import add_code, read_json

logger = logging.get_logger(__name__)


# By kind of folder: the file by which it is known, a pattern of the model type in that file, and the configuration of
# each component, which has the component's weights beside it.
FOLDER_KINDS = {
    "pipeline": ("model_index.json", "*", {"rqvae": "rqvae/config.json", "transformer": "transformer/config.json"}),
    "rqvae": ("config.json", "rqvae", {"rqvae": "config.json"}),
    "rq_transformer": ("config.json", "*rq_transformer", {"transformer": "config.json"}),
    "adapter": ("adapter_config.json", "*", {"adapter": "adapter_config.json"}),
    "tokenizer": ("tokenizer_config.json", "*", {"tokenizer": "tokenizer_config.json"}),
}
# Names of files that are uploaded, in lower case: weights, configurations, tokenizers, code, texts, logs, pictures.
PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp")
UPLOADED = (
    "*.safetensors", "*.json", "*.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.jinja",
    "*.py", "*.md", "license", "notice", "events.out.tfevents.*", *PICTURES,
)  # fmt: skip
# Names of files and folders that are not: what a training needs to go on, hidden files, caches.
LEFT_OUT = ("checkpoint-*", "trainer_state.json", ".*", "_*")
# Weights that are never rounded: moving averages of the codebook.
KEPT_IN_FP32 = (".cluster_size", ".embedding_sum", ".num_updates")
# A link of a card to a file. Its text has no brackets, so that the time is linear in the length of the card.
LINK = re.compile(r"(?<!!)\[([^][]*)\]\((?!https?:|mailto:|#)([^()\s#]+)[^()\s]*\)")
# What the section on the licence of a card says after its name: whom to credit, also for weights made of these.
ATTRIBUTION = re.compile(r"^## Licence\n+(?:Licence of the weights: .*\n)?((?:(?!## ).*\n?)*)", re.MULTILINE)


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
    """Uploads the folder of a pipeline, a model, an adapter or a tokenizer in one commit. The folder stays as it is.

    Files with names of `UPLOADED` are uploaded, except those in links to folders, and files and folders of `LEFT_OUT`.
    Weights of an earlier push that this push does not replace are deleted.

    The README.md of the folder becomes the card, with the repository in place of the folder's path and without links
    to files that are not uploaded. Without one the repository keeps its card. A new card is rendered if there is none,
    or if its metadata name other weights, whose licence and attribution it keeps.

    Args:
        folder (`str` or `Path`): the folder.
        repo_id (`str`): the repository; is made if it is missing.
        private (`bool`, *optional*): whether a new repository is private.
        revision (`str`, *optional*): the branch, `main` by default; is made if it is missing.
        token (`str` or `bool`, *optional*): token of the Hub, by default the one that the machine is logged in with.
        with_code (`bool`, defaults to `False`): whether to add the code that loads a pipeline or a model without this
            library, by `trust_remote_code=True`.
        license (`str`, *optional*): licence of the weights, for the card.
        create_pr (`bool`, defaults to `False`): whether to open a pull request to `main` instead of changing it.
        commit_message (`str`, *optional*): title of the commit.

    Raises:
        `ValueError`: `folder` is of no such kind, lacks safetensors, has damaged files, a link to a file outside of it
            or a card that the Hub does not take. Nothing is made on the Hub then.
    """
    if create_pr and revision is not None:
        raise ValueError(f"`revision` must be None with `create_pr`, which is for `main`, got {revision!r}.")
    api = HfApi(token=token)
    repo_id = repo_id if "/" in repo_id else api.get_full_repo_name(repo_id)
    is_new_branch = revision is not None and not api.revision_exists(repo_id, revision)
    with tempfile.TemporaryDirectory(prefix="rq_hf_") as temporary:
        stage = Path(temporary, "stage")
        _stage(Path(folder), stage)
        kind, weights, facts = _validate(stage)
        is_model = kind in ("pipeline", "rqvae", "rq_transformer")
        if with_code and not is_model:
            raise ValueError(f"`with_code` needs a pipeline or a model in `folder`, got {kind!r}.")
        if with_code:
            add_code(stage)
        facts |= {"repo_id": repo_id, "license": license}
        _complete_card(api, stage, folder, kind, facts, None if is_new_branch else revision, with_code)
        if is_model and not with_code:
            logger.warning(f"{repo_id} loads where rq_hf is installed; push it `with_code` for others.")
        api.create_repo(repo_id, private=private, exist_ok=True)
        if is_new_branch:
            api.create_branch(repo_id, branch=revision)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=stage,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=[f"{pattern}*" for pattern in weights] or None,  # with the index of an earlier push
            commit_message=commit_message or f"Upload {kind} with rq_hf",
        )


def cast_weights(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Rounds weights to another dtype, except integers and the moving averages of a codebook."""
    return {
        name: value.to(dtype) if value.is_floating_point() and not name.endswith(KEPT_IN_FP32) else value
        for name, value in weights.items()
    }


def copy_card(source: str, folder: str | Path, revision: str | None = None, token: str | bool | None = None) -> None:
    """Copies the card of a folder or a repository, and the pictures that it shows, to another folder.

    The card names the weights of the source, so that a push sees whether the folder has the same. Warns about a card
    that cannot be read, such as that of a private repository without a `token`.
    """
    place, name = Path(source), source
    if place.is_dir():
        name = place.resolve().name
    else:
        api = HfApi(token=token)
        try:
            place = Path(api.hf_hub_download(source, "README.md", revision=revision)).parent
            api.snapshot_download(source, revision=revision, allow_patterns=PICTURES)
        except (OSError, ValueError) as error:  # no card, no such repository, no right to read it, or no Hub
            logger.warning(f"The card of {source!r} is not copied: {error}")
            return
    files = dict(_uploaded_files(place))
    if "README.md" in files:
        card = _read_card(files["README.md"])
        if not weights_of(card)[1]:
            card.data.weights = f"{name}@sha256:{weights_digest(place)}"
        for picture in _shown_pictures(card, files):
            Path(folder, picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[picture], Path(folder, picture))
        card.text = _renamed(card.text, source, NO_REPOSITORY)
        card.save(Path(folder, "README.md"))


def _uploaded_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder that a push takes, by their path in the folder. Folders that are links are skipped."""
    root = folder.resolve()
    if root.parent.name == "snapshots":  # of the Hub's cache, where files are links to the blobs of the repository
        root = root.parents[1]
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_taken = any(fnmatchcase(path.name.lower(), pattern) for pattern in UPLOADED)
        is_left_out = any(fnmatchcase(part, pattern) for part in parts for pattern in LEFT_OUT)
        if is_left_out or not is_taken or not path.is_file():  # a pipe, a device, a broken link
            continue
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"`folder` must hold no link to a file outside of it, got {path} -> {path.resolve()}.")
        yield Path(*parts).as_posix(), path


def _stage(folder: Path, stage: Path) -> None:
    """Copies what is uploaded, without paths of this machine. Weights, which are large, are linked."""
    for name, path in _uploaded_files(folder):
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            (stage / name).symlink_to(path.resolve())
        else:
            shutil.copyfile(path, stage / name)
    for path in [*stage.rglob("*config.json"), *stage.rglob("model_index.json")]:
        config = read_json(stage, path.relative_to(stage))
        for name in ("_name_or_path", "name_or_path"):
            config.pop(name, None)
        if not any(path.parent.glob("*.py")):
            config.pop("auto_map", None)
        if _is_local(config.get("base_model_name_or_path")):
            config["base_model_name_or_path"] = None
        write_json(path, config)


def _validate(stage: Path) -> tuple[str, list[str], dict[str, Any]]:
    """The kind of a folder, the patterns of its weights, which must be whole, and what its files tell a card."""
    kinds = [
        kind
        for kind, (file, model_type, _) in FOLDER_KINDS.items()
        if (stage / file).is_file() and fnmatchcase(str(read_json(stage, file).get("model_type")), model_type)
    ]
    if not kinds:
        raise ValueError(
            "`folder` must hold model_index.json, the config.json of an RQ-VAE or an RQ-Transformer, "
            "adapter_config.json or tokenizer_config.json."
        )
    sizes = {path: _num_parameters(path) for path in stage.rglob("*.safetensors")}
    file, _, components = FOLDER_KINDS[kinds[0]]
    weights = {"adapter": "adapter_model*.safetensors", "tokenizer": None}.get(kinds[0], "model*.safetensors")
    patterns = [Path(path).with_name(weights).as_posix() for path in components.values() if weights is not None]
    counts = [[sizes[path] for path in stage.glob(pattern)] for pattern in patterns]
    if [] in counts:
        raise ValueError(f"`folder` must hold weights as safetensors, there are no {patterns[counts.index([])]}.")
    configs = {component: read_json(stage, path) for component, path in components.items()}
    num_parameters = dict(zip(components, map(sum, counts), strict=False))  # of a tokenizer there are none
    index = read_json(stage, file)
    facts = {"sampling": index.get("sampling"), "base_model": index.get("base_model_name_or_path")}
    return kinds[0], patterns, facts | {"configs": configs, "num_parameters": num_parameters}


def _num_parameters(path: Path) -> int:
    """Parameters in a file of weights, without the buffers of a codebook."""
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if "quantizer." not in name and "codebook." not in name]
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ValueError(f"`folder` must hold whole weights, got {path.parent.name}/{path.name}: {error}") from error


def _complete_card(
    api: HfApi, stage: Path, folder: Path, kind: str, facts: dict[str, Any], revision: str | None, with_code: bool
) -> None:
    """Makes the card: that of the folder without names of this machine, that of the repository, or a new one, which
    also takes the place of a card about other weights."""
    path, repo_id, digest = stage / "README.md", facts["repo_id"], weights_digest(stage)
    is_of_folder, card = path.is_file(), None
    if is_of_folder or api.file_exists(repo_id, "README.md", revision=revision):
        card = _read_card(path if is_of_folder else api.hf_hub_download(repo_id, "README.md", revision=revision))
        name, old_digest = weights_of(card)
        if old_digest not in ("", digest):
            logger.warning(f"{repo_id} gets a new card: the old one is about other weights, those of {name}.")
            for picture in _shown_pictures(card, [path.relative_to(stage).as_posix() for path in stage.rglob("*")]):
                (stage / picture).unlink()
            facts |= {"based_on": name if name != repo_id else None, "license": facts["license"] or card.data.license}
            facts["attribution"] = "".join(ATTRIBUTION.findall(card.text)).strip()
            card = None
    if card is None:
        card = render_card(kind, facts)
    elif is_of_folder:
        card.text = _renamed(card.text, folder, repo_id)
        base = card.data.base_model
        if any(map(_is_local, base if isinstance(base, list) else [base])):
            card.data.base_model = None
            card.data.tags = [tag for tag in card.data.tags or [] if not tag.startswith("base_model:")] or None
    elif facts["license"] is None and not with_code:
        return  # that of the repository stays
    card.text = LINK.sub(lambda link: link[int(not (stage / link[2]).exists())], card.text)
    if with_code and "trust_remote_code" not in card.text:
        card.text += code_section(kind, repo_id)
    card.data.license = facts["license"] or card.data.license
    card.data.weights = f"{repo_id}@sha256:{digest}"
    card.validate()
    card.save(path)


def _shown_pictures(card: ModelCard, names: Iterable[str]) -> list[str]:
    """The pictures that a card shows, of the files of its folder."""
    pictures = [name for name in names if any(fnmatchcase(name.lower(), pattern) for pattern in PICTURES)]
    return [name for name in pictures if f"({name})" in card.text]


def _read_card(path: str | Path) -> ModelCard:
    try:
        return ModelCard.load(path)
    except Exception as error:  # YAML has errors of many kinds
        raise ValueError(f"README.md must be a model card in UTF-8, got {type(error).__name__}: {error}") from error


def _renamed(text: str, source: str | Path, name: str) -> str:
    """Puts `name` in place of the names of `source` that snippets of a card load."""
    for old in set(re.findall(r"from_pretrained\(\"([^\"]+)\"", text)):
        if old == NO_REPOSITORY or f"{Path(source).resolve()}/".endswith(f"/{old.strip('./')}/"):
            text = re.sub(rf"(?<![\w/]){re.escape(old)}(?![\w/-])", name, text)
    return text


def _is_local(name: str | None) -> bool:
    """Whether a base model is a folder, of this machine or of another, and no repository."""
    return name is not None and (Path(name).exists() or re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) is None)
