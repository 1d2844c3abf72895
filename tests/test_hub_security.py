# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Repositories that mean harm: no pickle is read, and no code is run that was not trusted."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from huggingface_hub import create_repo, upload_folder
from transformers import AutoModel

from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration, RQVAEModel
from rq_hf.sharing import push_folder

CODE = """
from pathlib import Path
Path({mark!r}).write_text(__file__)
from rq_hf import RQVAEModel, RQTransformerForImageGeneration, RQImageGenerationPipeline
class Evil(RQVAEModel):
    pass
"""


class LeavesAMark:
    """What a pickle runs when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "was here"


@pytest.fixture
def saved(tiny_pipeline, tmp_path) -> Path:
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def upload(folder: Path, repo_id: str) -> None:
    """Uploads all files of a folder, also those that `push_folder` would refuse."""
    create_repo(repo_id, exist_ok=True)
    upload_folder(repo_id=repo_id, folder_path=folder)


def hostile_pickle(mark: Path) -> bytes:
    content = io.BytesIO()
    pickle.dump(LeavesAMark(mark), content)
    return content.getvalue()


def test_the_hostile_pickle_would_leave_its_mark(mark):
    pickle.loads(hostile_pickle(mark))
    assert mark.exists()


@pytest.mark.parametrize("component", ["rqvae", "transformer"])
def test_a_repository_with_only_a_pickle_is_refused(hub, saved, mark, component):
    (saved / component / "model.safetensors").unlink()
    (saved / component / "pytorch_model.bin").write_bytes(hostile_pickle(mark))
    upload(saved, "me/pickled")
    model_class = {"rqvae": RQVAEModel, "transformer": RQTransformerForImageGeneration}[component]
    for load in (
        lambda: RQImageGenerationPipeline.from_pretrained("me/pickled"),
        lambda: model_class.from_pretrained("me/pickled", subfolder=component),
        lambda: AutoModel.from_pretrained("me/pickled", subfolder=component),
        lambda: RQImageGenerationPipeline.from_pretrained(saved),
        lambda: DiffusionPipeline.from_pretrained("me/pickled"),
    ):
        with pytest.raises((OSError, ValueError), match="safetensors"):
            load()
    assert not mark.exists()


def test_pickles_beside_safetensors_are_neither_downloaded_nor_read(hub, saved, mark):
    for component in ("rqvae", "transformer"):
        (saved / component / "pytorch_model.bin").write_bytes(hostile_pickle(mark))
    (saved / "training_args.bin").write_bytes(hostile_pickle(mark))
    upload(saved, "me/both")
    RQImageGenerationPipeline.from_pretrained("me/both")
    AutoModel.from_pretrained("me/both", subfolder="rqvae")
    assert not mark.exists()
    assert [path.name for path in hub.cache.rglob("*.bin")] == []


def test_a_pickled_adapter_is_refused(hub, make_transformer, mark, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["out_proj"], "task_type": None}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.bin").write_bytes(hostile_pickle(mark))
    upload(adapter, "me/adapter")
    for source in ("me/adapter", str(adapter)):
        with pytest.raises((OSError, ValueError), match="safetensors"):
            make_transformer("none").load_adapter(source)
    with pytest.raises(ValueError, match="safetensors"):
        push_folder(adapter, "me/again")
    assert not mark.exists()


def test_no_load_looks_a_class_up_for_a_pickle(hub, tiny_pipeline):
    """In a process of its own, whose unpicklers report what they look for."""
    tiny_pipeline.push_to_hub("me/tiny", with_code=True)
    program = """
import sys
looked_up = []
from transformers import AutoModel
from rq_hf import RQImageGenerationPipeline
from diffusers import DiffusionPipeline
sys.addaudithook(lambda event, arguments: looked_up.append(arguments) if event == "pickle.find_class" else None)
RQImageGenerationPipeline.from_pretrained("me/tiny")
DiffusionPipeline.from_pretrained("me/tiny", trust_remote_code=True)
AutoModel.from_pretrained("me/tiny", subfolder="transformer")
print(looked_up)
import pickle, pathlib
pickle.loads(pickle.dumps(pathlib.PurePosixPath("x")))
print(len(looked_up) > 0)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.splitlines() == ["[]", "True"], finished.stderr


# Code.


def hostile_repository(saved: Path, mark: Path) -> None:
    """Code in every place that a library might look for some, and configurations that name it."""
    code = CODE.format(mark=str(mark))
    for name in ("pipeline.py", "evil.py", "rqvae/evil.py", "transformer/evil.py", "tokenizer/evil.py"):
        (saved / name).write_text(code)
    index = json.loads((saved / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", "RQImageGenerationPipeline"]
    index["rqvae"], index["transformer"] = ["evil", "Evil"], ["evil", "Evil"]
    (saved / "model_index.json").write_text(json.dumps(index))
    for component in ("rqvae", "transformer"):
        path = saved / component / "config.json"
        config = json.loads(path.read_text())
        config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
        path.write_text(json.dumps(config))


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_hostile_repository_runs_nothing_unless_it_is_trusted(hub, saved, mark, place):
    hostile_repository(saved, mark)
    upload(saved, "me/hostile")
    source = "me/hostile" if place == "hub" else str(saved)
    for load in (RQImageGenerationPipeline.from_pretrained, DiffusionPipeline.from_pretrained):
        for options in ({}, {"trust_remote_code": False}):
            with pytest.raises(ValueError, match="trust_remote_code|not one of the libraries"):
                load(source, **options)
    # The model types are the library's own: its classes are taken, and the code stays where it is.
    assert type(AutoModel.from_pretrained(source, subfolder="rqvae", trust_remote_code=False)) is RQVAEModel
    RQVAEModel.from_pretrained(source, subfolder="rqvae")
    assert not mark.exists()
    with pytest.raises(Exception):  # noqa: B017  whatever its code makes of it, once trusted it runs
        DiffusionPipeline.from_pretrained(source, trust_remote_code=True, custom_pipeline=source, rqvae=None)
        raise RuntimeError("it may load, too")
    assert mark.exists()


def test_an_unknown_model_type_runs_nothing_unless_it_is_trusted(hub, saved, mark):
    hostile_repository(saved, mark)
    path = saved / "rqvae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "evil"}))
    (saved / "rqvae" / "README.md").write_text("# Evil\n")
    upload(saved / "rqvae", "me/evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModel.from_pretrained("me/evil", trust_remote_code=False)
    assert not mark.exists()


def test_an_index_cannot_name_modules_of_the_machine(hub, saved, mark, tmp_path, monkeypatch):
    (tmp_path / "lying_about.py").write_text(CODE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    index = json.loads((saved / "model_index.json").read_text())
    index["rqvae"] = ["lying_about", "Evil"]
    (saved / "model_index.json").write_text(json.dumps(index))
    upload(saved, "me/hostile")
    for source in ("me/hostile", saved):
        with pytest.raises(ValueError, match="lying_about"):
            RQImageGenerationPipeline.from_pretrained(source)
    assert not mark.exists()
