# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a failing Hub leaves: pushes that are repeated or end in an error that says why, and caches without corrupt
files. The client is the real one, the server fails when a test tells it to."""

import hashlib
import re
import runpy
import shutil
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from diffusers import DiffusionPipeline
from huggingface_hub import constants, create_repo, file_download, hf_hub_download, upload_folder
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _http
from scorers import tiny_clip
from test_hub import PROMPT, draw
from test_sharing import contents
from transformers import AutoConfig, AutoModel

from rq_hf import CLIPRanker, RQImageGenerationPipeline, RQVAEConfig, RQVAEModel, hub_cache
from rq_hf.sharing import push_folder

WEIGHTS = r"model\.safetensors"
# What is asked for in a push, in order.
PUSH = {
    "create": ("POST", "/api/repos/create"),
    "list": ("GET", "/api/models/me/tiny/tree"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "upload": ("PUT", "/lfs/"),
    "commit": ("POST", "/commit/"),
}
# The client does not repeat these by itself: there the error says what happened.
NOT_REPEATED = ("create", "commit")
# Kind, options, and what the error says.
PASSING = {
    "500": ("status", {"status": 500}, "500"),
    "429": ("status", {"status": 429, "headers": {"Retry-After": "0"}}, "429"),
    "slow": ("slow", {"seconds": 0.5}, None),
    "reset": ("reset", {}, "reset|disconnected|Broken pipe"),
}


@pytest.fixture
def folder(tiny_pipeline, tmp_path) -> Path:
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


class HastyClock:
    """The module `time`, but for waits, of which none is longer than 0.05 s."""

    def __getattr__(self, name: str):
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.05))


@pytest.fixture
def brief_waits(monkeypatch) -> None:
    """The client does not wait for long before it repeats a request."""
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", HastyClock())


def assert_pushed(hub, folder: Path) -> None:
    """The repository has the folder's files, and a card."""
    pushed = {path: file.read_bytes() for path, file in hub.files("me/tiny").items()}
    assert pushed.pop("README.md")
    assert pushed == contents(folder)


@pytest.mark.parametrize("step", PUSH)
@pytest.mark.parametrize("fault", PASSING)
def test_a_push_overcomes_a_fault_that_passes_or_says_what_it_was(hub, folder, brief_waits, fault, step):
    kind, options, error = PASSING[fault]
    before = contents(folder)
    injected = hub.fail(kind, *PUSH[step], **options)
    if step in NOT_REPEATED and error is not None:
        with pytest.raises((HfHubHTTPError, httpx2.HTTPError), match=error):
            push_folder(folder, "me/tiny")
        assert contents(folder) == before
        push_folder(folder, "me/tiny")
    else:
        push_folder(folder, "me/tiny")
    assert injected.times == 0
    assert contents(folder) == before
    assert_pushed(hub, folder)


@pytest.mark.parametrize("step", PUSH)
@pytest.mark.parametrize("status", [401, 403])
def test_a_push_that_is_not_allowed_says_so_and_changes_nothing(hub, folder, status, step):
    if step != "create":
        push_folder(folder, "me/tiny")
    (folder / "note.txt").write_text("changed")
    shutil.copy(folder / "transformer" / "model.safetensors", folder / "other.safetensors")
    with (folder / "other.safetensors").open("ab") as file:
        file.write(b" ")
    before, pushed = contents(folder), dict(hub.repositories)
    commits = {name: dict(repository.branches) for name, repository in pushed.items()}
    injected = hub.fail("status", *PUSH[step], status=status)
    with pytest.raises((HfHubHTTPError, RuntimeError)) as error:
        push_folder(folder, "me/tiny")
    assert str(status) in f"{error.value} {error.value.__cause__}"
    assert injected.times == 0
    assert contents(folder) == before and hub.repositories == pushed
    assert {name: repository.branches for name, repository in pushed.items()} == commits
    push_folder(folder, "me/tiny")
    assert hub.files("me/tiny")["note.txt"].read_text() == "changed"


def test_an_upload_that_arrives_changed_is_an_error_and_a_second_push_completes(hub, folder):
    before = contents(folder)
    hub.fail("wrong hash", *PUSH["upload"])
    with pytest.raises(RuntimeError, match="Error while uploading '.*model.safetensors'") as error:
        push_folder(folder, "me/tiny")
    assert "do not hash to" in str(error.value.__cause__)
    assert "model_index.json" not in hub.files("me/tiny")
    assert contents(folder) == before
    push_folder(folder, "me/tiny")
    assert_pushed(hub, folder)


