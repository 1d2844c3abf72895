# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Uploads a folder to the Hub: safetensors, configurations, a card, and code on request. Uploads no pickles."""

import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, EvalResult, HfApi, ModelCard
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from .bundled_sharing import write_json
from .cards import NO_REPOSITORY, code_section, render_card, results_of, set_figures
from .remote_code import add_code, read_json

logger = logging.get_logger(__name__)


# For each kind of folder: its main file, a pattern of the model type in that file, and the configurations of its
# components. The weights of a component lie beside its configuration.
FOLDER_KINDS = {
    "pipeline": ("model_index.json", "*", {"rqvae": "rqvae/config.json", "transformer": "transformer/config.json"}),
    "rqvae": ("config.json", "rqvae", {"rqvae": "config.json"}),
    "rq_transformer": ("config.json", "*rq_transformer", {"transformer": "config.json"}),
    "adapter": ("adapter_config.json", "*", {"adapter": "adapter_config.json"}),
    "tokenizer": ("tokenizer_config.json", "*", {"tokenizer": "tokenizer_config.json"}),
}
# Lower-case patterns of uploaded files: weights, configurations, tokenizers, code, texts, logs, pictures.
UPLOADED = (
    "*.safetensors", "*.json", "*.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.jinja",
    "*.py", "*.md", "license", "notice", "events.out.tfevents.*",
    "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp",
)  # fmt: skip
# Patterns of files and folders that are never uploaded: states of a training, hidden files, caches.
LEFT_OUT = ("checkpoint-*", "trainer_state.json", ".*", "_*")
# A file that `rq-hf evaluate --output` may write into the folder of a model; a push reads its figures.
FIGURES = "evaluation.json"
# A link to a file. The text of a link has no brackets here, which keeps the search linear in the length of the card.
LINK = re.compile(r"(?<!!)\[([^][]*)\]\((?!https?:|mailto:|#)([^()\s#]+)[^()\s]*\)")


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    with_code: bool = False,
    license: str | None = None,
    eval_results: list[EvalResult] | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> CommitInfo:
    """Uploads the folder of a pipeline, a model, an adapter or a tokenizer in one commit. The folder stays as it is.

    Uploads the files that `UPLOADED` names, and deletes older weights of the repository. Leaves out what `LEFT_OUT`
    names, and folders that are links.

    The card is the README.md of the folder, else the one of the repository, else a new one. Its figures are
    `eval_results`, else those of an `evaluation.json` in the folder that is newer than the weights. Without either the
    README.md of the folder keeps its figures, and the card of the repository loses those of its older weights.

    Args:
        folder (`str` or `Path`): the folder.
        repo_id (`str`): the repository; is made if it is missing.
        private (`bool`, *optional*): whether a new repository is private.
        revision (`str`, *optional*): the branch, `main` by default; is made if it is missing.
        token (`str` or `bool`, *optional*): token of the Hub, by default the one that the machine is logged in with.
        with_code (`bool`, defaults to `False`): whether to add the code that loads a pipeline or a model without this
            library, by `trust_remote_code=True`.
        license (`str`, *optional*): licence of the weights, for the card.
        eval_results (`list[EvalResult]`, *optional*): figures of the weights, for the card.
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
        card = _find_card(api, stage, folder, kind, facts, None if is_new_branch else revision)
        results = eval_results or _new_results(Path(folder), stage, card)
        if results or not (stage / "README.md").is_file():
            set_figures(card, results, repo_id.split("/")[1])
        if with_code and "trust_remote_code" not in card.text:
            card.text += code_section(kind, repo_id)
        card.data.license = license or card.data.license
        card.validate()
        card.save(stage / "README.md")
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


def _uploaded_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the files to upload with their paths in the folder. Skips linked folders."""
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
    """Copies the files to upload and removes paths of this machine from them. Weights are linked, not copied."""
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
    """Checks a folder. Returns its kind, the patterns of its weights and the facts for a card."""
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
    facts = {"sampling": index.get("_generation_config"), "base_model": index.get("base_model_name_or_path")}
    return kinds[0], patterns, facts | {"configs": configs, "num_parameters": num_parameters}


def _num_parameters(path: Path) -> int:
    """Parameters in a file of weights, without the buffers of a codebook."""
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if "quantizer." not in name and "codebook." not in name]
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ValueError(f"`folder` must hold whole weights, got {path.parent.name}/{path.name}: {error}") from error


def _find_card(
    api: HfApi, stage: Path, folder: str | Path, kind: str, facts: dict[str, Any], revision: str | None
) -> ModelCard:
    """The card of the folder without paths of this machine, that of the repository, or a new one."""
    path, repo_id = stage / "README.md", facts["repo_id"]
    if not path.is_file() and not api.file_exists(repo_id, "README.md", revision=revision):
        return render_card(kind, facts)
    card = _read_card(path if path.is_file() else api.hf_hub_download(repo_id, "README.md", revision=revision))
    if path.is_file():
        card.text = _renamed(card.text, folder, repo_id)
        base = card.data.base_model
        if any(map(_is_local, base if isinstance(base, list) else [base])):
            card.data.base_model = None
            card.data.tags = [tag for tag in card.data.tags or [] if not tag.startswith("base_model:")] or None
    card.text = LINK.sub(lambda link: link[int(not (stage / link[2]).exists())], card.text)
    return card


def _new_results(folder: Path, stage: Path, card: ModelCard) -> list[EvalResult]:
    """The results of an evaluation in the folder, unless the weights have changed since."""
    if not (stage / FIGURES).is_file():
        return []
    if any((folder / FIGURES).stat().st_mtime < path.stat().st_mtime for path in stage.rglob("*.safetensors")):
        logger.warning(f"The card gets no figures of {FIGURES}, which is older than the weights.")
        return []
    return results_of(read_json(stage, FIGURES).get("metrics", {}), card.data.pipeline_tag)


def _read_card(path: str | Path) -> ModelCard:
    try:
        return ModelCard.load(path)
    except Exception as error:  # YAML has errors of many kinds
        raise ValueError(f"README.md must be a model card in UTF-8, got {type(error).__name__}: {error}") from error


def _renamed(text: str, source: str | Path, name: str) -> str:
    """Replaces the path of `source` by `name` wherever a snippet of a card loads it."""
    for old in set(re.findall(r"from_pretrained\(\"([^\"]+)\"", text)):
        if old == NO_REPOSITORY or f"{Path(source).resolve()}/".endswith(f"/{old.strip('./')}/"):
            text = re.sub(rf"(?<![\w/]){re.escape(old)}(?![\w/-])", name, text)
    return text


def _is_local(name: str | None) -> bool:
    """Whether the name of a base model is a path and not a repository."""
    return name is not None and (Path(name).exists() or re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) is None)
