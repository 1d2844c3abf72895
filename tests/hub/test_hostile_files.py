# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Repositories that mean harm: no pickle is read, no other file of the machine, and no code that is not trusted."""

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
from conftest import LeavesAMark
from diffusers import DiffusionPipeline
from huggingface_hub import create_repo, upload_folder
from transformers import AutoModel

from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration, RQVAEModel

CODE = """
from pathlib import Path
Path({mark!r}).write_text(__file__)
from rq_hf import RQVAEModel as Evil, RQTransformerForImageGeneration, RQImageGenerationPipeline
"""


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "was here"


def upload(folder: Path, repo_id: str) -> None:
    """Uploads all files of a folder, also those that `push_folder` would leave out."""
    create_repo(repo_id, exist_ok=True)
    upload_folder(repo_id=repo_id, folder_path=folder)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("component", ["rqvae", "transformer"])
def test_pickles_are_not_downloaded_beside_safetensors_and_refused_without_them(hub, saved, mark, component):
    pickled = pickle.dumps(LeavesAMark(mark))
    for name in (f"{component}/pytorch_model.bin", "training_args.bin"):
        (saved / name).write_bytes(pickled)
    upload(saved, "me/both")
    RQImageGenerationPipeline.from_pretrained("me/both")
    AutoModel.from_pretrained("me/both", subfolder=component)
    assert not any(hub.cache.rglob("*.bin"))
    (saved / component / "model.safetensors").unlink()
    upload(saved, "me/pickled")
    model_class = {"rqvae": RQVAEModel, "transformer": RQTransformerForImageGeneration}[component]
    for load, source, options in (
        *((RQImageGenerationPipeline, source, {}) for source in ("me/pickled", saved)),
        (DiffusionPipeline, "me/pickled", {}),
        *((load, "me/pickled", {"subfolder": component}) for load in (model_class, AutoModel)),
    ):
        with pytest.raises((OSError, ValueError), match="safetensors"):
            load.from_pretrained(source, **options)
    assert not mark.exists()
    pickle.loads(pickled)  # would leave it
    assert mark.exists()


@pytest.mark.parametrize("name", ["../../secret.safetensors", "pytorch_model.bin", "/dev/zero", "a/b.safetensors", 7])
def test_an_index_of_weights_cannot_name_pickles_or_other_files_of_the_machine(hub, saved, mark, name):
    weights = saved / "rqvae" / "model.safetensors"
    shutil.copy(weights, saved.parent / "secret.safetensors")
    weights.rename(saved / "rqvae" / "model-00001-of-00001.safetensors")  # so that diffusers downloads the folder
    (saved / "rqvae" / "pytorch_model.bin").write_bytes(pickle.dumps(LeavesAMark(mark)))
    index = {"metadata": {}, "weight_map": {"encoder.conv_in.weight": name}}
    (saved / "rqvae" / "model.safetensors.index.json").write_text(json.dumps(index))
    upload(saved, "me/hostile")
    for source in ("me/hostile", str(saved)):
        for load in (RQImageGenerationPipeline, DiffusionPipeline, RQVAEModel, AutoModel):
            options = {"subfolder": "rqvae"} if load in (RQVAEModel, AutoModel) else {}
            with pytest.raises(ValueError, match=r"must name plain \*.safetensors files, got "):
                load.from_pretrained(source, **options)
    assert not mark.exists()


def test_an_adapter_cannot_name_another_repository_as_its_base(hub, saved, tmp_path):
    upload(saved / "rqvae", "me/base")
    config = {"peft_type": "LORA", "target_modules": ["to_q"], "base_model_name_or_path": "me/base"}
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    upload(tmp_path / "lora", "me/lora")
    for source in ("me/lora", tmp_path / "lora"):
        with pytest.raises(ValueError, match="lora holds an adapter"):
            RQVAEModel.from_pretrained(source)


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_hostile_repository_runs_nothing_unless_it_is_trusted(hub, saved, mark, place):
    for name in ("pipeline.py", "evil.py", "rqvae/evil.py", "transformer/evil.py", "tokenizer/evil.py"):
        (saved / name).write_text(CODE.format(mark=str(mark)))
    names = {"_class_name": ["pipeline", "RQImageGenerationPipeline"]}
    change(saved / "model_index.json", **names, rqvae=["evil", "Evil"], transformer=["evil", "Evil"])
    for component in ("rqvae", "transformer"):
        change(saved / component / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    upload(saved, "me/hostile")
    source = "me/hostile" if place == "hub" else str(saved)
    for load in (RQImageGenerationPipeline.from_pretrained, DiffusionPipeline.from_pretrained):
        for options in ({}, {"trust_remote_code": False}):
            with pytest.raises(ValueError, match="has no class `Evil`|trust_remote_code"):
                load(source, **options)
    # The model types are the library's own. Its classes are taken, and the code stays where it is.
    assert type(AutoModel.from_pretrained(source, subfolder="rqvae", trust_remote_code=False)) is RQVAEModel
    assert not mark.exists()
    with contextlib.suppress(Exception):  # once trusted, the code runs, whatever comes of it
        DiffusionPipeline.from_pretrained(source, trust_remote_code=True, custom_pipeline=source, rqvae=None)
    assert mark.exists()


def test_a_pipeline_cannot_name_modules_of_the_machine(hub, saved, mark, tmp_path, monkeypatch):
    (tmp_path / "lying_about.py").write_text(CODE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    change(saved / "model_index.json", rqvae=["lying_about", "Evil"])
    upload(saved, "me/hostile")
    for source in ("me/hostile", saved):
        with pytest.raises(ValueError, match="lying_about"):
            RQImageGenerationPipeline.from_pretrained(source)
    assert not mark.exists()