def test_a_hub_that_stays_broken_is_an_error_after_some_attempts(hub, folder, brief_waits):
    hub.fail("status", *PUSH["commit"], status=503, times=100)
    with pytest.raises(HfHubHTTPError, match="503"):
        push_folder(folder, "me/tiny")
    assert "model_index.json" not in hub.files("me/tiny")
    hub.faults.clear()
    push_folder(folder, "me/tiny")
    assert_pushed(hub, folder)


# Loading.


def assert_no_corrupt_file(hub) -> None:
    """Each file that the cache calls by a hash has this hash."""
    for path in hub.cache.glob("models--*/blobs/*"):
        content = path.read_bytes()
        if re.fullmatch("[0-9a-f]{64}", path.name):
            assert hashlib.sha256(content).hexdigest() == path.name
        elif re.fullmatch("[0-9a-f]{40}", path.name):
            assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == path.name


LOADS = {
    "pipeline": lambda: RQImageGenerationPipeline.from_pretrained("me/tiny"),
    "component": lambda: RQVAEModel.from_pretrained("me/tiny", subfolder="rqvae"),
}
LOAD_FAULTS = {
    "500": ("status", {"status": 500}),
    "429": ("status", {"status": 429, "headers": {"Retry-After": "0"}}),
    "slow": ("slow", {"seconds": 0.5}),
    "reset": ("reset", {}),
    "wrong hash": ("wrong hash", {}),
    "401": ("status", {"status": 401}),
    "403": ("status", {"status": 403}),
}
ASKED = {"weights": ("GET", rf"resolve/.*{WEIGHTS}"), "config": ("GET", r"resolve/.*config\.json")}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("fault", LOAD_FAULTS)
def test_a_load_leaves_no_corrupt_file_and_a_second_one_succeeds(
    hub, tiny_pipeline, pictures, brief_waits, fault, asked, load
):
    tiny_pipeline.push_to_hub("me/tiny")
    kind, options = LOAD_FAULTS[fault]
    injected = hub.fail(kind, *ASKED[asked], **options)
    if fault in ("wrong hash", "401", "403"):
        with pytest.raises((OSError, HfHubHTTPError)) as error:
            LOADS[load]()
        expected = {"wrong hash": "other bytes than the Hub has", "401": "401|me/tiny", "403": "403|gated|me/tiny"}
        assert re.search(expected[fault], f"{error.value} {error.value.__cause__}")
    else:
        try:  # most are overcome
            LOADS[load]()
        except (OSError, HfHubHTTPError, httpx2.HTTPError) as error:
            assert fault in ("500", "reset"), error
    assert injected.times == 0
    assert_no_corrupt_file(hub)
    loaded = LOADS[load]()
    if load == "pipeline":
        assert np.array_equal(draw(loaded, PROMPT), draw(tiny_pipeline, PROMPT))
    else:
        assert (loaded.encode(pictures) == tiny_pipeline.rqvae.encode(pictures)).all()
    assert_no_corrupt_file(hub)


def test_a_download_that_is_cut_off_every_time_is_an_error_until_it_is_not(hub, tiny_rqvae, brief_waits, pictures):
    tiny_rqvae.push_to_hub("me/tiny")
    hub.fail("reset", *ASKED["weights"], times=100)
    with pytest.raises((OSError, httpx2.HTTPError), match="me/tiny|reset|disconnected|Broken pipe"):
        RQVAEModel.from_pretrained("me/tiny")
    assert_no_corrupt_file(hub)
    hub.faults.clear()
    assert (RQVAEModel.from_pretrained("me/tiny").encode(pictures) == tiny_rqvae.encode(pictures)).all()


