# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The local Hub of the tests, against the real clients: huggingface_hub, transformers, diffusers, datasets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from huggingface_hub import (
    ModelCard,
    create_branch,
    create_repo,
    create_tag,
    get_session,
    hf_hub_download,
    hf_hub_url,
    list_repo_commits,
    list_repo_tree,
    model_info,
    snapshot_download,
    upload_file,
    upload_folder,
    whoami,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image
from transformers import AutoModel, BertConfig, BertModel


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "vae").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "empty.bin").touch()
    (folder / "vae" / "config.json").write_text('{"depth": 4}')
    (folder / "vae" / "model.safetensors").write_bytes(os.urandom(3000))
    return folder


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def push(folder, repo_id="me/model", **kwargs):
    create_repo(repo_id, exist_ok=True)
    return upload_folder(repo_id=repo_id, folder_path=folder, **kwargs)


def test_an_uploaded_folder_comes_back_byte_for_byte(hub, folder):
    push(folder)
    assert {path: file.read_bytes() for path, file in hub.files("me/model").items()} == contents(folder)
    assert contents(Path(snapshot_download("me/model"))) == contents(folder)
    assert sum(request.method == "PUT" for request in hub.requests) == 1, "only the safetensors file goes through LFS"


def test_a_second_download_asks_for_the_revision_only(hub, folder):
    push(folder)
    snapshot_download("me/model")
    before = len(hub.requests)
    snapshot_download("me/model")
    assert [request.path for request in hub.requests[before:]] == ["/api/models/me/model/revision/main"]


def test_every_commit_stays_available_by_sha_branch_and_tag(hub, folder):
    first = push(folder).oid
    create_tag("me/model", tag="v1")
    create_branch("me/model", branch="old")
    (folder / "vae" / "config.json").write_text('{"depth": 8}')
    second = push(folder).oid
    depths = {}
    for revision in (first, first[:8], "v1", "old", second, "main"):
        with open(hf_hub_download("me/model", "vae/config.json", revision=revision)) as file:
            depths[revision] = json.load(file)["depth"]
    assert depths == {first: 4, first[:8]: 4, "v1": 4, "old": 4, second: 8, "main": 8}
    assert model_info("me/model").sha == second and model_info("me/model", revision="v1").sha == first


def test_commits_go_to_the_branch_that_is_named(hub, folder):
    push(folder)
    create_branch("me/model", branch="next")
    upload_file(repo_id="me/model", path_or_fileobj=b"new", path_in_repo="new.txt", revision="next")
    assert "new.txt" in hub.files("me/model", "next") and "new.txt" not in hub.files("me/model")


def test_an_unchanged_folder_makes_no_commit(hub, folder):
    first = push(folder).oid
    assert push(folder).oid == first
    assert [commit.commit_id for commit in list_repo_commits("me/model")][0] == first
    assert len(list_repo_commits("me/model")) == 2  # the empty first commit, and ours


def test_files_can_be_deleted_in_a_commit(hub, folder):
    push(folder)
    (folder / "other.txt").write_text("kept")
    push(folder, delete_patterns="vae/*", ignore_patterns="vae/*")
    assert sorted(hub.files("me/model")) == ["README.md", "empty.bin", "other.txt"]


def test_a_commit_on_an_outdated_parent_is_refused(hub, folder):
    first = push(folder).oid
    upload_file(repo_id="me/model", path_or_fileobj=b"1", path_in_repo="a.txt")
    with pytest.raises(HfHubHTTPError, match="412"):
        upload_file(repo_id="me/model", path_or_fileobj=b"2", path_in_repo="a.txt", parent_commit=first)
    assert hub.files("me/model")["a.txt"].read_bytes() == b"1"


def test_simultaneous_uploads_are_all_kept(hub, folder):
    push(folder)
    names = [f"{index}.txt" for index in range(8)]
    futures = [
        upload_file(repo_id="me/model", path_or_fileobj=name.encode(), path_in_repo=name, run_as_future=True)
        for name in names
    ]
    for future in futures:
        future.result()
    assert set(names) < set(hub.files("me/model"))


def test_the_tree_lists_files_and_folders(hub, folder):
    push(folder)
    paths = [entry.path for entry in list_repo_tree("me/model", recursive=True)]
    assert paths == ["README.md", "empty.bin", "vae", "vae/config.json", "vae/model.safetensors"]
    assert [entry.path for entry in list_repo_tree("me/model")] == ["README.md", "empty.bin", "vae"]
    assert [entry.path for entry in list_repo_tree("me/model", "vae")] == ["vae/config.json", "vae/model.safetensors"]
    sizes = {
        file.rfilename: (file.size, file.lfs is None) for file in model_info("me/model", files_metadata=True).siblings
    }
    assert sizes["vae/model.safetensors"] == (3000, False) and sizes["vae/config.json"] == (12, True)


def test_a_part_of_a_file_can_be_asked_for(hub, folder):
    push(folder)
    url, whole = hf_hub_url("me/model", "vae/model.safetensors"), (folder / "vae" / "model.safetensors").read_bytes()
    answers = {
        header: get_session().get(url, headers={"Range": header})
        for header in ("bytes=0-9", "bytes=2990-", "bytes=2990-5000", "bytes=3000-")
    }
    assert [answer.status_code for answer in answers.values()] == [206, 206, 206, 416]
    assert answers["bytes=0-9"].content == whole[:10]
    assert answers["bytes=2990-"].content == answers["bytes=2990-5000"].content == whole[2990:]
    assert answers["bytes=2990-"].headers["Content-Range"] == "bytes 2990-2999/3000"


