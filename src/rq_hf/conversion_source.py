# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Official checkpoints on disk: a folder or an archive of `stage1/` and `stage2/`, each of two files."""

import lzma
import os
import pickle
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml

# Stage 1 is the RQ-VAE, stage 2 the RQ-Transformer; the official configuration calls them so.
STAGE_TYPES = {"stage1": "rq-vae", "stage2": "rq-transformer"}
STAGE_FILES = ("model.pt", "config.yaml")


class ConfigLoader(yaml.SafeLoader):
    """Plain YAML in which `1e-1` and `1.5e3` are numbers, as the official code reads them, and no texts, as YAML 1.1
    has them."""


ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class OriginalStage:
    """
    One stage of an official checkpoint.

    Args:
        stage (`str`): `"stage1"` or `"stage2"`.
        folder (`Path`): the folder of its two files.
        name (`str`): where the user has it, for messages.
    """

    stage: str
    folder: Path
    name: str

    @property
    def config_name(self) -> str:
        """What messages call its configuration."""
        return f"{self.name}/config.yaml"

    @property
    def weights_name(self) -> str:
        """What messages call its weights."""
        return f"{self.name}/model.pt"

    def read_config(self) -> dict[str, Any]:
        """Its configuration.

        Raises:
            `ValueError`: not YAML, or not the configuration of this stage.
        """
        try:
            config = yaml.load((self.folder / "config.yaml").read_text(encoding="utf-8"), Loader=ConfigLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.config_name} must be plain YAML: {error}") from error
        arch = config.get("arch") if isinstance(config, dict) else None
        if not isinstance(arch, dict) or not isinstance(arch.get("type"), str):
            raise ValueError(f"{self.config_name} must have a section `arch` with a `type`, got {arch!r}.")
        expected = STAGE_TYPES[self.stage]
        if arch["type"].lower() != expected:
            raise ValueError(
                f"{self.config_name} must have `arch.type` {expected!r}, got {arch['type']!r}: this is the folder of "
                "another stage."
            )
        return config

    def read_weights(self, ema: bool = False, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
        """Its weights, mapped into memory from the file and not read before they are used.

        Args:
            ema: the averaged weights, `state_dict_ema`, instead of `state_dict`.
            allow_pickle: load objects other than tensors and plain containers too, which can execute code.

        Raises:
            `ValueError`: a truncated file, one that could execute code, or needs code that is missing, or one without
            these weights.
        """
        path, key = self.folder / "model.pt", "state_dict_ema" if ema else "state_dict"
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"{self.weights_name} must be a zip file as torch.save writes it: it is truncated, damaged, or older "
                "than torch 1.6."
            )
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load compares no checksums
        except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.weights_name} cannot be read, it is damaged: {error}") from error
        if damaged is not None:
            raise ValueError(f"{self.weights_name} is damaged: the checksum of {damaged!r} in it does not hold.")
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=not allow_pickle, mmap=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise ValueError(
                f"{self.weights_name} holds more than tensors and plain containers"
                + (f", {found[1]}," if found else "")
                + " which could execute code, and was not loaded. If you trust its origin, allow_pickle loads it."
            ) from error
        except (ImportError, AttributeError) as error:  # of what `allow_pickle` lets in
            raise ValueError(
                f"{self.weights_name} holds objects whose code must be installed to load them: {error}"
            ) from error
        except (RuntimeError, EOFError) as error:
            raise ValueError(f"{self.weights_name} cannot be read, it is truncated or damaged: {error}") from error
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), dict):
            keys = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
            raise ValueError(f"{self.weights_name} must hold a dictionary `{key}`, got {keys}.")
        weights = checkpoint[key]
        others = [
            name for name, value in weights.items() if not (torch.is_tensor(value) and value.is_floating_point())
        ]
        if others:
            raise ValueError(f"{self.weights_name} must hold tensors of floats in `{key}`, unlike {others}.")
        return weights


def find_stages(checkpoint: str | Path, workspace: str | Path) -> dict[str, OriginalStage]:
    """The stages of an official checkpoint, `"stage1"`, `"stage2"` or both.

    Args:
        checkpoint: folder with `stage1/` and/or `stage2/`, or an archive (`.tar.gz`) of such a folder.
        workspace: existing folder that takes the files of an archive.

    Raises:
        `ValueError`: nothing of the kind, a file missing, or an archive that is damaged or not to be trusted.
    """
    checkpoint = Path(checkpoint)
    expected = "a folder or .tar.gz archive with stage1/ or stage2/, each of model.pt and config.yaml"
    if not checkpoint.exists():
        raise ValueError(f"`checkpoint` must be {expected}, but there is no {checkpoint}.")
    folders = {stage: checkpoint / stage for stage in STAGE_TYPES if (checkpoint / stage).is_dir()}
    names = {stage: str(folder) for stage, folder in folders.items()}
    if not checkpoint.is_dir():
        names = _extract(checkpoint, Path(workspace))
        folders = {stage: Path(workspace) / stage for stage in names}
    if not folders:
        raise ValueError(f"`checkpoint` must be {expected}, and {checkpoint} is not.")
    for stage, folder in folders.items():
        for file in STAGE_FILES:
            if not (folder / file).is_file():
                found = sorted(path.name for path in folder.iterdir())
                raise ValueError(f"{names[stage]} must hold {' and '.join(STAGE_FILES)}, but has only {found}.")
    return {stage: OriginalStage(stage, folders[stage], names[stage]) for stage in sorted(folders)}


def _extract(archive: Path, workspace: Path) -> dict[str, str]:
    """Copies the files of each stage to `workspace/<stage>/`; returns what to call each stage."""
    names = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                path = PurePosixPath(member.name)
                if path.name not in STAGE_FILES or path.parent.name not in STAGE_TYPES:
                    continue
                if path.is_absolute() or ".." in path.parts or not member.isreg():
                    raise ValueError(f"{archive} must hold plain files in its own folder, got {member.name!r}.")
                stage, folder = path.parent.name, f"{archive}:{path.parent}"
                target = workspace / stage / path.name
                if target.exists() or names.setdefault(stage, folder) != folder:
                    raise ValueError(f"{archive} must hold one checkpoint, got a second {member.name!r}.")
                target.parent.mkdir(exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(members.extractfile(member), file, 2**20)
            while members.fileobj.read(2**20):
                pass  # up to the checksum of a compressed archive, which is at its end
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, and not of what the archive holds
        raise ValueError(f"{archive} cannot be read, it is truncated, damaged or no tar archive: {error}") from error
    return names


@contextmanager
def finished_folder(output: str | Path) -> Iterator[tuple[Path, Path]]:
    """Gives a folder to fill and a workspace, both beside `output`; the first becomes `output` if nothing fails.

    Whatever happens the rest is removed, and `output` is never there half written. Only a process that is killed
    outright leaves something: a folder `.NAME-*` beside it.

    Raises:
        `ValueError`: there is something at `output` already.
    """
    output = Path(output).resolve()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"`output` must be a new or empty folder, got {output}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
        result, workspace = Path(temporary) / "result", Path(temporary) / "workspace"
        result.mkdir()
        workspace.mkdir()
        yield result, workspace
        if output.exists():
            output.rmdir()
        os.rename(result, output)