def test_a_hub_that_answers_too_slowly_is_asked_again(hub, tiny_rqvae, brief_waits, monkeypatch):
    tiny_rqvae.push_to_hub("me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    slow = hub.fail("slow", *ASKED["weights"], seconds=1.5, times=2)
    RQVAEModel.from_pretrained("me/tiny")
    assert slow.times == 0  # it was asked twice while it was slow
    assert_no_corrupt_file(hub)


def test_the_fallback_to_the_cache_is_the_same_where_the_hub_fails(hub, tiny_pipeline, brief_waits):
    tiny_pipeline.push_to_hub("me/tiny")
    expected = draw(RQImageGenerationPipeline.from_pretrained("me/tiny"), PROMPT)
    for method in ("GET", "HEAD"):
        hub.fail("status", method, "me/tiny", status=500, times=1000)
    assert np.array_equal(draw(RQImageGenerationPipeline.from_pretrained("me/tiny"), PROMPT), expected)


FOREIGN_LOADS = {
    "base pipeline": lambda: DiffusionPipeline.from_pretrained("me/tiny"),
    "download": lambda: RQImageGenerationPipeline.download("me/tiny"),
    "auto model": lambda: AutoModel.from_pretrained("me/tiny", subfolder="rqvae"),
    "configuration": lambda: RQVAEConfig.from_pretrained("me/tiny", subfolder="rqvae"),
}


@pytest.mark.parametrize("load", FOREIGN_LOADS)
def test_a_corrupt_file_is_found_whichever_class_downloads_it(hub, tiny_pipeline, load):
    tiny_pipeline.push_to_hub("me/tiny")
    asked = ("GET", r"resolve/.*rqvae/config\.json") if load == "configuration" else ASKED["weights"]
    injected = hub.fail("wrong hash", *asked)
    with pytest.raises(OSError, match="other bytes than the Hub has"):
        FOREIGN_LOADS[load]()
    assert injected.times == 0
    assert_no_corrupt_file(hub)
    FOREIGN_LOADS[load]()
    assert_no_corrupt_file(hub)


def test_what_transformers_alone_left_corrupt_is_deleted_by_the_next_load_of_a_model(hub, tiny_rqvae, pictures):
    tiny_rqvae.push_to_hub("me/tiny")
    hub.fail("wrong hash", *ASKED["config"])
    with pytest.raises(OSError):
        AutoConfig.from_pretrained("me/tiny")  # reads the file before it knows whose it is
    with pytest.raises(OSError, match="other bytes than the Hub has"):
        RQVAEModel.from_pretrained("me/tiny")
    assert_no_corrupt_file(hub)
    assert (RQVAEModel.from_pretrained("me/tiny").encode(pictures) == tiny_rqvae.encode(pictures)).all()


def test_files_are_read_for_their_hash_once(hub, tiny_rqvae, monkeypatch):
    tiny_rqvae.push_to_hub("me/tiny")
    compared = []
    has_its_hash = hub_cache._has_its_hash
    monkeypatch.setattr(hub_cache, "_has_its_hash", lambda path: compared.append(path) or has_its_hash(path))
    RQVAEModel.from_pretrained("me/tiny")
    assert len(compared) >= 2
    once = len(compared)
    RQVAEModel.from_pretrained("me/tiny")
    assert len(compared) == once
    monkeypatch.setattr(hub_cache, "_compared", set())
    monkeypatch.setattr(hub_cache, "NEW", 0)
    monkeypatch.setattr(hub_cache, "BEGUN", time.time_ns() + 1)  # in another process, another day
    RQVAEModel.from_pretrained("me/tiny")
    assert len(compared) == once


def test_a_file_of_an_earlier_process_that_was_edited_stays_where_it_can_be_read(hub, tiny_rqvae, monkeypatch):
    tiny_rqvae.push_to_hub("me/tiny")
    RQVAEModel.from_pretrained("me/tiny")
    path = Path(hf_hub_download("me/tiny", "config.json"))
    edited = path.read_text().replace('"commitment_weight": 0.25', '"commitment_weight": 0.5')
    path.write_text(edited)  # in the cache, through the link
    monkeypatch.setattr(hub_cache, "BEGUN", time.time_ns() + 1)
    with pytest.warns(UserWarning, match="has other bytes than the Hub had; delete it"):
        assert RQVAEModel.from_pretrained("me/tiny").config.commitment_weight == 0.5
    path.write_text("{")
    with pytest.raises(OSError, match="not a valid JSON"):
        RQVAEModel.from_pretrained("me/tiny", local_files_only=True)
    assert path.read_text() == "{"
    monkeypatch.setattr(hub_cache, "_compared", set())
    with pytest.raises(OSError, match="other bytes than the Hub has"):
        RQVAEModel.from_pretrained("me/tiny")
    assert RQVAEModel.from_pretrained("me/tiny").config.commitment_weight == 0.25


def test_a_corrupt_ranker_is_found_too(hub, tiny_tokenizer, tmp_path):
    for part in tiny_clip(tiny_tokenizer):
        part.save_pretrained(tmp_path)
    create_repo("me/clip")
    upload_folder(repo_id="me/clip", folder_path=tmp_path)
    hub.fail("wrong hash", *ASKED["weights"])
    with pytest.raises(OSError, match="other bytes than the Hub has"):
        CLIPRanker("me/clip")
    CLIPRanker("me/clip")


def test_the_script_says_in_one_line_that_the_hub_does_not_answer(hub, folder, load_script, monkeypatch, capsys):
    script = Path(__file__).parents[1] / "scripts" / "push_to_hub.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(folder), "--repo_id", "me/tiny"])
    hub.fail("reset", *PUSH["create"], times=100)
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(script), run_name="__main__")
    assert len(str(error.value).splitlines()) == 1 and "Error" in str(error.value)