def test_missing_things_raise_the_errors_that_the_client_knows(hub, folder):
    push(folder)
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("me/other")
    with pytest.raises(RepositoryNotFoundError):
        upload_folder(repo_id="me/other", folder_path=folder)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("me/model", "README.md", revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", "model.bin")
    with pytest.raises(EntryNotFoundError):
        list(list_repo_tree("me/model", "unet"))
    with pytest.raises(OSError, match="model.safetensors"):
        BertModel.from_pretrained("me/model")
    with pytest.raises(OSError, match="me/other is not"):
        AutoModel.from_pretrained("me/other")


def test_a_repository_is_created_once(hub):
    create_repo("me/model")
    with pytest.raises(HfHubHTTPError, match="409"):
        create_repo("me/model")
    assert create_repo("me/model", exist_ok=True).repo_id == "me/model"
    assert create_repo("mine").repo_id == f"{whoami()['name']}/mine"


def test_a_wrong_token_is_refused(hub, folder):
    push(folder)
    for call in (
        lambda: whoami(token="hf_wrong"),
        lambda: create_repo("me/new", token="hf_wrong"),
        lambda: push(folder, token="hf_wrong"),
        lambda: hf_hub_download("me/model", "README.md", token="hf_wrong"),
    ):
        with pytest.raises(HfHubHTTPError, match="401|Invalid user token") as error:
            call()
        assert error.value.response.status_code == 401 and not isinstance(error.value, RepositoryNotFoundError)
    assert ("model", "me/new") not in hub.repositories


def test_without_a_token_public_repositories_are_readable_only(hub, folder):
    push(folder)
    create_repo("me/secret", private=True)
    assert hf_hub_download("me/model", "README.md", token=False)
    with pytest.raises(HfHubHTTPError, match="401"):
        upload_file(repo_id="me/model", path_or_fileobj=b"1", path_in_repo="a.txt", token=False)
    with pytest.raises(RepositoryNotFoundError):
        model_info("me/secret", token=False)
    assert model_info("me/secret").private


def test_an_upload_that_does_not_match_its_hash_is_refused(hub):
    address = f"{hub.endpoint}/lfs/{'0' * 64}"
    assert get_session().put(address, content=b"something else").status_code == 400
    assert list(hub.blobs.iterdir()) == []


def test_card_metadata_is_checked_before_a_push(hub):
    create_repo("me/model")
    upload_file(repo_id="me/model", path_or_fileobj=b"---\nlicense: mit\n---\n# Card\n", path_in_repo="README.md")
    assert ModelCard.load("me/model").data.license == "mit"
    broken = b"---\nlicense: [mit\n---\n"
    with pytest.raises(ValueError, match="Invalid metadata"):
        upload_file(repo_id="me/model", path_or_fileobj=broken, path_in_repo="README.md")
    assert len(list_repo_commits("me/model")) == 2


def test_a_transformers_model_is_pushed_and_loaded(hub):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=11)
    model = BertModel(config)
    model.push_to_hub("me/bert", max_shard_size="5KB")
    shutil.rmtree(hub.cache, ignore_errors=True)
    loaded = AutoModel.from_pretrained("me/bert")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert "model.safetensors.index.json" in hub.files("me/bert")
    config.vocab_size = 12
    BertModel(config).push_to_hub("me/bert", revision="larger")
    assert AutoModel.from_pretrained("me/bert", revision="larger").config.vocab_size == 12
    assert AutoModel.from_pretrained("me/bert").config.vocab_size == 11


def test_a_diffusers_pipeline_is_pushed_and_loaded(hub):
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    pipeline.push_to_hub("me/ddpm", variant="fp16", private=True)
    loaded = DiffusionPipeline.from_pretrained("me/ddpm", variant="fp16")
    assert type(loaded) is DDPMPipeline
    assert all(torch.equal(value, loaded.unet.state_dict()[name]) for name, value in unet.state_dict().items())
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.files("me/ddpm")
    assert hub.repository("me/ddpm").private


def test_a_new_process_uses_the_same_hub(hub, tmp_path):
    pictures = tmp_path / "pictures" / "train"
    pictures.mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(pictures / f"{name}.png")
    captions = [json.dumps({"file_name": f"{name}.png", "text": f"caption {name}"}) for name in ("a", "b")]
    (pictures / "metadata.jsonl").write_text("\n".join(captions))
    create_repo("me/pictures", repo_type="dataset")
    upload_folder(repo_id="me/pictures", repo_type="dataset", folder_path=pictures.parent)
    program = """
from datasets import load_dataset
print(load_dataset("me/pictures")["train"]["text"][:])
print([row["image"].size for row in load_dataset("me/pictures", split="train", streaming=True)])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["['caption a', 'caption b']", "[(8, 8), (8, 8)]"]


def test_the_server_must_be_imported_before_the_client():
    program = "import huggingface_hub, hub_server"
    result = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert result.returncode != 0 and "must be imported before huggingface_hub" in result.stderr
