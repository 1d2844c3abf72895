# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sharing: what is uploaded and what never is, and loading by id, component, revision, variant, and from the cache."""

import argparse
import inspect
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, ModelCard, create_branch, create_repo, list_repo_commits, upload_folder
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from scorers import tiny_classifier, tiny_clip
from test_hub import PROMPT, draw
from transformers import AutoModel, AutoTokenizer

from rq_hf import CLIPRanker, ImageClassifier, RQImageGenerationPipeline, RQVAEModel, remote_code
from rq_hf.evaluation.models import load_pipeline
from rq_hf.hub_cache import PUSH_OPTIONS
from rq_hf.sharing import push_folder, shared_files

ROOT = Path(__file__).parents[1]
BOTH_CLASSES = pytest.mark.parametrize("load", [RQImageGenerationPipeline, DiffusionPipeline], ids=["own", "base"])


@pytest.fixture
def folder(tiny_pipeline, tmp_path) -> Path:
    """A saved pipeline among what a training leaves beside it."""
    folder = tmp_path / "pipeline"
    tiny_pipeline.save_pretrained(folder)
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "checkpoint-5/model.safetensors",
        "_incomplete/x",
        ".git/config",
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"something")
    (folder / "optimizer.pt").rename(folder / "transformer" / "optimizer.pt")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_pushed_by_the_script_and_stays_as_it_is(hub, folder, load_script, tiny_pipeline, capsys):
    before = contents(folder)
    load_script("push_to_hub").main([str(folder), "--repo_id", "me/tiny", "--private"])
    assert capsys.readouterr().out.strip().startswith(f"{hub.endpoint}/me/tiny/commit/")
    assert contents(folder) == before
    assert hub.repository("me/tiny").private
    pushed = set(hub.files("me/tiny"))
    assert pushed == {
        *("README.md", "model_index.json", "rqvae/config.json", "rqvae/model.safetensors", "transformer/config.json"),
        *("transformer/generation_config.json", "transformer/model.safetensors", "tokenizer/tokenizer.json"),
        "tokenizer/tokenizer_config.json",
    }
    assert len(list_repo_commits("me/tiny")) == 2  # the empty first one, and ours
    loaded = RQImageGenerationPipeline.from_pretrained("me/tiny")
    assert np.array_equal(draw(loaded, PROMPT), draw(tiny_pipeline, PROMPT))


def test_a_second_push_of_the_same_makes_no_commit(hub, folder):
    first = push_folder(folder, "me/tiny").oid
    assert push_folder(folder, "me/tiny").oid == first


def test_what_is_wrong_is_named_and_makes_no_repository(hub, folder, load_script, tmp_path):
    for arguments, expected in (
        ([tmp_path / "nothing", "--repo_id", "me/tiny"], "`folder` must have one of the files"),
        ([folder / "tokenizer", "--repo_id", "me/tiny", "--with_code"], "`folder` must be of a pipeline or a model"),
        ([folder, "--repo_id", "me/ti ny"], "me/ti ny"),
    ):
        with pytest.raises(ValueError, match=expected):
            load_script("push_to_hub").main(list(map(str, arguments)))
    with pytest.raises(ValueError, match="`variants` must be among .*, got .*int8"):
        push_folder(folder, "me/tiny", variants=["int8"])
    (tmp_path / "typo.json").write_text('{"dataset": {"name": "data"}, "metric": {"fid": 3.0}}')
    with pytest.raises(ValueError, match="`evaluation` must have a non-empty dictionary of `metrics`"):
        push_folder(folder, "me/tiny", evaluations=[tmp_path / "typo.json"])
    with pytest.raises(ValueError, match="`safe_serialization` must be True, got False"):
        RQVAEModel.from_pretrained(folder / "rqvae").push_to_hub("me/tiny", safe_serialization=False)
    assert hub.repositories == {}


def test_weights_that_are_only_pickled_are_not_pushed(hub, folder):
    weights = folder / "rqvae" / "model.safetensors"
    torch.save(load_file(weights), folder / "rqvae" / "pytorch_model.bin")
    assert "rqvae/pytorch_model.bin" not in shared_files(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="`folder` must hold weights as safetensors, got .*pytorch_model.bin"):
        push_folder(folder, "me/tiny")
    assert hub.repositories == {}


def test_a_pipeline_whose_transformer_has_an_adapter_is_neither_saved_nor_pushed(hub, tiny_pipeline, tmp_path):
    adapted = get_peft_model(tiny_pipeline.transformer, LoraConfig(r=2, target_modules=["out_proj"]))
    tiny_pipeline.transformer = adapted
    for save in (lambda: tiny_pipeline.save_pretrained(tmp_path / "a"), lambda: tiny_pipeline.push_to_hub("me/a")):
        with pytest.raises(ValueError, match="`transformer` must have no adapter to be saved in a pipeline, got one"):
            save()
    assert hub.repositories == {} and not (tmp_path / "a").exists()
    adapted.save_pretrained(tmp_path / "adapter")
    tiny_pipeline.transformer = adapted.merge_and_unload()
    tiny_pipeline.push_to_hub("me/a", "Merged")
    tiny_pipeline.transformer.load_adapter(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="must have no adapter to be saved in a pipeline, got one: load the pipeline"):
        tiny_pipeline.save_pretrained(tmp_path / "a")
    assert list_repo_commits("me/a")[0].title == "Merged"


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_pipeline_that_lacks_a_part_is_not_pushed(hub, folder, lost):
    (folder / "rqvae" / lost).unlink()
    with pytest.raises(ValueError, match="`folder` must hold rqvae/config.json and weights beside it"):
        push_folder(folder, "me/tiny")
    assert hub.repositories == {}


def test_the_tags_of_a_model_are_those_of_its_card(hub, tiny_rqvae):
    tiny_rqvae.add_model_tags(["emoji"])
    tiny_rqvae.push_to_hub("me/tagged")
    assert "emoji" in ModelCard.load("me/tagged").data.tags


def test_a_pickle_by_another_name_is_known_by_what_it_begins_with(folder):
    shared = set(shared_files(folder))
    (folder / "notes.txt").write_text("words")
    torch.save({"weight": torch.zeros(2)}, folder / "rqvae" / "state.dat")
    torch.save({"weight": torch.zeros(2)}, folder / "rqvae" / "old.dat", _use_new_zipfile_serialization=False)
    with (folder / "transformer" / "scores").open("wb") as file:
        pickle.dump([1, 2], file)
    assert set(shared_files(folder)) == shared | {"notes.txt"}


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_weights_whose_header_is_as_long_as_a_pickle_begins_are_pushed(folder, length):
    path = folder / "rqvae" / "extra.safetensors"
    for spare in range(length):  # the header has the metadata in it
        save_file({"weight": torch.zeros(2)}, path, metadata={"spare": "x" * spare})
        if path.read_bytes()[:2] == length.to_bytes(2, "little"):
            break
    else:
        pytest.fail("no such header")
    assert "rqvae/extra.safetensors" in shared_files(folder)
    path.write_bytes(pickle.dumps([1, 2]))
    assert "rqvae/extra.safetensors" not in shared_files(folder)


@BOTH_CLASSES
@pytest.mark.parametrize("max_shard_size", [None, "40KB"], ids=["whole", "sharded"])
def test_variants_are_pushed_and_loaded_in_half_precision(hub, folder, load, max_shard_size):
    push_folder(folder, "me/tiny", variants=["fp16", "bf16"], max_shard_size=max_shard_size)
    files = hub.files("me/tiny")
    assert ("transformer/model.safetensors.index.fp16.json" in files) == (max_shard_size is not None)
    assert ("transformer/model.safetensors" in files) == (max_shard_size is None)
    whole = load.from_pretrained("me/tiny")
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        shutil.rmtree(hub.cache)
        loaded = load.from_pretrained("me/tiny", variant=variant, dtype=dtype)
        assert loaded.transformer.dtype == loaded.rqvae.encoder.conv_in.weight.dtype == dtype
        for name, value in whole.transformer.state_dict().items():
            assert torch.equal(loaded.transformer.state_dict()[name], value.to(dtype)), name
        quantizer = loaded.rqvae.quantizer.state_dict()
        averages = [name for name in quantizer if "cluster_size" in name or "embedding_sum" in name]
        assert averages
        for name in averages:
            assert torch.equal(quantizer[name], whole.rqvae.quantizer.state_dict()[name]), name
        downloaded = {path.name for path in hub.cache.rglob("*.safetensors")}
        assert downloaded and all(variant in name for name in downloaded)


def test_variants_are_made_of_split_weights_too_and_these_split_anew(hub, tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "split", max_shard_size="40KB")
    index = tmp_path / "split" / "transformer" / "model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 1
    push_folder(tmp_path / "split", "me/tiny", variants=["fp16"])
    loaded = RQImageGenerationPipeline.from_pretrained("me/tiny", variant="fp16", dtype=torch.float16)
    for name, value in tiny_pipeline.transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], value.to(torch.float16)), name
    downloaded = {path.name for path in hub.cache.rglob("transformer/*.safetensors")}
    assert downloaded and all("fp16" in name for name in downloaded)
    push_folder(tmp_path / "split", "me/whole", max_shard_size="1GB")
    kept = [path for path in hub.files("me/whole") if path.startswith("transformer/model")]
    assert kept == ["transformer/model.safetensors"]
    assert np.array_equal(
        draw(RQImageGenerationPipeline.from_pretrained("me/whole"), PROMPT), draw(tiny_pipeline, PROMPT)
    )
    next(index.parent.glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="`folder` must hold the files that 'transformer/model.*index.json' names"):
        push_folder(tmp_path / "split", "me/broken", variants=["fp16"])
    assert {repo_id for _, repo_id in hub.repositories} == {"me/tiny", "me/whole"}


def test_everything_comes_from_the_revision_that_was_asked_for(hub, tiny_pipeline, tiny_tokenizer, tmp_path):
    """Of repositories that have nothing on their main branch."""

    def on_a_branch(name: str, *items) -> None:
        for item in items:
            item.save_pretrained(tmp_path / name)
        create_repo(f"me/{name}")
        create_branch(f"me/{name}", branch="trial")
        upload_folder(repo_id=f"me/{name}", folder_path=tmp_path / name, revision="trial")

    on_a_branch("clip", *tiny_clip(tiny_tokenizer))
    on_a_branch("classifier", *tiny_classifier())
    on_a_branch("pictures", tiny_pipeline)
    assert CLIPRanker("me/clip", revision="trial").processor.tokenizer is not None
    assert ImageClassifier("me/classifier", revision="trial").image_processor is not None
    arguments = argparse.Namespace(model="me/pictures", revision="trial", dtype="float32", device="cpu")
    assert np.array_equal(draw(load_pipeline(arguments), PROMPT), draw(tiny_pipeline, PROMPT))


def test_an_adapter_is_looked_for_where_it_is_loaded_from(hub, make_transformer, tmp_path):
    config = LoraConfig(r=2, target_modules=["out_proj"])
    get_peft_model(make_transformer("none"), config).save_pretrained(tmp_path / "adapter")
    create_repo("me/adapter")
    create_branch("me/adapter", branch="trial")
    upload_folder(repo_id="me/adapter", folder_path=tmp_path / "adapter", revision="trial")
    for options in ("adapter_kwargs", "download_kwargs"):
        loading = make_transformer("none")
        loading.load_adapter("me/adapter", **{options: {"revision": "trial"}})
        assert any("lora_A" in name for name in loading.state_dict())


def test_split_weights_take_the_place_of_whole_ones(hub, folder, tiny_pipeline):
    push_folder(folder, "me/tiny")
    push_folder(folder, "me/tiny", max_shard_size="40KB")
    assert "transformer/model.safetensors" not in hub.files("me/tiny")
    assert np.array_equal(
        draw(RQImageGenerationPipeline.from_pretrained("me/tiny"), PROMPT), draw(tiny_pipeline, PROMPT)
    )
    push_folder(folder, "me/tiny")
    left = [path for path in hub.files("me/tiny") if "transformer/model" in path]
    assert left == ["transformer/model.safetensors"]


def test_a_pull_request_is_pushed_to_as_it_is(hub, folder, monkeypatch):
    push_folder(folder, "me/tiny")
    branches = hub.repository("me/tiny").branches
    branches["refs/pr/1"] = branches["main"]  # the Hub makes these itself, and no branch of such a name
    monkeypatch.setattr(HfApi, "create_branch", None)
    (folder / "notes.txt").write_text("words")
    push_folder(folder, "me/tiny", revision="refs/pr/1")
    assert "notes.txt" in hub.files("me/tiny", "refs/pr/1") and "notes.txt" not in hub.files("me/tiny")


def test_a_pull_request_is_opened_and_the_branch_stays_as_it_is(hub, folder):
    push_folder(folder, "me/tiny")
    before = hub.files("me/tiny")
    (folder / "notes.txt").write_text("words")
    answer = push_folder(folder, "me/tiny", create_pr=True, commit_message="Words")
    assert answer.pr_url == f"{hub.endpoint}/me/tiny/discussions/1" and hub.files("me/tiny") == before
    assert set(hub.files("me/tiny", "refs/pr/1")) == {*before, "notes.txt"}


def test_a_revision_is_a_branch_that_can_be_loaded(hub, folder, tiny_pipeline):
    push_folder(folder, "me/tiny")
    for parameter in tiny_pipeline.transformer.code_head.parameters():
        torch.nn.init.zeros_(parameter)
    tiny_pipeline.push_to_hub("me/tiny", revision="flat")
    main = RQImageGenerationPipeline.from_pretrained("me/tiny")
    flat = RQImageGenerationPipeline.from_pretrained("me/tiny", revision="flat")
    assert not np.array_equal(draw(main, PROMPT), draw(flat, PROMPT))
    assert np.array_equal(draw(flat, PROMPT), draw(tiny_pipeline, PROMPT))


def test_models_and_adapters_and_tokenizers_get_cards_of_their_own(hub, tiny_rqvae, tiny_tokenizer, tmp_path):
    tiny_rqvae.push_to_hub("me/rqvae", private=True, tags=["small"])
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    push_folder(tmp_path / "tokenizer", "me/tokenizer")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 4, "base_model_name_or_path": "me/base"}')
    save_file({"weight": torch.zeros(2)}, tmp_path / "adapter" / "adapter_model.safetensors")
    push_folder(tmp_path / "adapter", "me/adapter")
    assert hub.repository("me/rqvae").private
    assert "small" in ModelCard.load("me/rqvae").data.tags
    assert ModelCard.load("me/adapter").data.base_model == "me/base"
    assert AutoTokenizer.from_pretrained("me/tokenizer").get_vocab() == tiny_tokenizer.get_vocab()
    for name, library in (("rqvae", "rq_hf"), ("adapter", "peft"), ("tokenizer", "transformers")):
        card = ModelCard.load(f"me/{name}")
        assert card.data.library_name == library
        assert "[More Information Needed]" not in card.text and "None" not in card.text


def test_a_card_of_the_folder_goes_along_with_the_evaluations_that_are_named(hub, folder, tmp_path):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nMy words.\n\n## Citation\n\nMe.\n")
    evaluation = {"dataset": {"name": "Emoji", "split": "test"}, "metrics": {"fid": 12.5}}
    (tmp_path / "results.json").write_text(json.dumps(evaluation))
    push_folder(folder, "me/tiny", evaluations=[tmp_path / "results.json"], with_code=True)
    card = ModelCard.load("me/tiny")
    assert card.data.license == "mit" and card.data.model_name == "tiny"
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [("fid", 12.5)]
    order = [
        "My words.",
        "## Without rq_hf",
        "## Evaluation of me/tiny",
        "| Emoji | test | FID | 12.5 |",
        "## Citation",
    ]
    assert sorted(order, key=card.text.index) == order
    assert "license: mit\n---\n# Mine" in (folder / "README.md").read_text()


@BOTH_CLASSES
def test_what_was_loaded_once_loads_without_the_hub(hub, folder, load):
    push_folder(folder, "me/tiny")
    expected = draw(load.from_pretrained("me/tiny"), PROMPT)
    before = len(hub.requests)
    loaded = load.from_pretrained("me/tiny", local_files_only=True)
    assert np.array_equal(draw(loaded, PROMPT), expected)
    RQVAEModel.from_pretrained("me/tiny", subfolder="rqvae", local_files_only=True)
    assert len(hub.requests) == before
    shutil.rmtree(hub.cache)
    with pytest.raises(OSError, match="me/tiny|model_index.json|local"):
        load.from_pretrained("me/tiny", local_files_only=True)


# With code.


@pytest.fixture
def coded(hub, folder) -> str:
    push_folder(folder, "me/coded", with_code=True)
    return "me/coded"


def test_code_is_one_file_for_each_part(hub, coded):
    files = hub.files(coded)
    assert [path for path in files if path.endswith(".py")] == [
        *("modeling_rq_transformer.py", "modeling_rqvae.py", "pipeline.py"),
        *("rqvae/modeling_rqvae.py", "transformer/modeling_rq_transformer.py"),
    ]
    for path in ("rqvae/modeling_rqvae.py", "transformer/modeling_rq_transformer.py"):  # of diffusers, of transformers
        assert files[path].read_text() == files[path.rpartition("/")[2]].read_text()
    for path in files:
        if path.endswith(".py"):
            text = files[path].read_text()
            compile(text, path, "exec")
            assert "import rq_hf" not in text.replace(">>> import rq_hf", "") and "\nfrom ." not in text
    index = json.loads(files["model_index.json"].read_text())
    assert index["_class_name"] == ["pipeline", "RQImageGenerationPipeline"]
    assert index["rqvae"] == ["modeling_rqvae", "RQVAEModel"]


def test_a_repository_with_code_needs_no_trust_where_the_library_is_installed(hub, coded, tiny_pipeline, tmp_path):
    loaded = RQImageGenerationPipeline.from_pretrained(coded)
    assert type(loaded) is RQImageGenerationPipeline and type(loaded.rqvae) is RQVAEModel
    assert np.array_equal(draw(loaded, PROMPT), draw(tiny_pipeline, PROMPT))
    assert not any(path.suffix == ".py" and path.parent.name == "rqvae" for path in hub.cache.rglob("*"))
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["rqvae"] == ["rq_hf", "RQVAEModel"]
    rqvae = AutoModel.from_pretrained(coded, subfolder="rqvae")
    assert type(rqvae) is RQVAEModel
    loaded.push_to_hub("me/plain")
    for path, file in hub.files("me/plain").items():  # names no code that it does not have
        assert not path.endswith(".py") and "auto_map" not in (file.read_text() if path.endswith(".json") else "")


def test_the_single_files_define_what_the_modules_do(coded, hub, tiny_pipeline):
    """In this process too, where the library is: what they give is the same, from other classes."""
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(coded)
    for options in ({}, {"custom_pipeline": coded}):
        loaded = DiffusionPipeline.from_pretrained(coded, trust_remote_code=True, **options)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is not RQImageGenerationPipeline and "diffusers_modules" in type(loaded.rqvae).__module__
        assert np.array_equal(draw(loaded, PROMPT), draw(tiny_pipeline, PROMPT))
        picture, mask = Image.effect_noise((16, 16), 90).convert("RGB"), torch.eye(4, dtype=torch.bool)
        for name, options in (("complete", {"mask": mask}), ("vary", {"keep_depths": 1})):
            edited = [
                getattr(pipe, name)(picture, PROMPT, **options, generator=torch.Generator().manual_seed(0)).images[0]
                for pipe in (loaded, tiny_pipeline)
            ]
            assert edited[0] == edited[1]


def test_a_pushed_model_with_code_is_loaded_by_its_id(hub, tiny_rqvae, pictures):
    tiny_rqvae.push_to_hub("me/rqvae", with_code=True)
    assert type(AutoModel.from_pretrained("me/rqvae", trust_remote_code=False)) is RQVAEModel
    assert torch.equal(RQVAEModel.from_pretrained("me/rqvae").encode(pictures), tiny_rqvae.encode(pictures))


def test_names_that_mean_two_things_are_refused(tmp_path, monkeypatch):
    (tmp_path / "first.py").write_text("SIZE = 1\n")
    (tmp_path / "second.py").write_text("from .first import SIZE\n\nWIDTH = SIZE\n")
    (tmp_path / "third.py").write_text("from .second import WIDTH\n\nSIZE = 2\n")
    monkeypatch.setattr(remote_code, "PACKAGE", tmp_path)
    assert "SIZE = 1\n\n\nWIDTH = SIZE\n" in remote_code.single_file("second")
    with pytest.raises(ValueError, match="third.py must not give `SIZE` another meaning"):
        remote_code.single_file("third")


def test_a_tokenizer_is_pushed_by_the_script_that_makes_it(hub, load_script, tmp_path):
    data = ROOT / "tests" / "fixtures" / "emoji"
    load_script("train_caption_tokenizer").main(
        ["--dataset_name", str(data), "--caption_column", "captions", "--vocab_size", "300", "--max_length", "8"]
        + ["--output_dir", str(tmp_path / "tokenizer"), "--push_to_hub", "--hub_model_id", "me/words"]
    )
    assert set(hub.files("me/words")) == {"README.md", "tokenizer.json", "tokenizer_config.json"}
    assert AutoTokenizer.from_pretrained("me/words").model_max_length == 8


def test_saving_with_push_to_hub_shares_as_push_to_hub_does(hub, tiny_pipeline, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint-5").mkdir(parents=True)
    for name in ("training_args.bin", "checkpoint-5/optimizer.pt"):
        torch.save({"step": 1}, run / name)
    tiny_pipeline.save_pretrained(run, push_to_hub=True, repo_id="me/saved", private=True, commit_message="A run")
    files = set(hub.files("me/saved"))
    assert {"model_index.json", "rqvae/model.safetensors", "README.md"} <= files
    assert not [path for path in files if path.endswith((".bin", ".pt"))] and hub.repository("me/saved").private
    assert list_repo_commits("me/saved")[0].title == "A run"
    card = ModelCard.load("me/saved")
    assert "## How to use" in card.text and "Provide a quick summary" not in card.text
    tiny_pipeline.rqvae.save_pretrained(tmp_path / "rqvae", push_to_hub=True, revision="trial", variant="fp16")
    assert "model.fp16.safetensors" in hub.files("tester/rqvae", "trial")
    assert "# rqvae" in hub.files("tester/rqvae", "trial")["README.md"].read_text()
    tiny_pipeline.rqvae.save_pretrained(tmp_path / "rqvae", is_main_process=False, push_to_hub=True, repo_id="me/none")
    assert ("model", "me/none") not in hub.repositories


def evaluation(split: str, psnr: float) -> dict:
    return {"dataset": {"name": "emoji", "split": split}, "metrics": {"psnr": psnr}}


def test_a_later_push_adds_evaluations_and_code_to_the_card_that_is_there(hub, tiny_pipeline):
    tiny_pipeline.push_to_hub("me/tiny")
    before = hub.files("me/tiny")["README.md"].read_text()
    tiny_pipeline.push_to_hub("me/tiny")
    assert hub.files("me/tiny")["README.md"].read_text() == before
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[evaluation("test", 27.0)], with_code=True)
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[evaluation("test", 28.5), evaluation("other", 26.0)])
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[evaluation("other", 25.0)])
    card = ModelCard.load("me/tiny")
    assert {(result.dataset_split, result.metric_value) for result in card.data.eval_results} == {
        ("test", 28.5), ("other", 25.0)
    }  # fmt: skip
    assert card.text.count("## Evaluation of me/tiny") == card.text.count("## Without rq_hf") == 1
    rows = [line for line in card.text.splitlines() if line.startswith("| emoji |")]
    assert rows == ["| emoji | test | PSNR (dB) | 28.5 |", "| emoji | other | PSNR (dB) | 25 |"]
    assert card.text.index("## Evaluation of me/tiny") < card.text.index("## Citation")


def test_a_later_push_replaces_values_in_the_tables_that_are_there(hub, tiny_pipeline):
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[evaluation("test", 27.0), evaluation("train", 30.0)])
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[evaluation("test", 28.5)])
    card = ModelCard.load("me/tiny")
    rows = [line for line in card.text.splitlines() if line.startswith("| emoji |")]
    assert rows == ["| emoji | test | PSNR (dB) | 28.5 |", "| emoji | train | PSNR (dB) | 30 |"]
    assert "## Evaluation of me/tiny" not in card.text
    assert {(result.dataset_split, result.metric_value) for result in card.data.eval_results} == {
        ("test", 28.5), ("train", 30.0)
    }  # fmt: skip


def test_saving_takes_every_option_of_a_push_that_is_not_one_of_saving():
    options = set(inspect.signature(push_folder).parameters) - {"folder", "max_shard_size"}
    assert set(PUSH_OPTIONS) == options


def test_a_pull_request_makes_no_branch(hub, tiny_rqvae):
    tiny_rqvae.push_to_hub("me/tiny")
    create_branch("me/tiny", branch="base")
    tiny_rqvae.push_to_hub("me/tiny", create_pr=True, revision="base", with_code=True)
    with pytest.raises(HfHubHTTPError):
        tiny_rqvae.push_to_hub("me/tiny", create_pr=True, revision="another")
    assert set(hub.repository("me/tiny").branches) == {"main", "base", "refs/pr/1"}


@pytest.mark.parametrize(
    "labels, null, example",
    [
        ({0: "nothing", 1: "goose", 2: "volcano", 3: "tabby"}, (0,), '"goose"'),
        ({0: "crane", 1: "crane", 2: "volcano", 3: "tabby"}, None, "0"),
        (None, (0,), "1"),
        (None, None, "0"),
    ],
)
def test_the_example_of_a_card_is_a_class_that_can_be_asked_for(hub, make_pipeline, labels, null, example):
    pipe = make_pipeline("class")
    config = pipe.transformer.config
    config.id2label, config.null_condition_ids = labels, null
    config.label2id = labels and {name: index for index, name in labels.items()}
    pipe.push_to_hub("me/classes")
    text = ModelCard.load("me/classes").text
    assert f"class_labels={example}" in text
    pipe(class_labels=json.loads(example))


def test_a_repository_with_code_gets_it_anew_and_one_with_other_code_none(hub, folder):
    push_folder(folder, "me/tiny", with_code=True)
    before = set(hub.files("me/tiny"))
    index = hub.files("me/tiny")["model_index.json"].read_bytes()
    (folder / "model_index.json").write_text(
        (folder / "model_index.json").read_text() + "\n"
    )  # so that it is uploaded
    push_folder(folder, "me/tiny")
    assert set(hub.files("me/tiny")) == before and hub.files("me/tiny")["model_index.json"].read_bytes() == index
    assert hub.files("me/tiny")["README.md"].read_text().count("## Without rq_hf") == 1
    create_repo("me/own")
    HfApi().upload_file(path_or_fileobj=b"print('\xff')", path_in_repo="pipeline.py", repo_id="me/own")
    push_folder(folder, "me/own")
    assert hub.files("me/own")["pipeline.py"].read_bytes() == b"print('\xff')"
    assert "rqvae/modeling_rqvae.py" not in hub.files("me/own")


def test_an_older_variant_in_the_folder_is_not_pushed_beside_the_new_one(hub, tiny_rqvae, tmp_path):
    tiny_rqvae.save_pretrained(tmp_path, variant="fp16")
    old = tmp_path / "model.fp16.safetensors"
    content = old.read_bytes()
    tiny_rqvae.encoder.conv_in.bias.data.fill_(3.0)
    tiny_rqvae.save_pretrained(tmp_path)
    old.write_bytes(content)  # which saving takes away
    push_folder(tmp_path, "me/tiny", variants=["fp16"], max_shard_size="40KB")
    loaded = RQVAEModel.from_pretrained("me/tiny", variant="fp16")
    assert (loaded.encoder.conv_in.bias == 3.0).all() and "model.fp16.safetensors" not in hub.files("me/tiny")


def test_variants_of_an_earlier_push_are_kept_with_a_warning(hub, folder, caplog):
    push_folder(folder, "me/tiny", variants=["fp16"])
    assert "me/tiny keeps weights" not in caplog.text
    push_folder(folder, "me/tiny")
    kept = ["rqvae/model.fp16.safetensors", "transformer/model.fp16.safetensors"]
    assert f"me/tiny keeps weights of an earlier push, which may be older than these: {kept}." in caplog.text
    assert set(kept) <= set(hub.files("me/tiny"))


def test_evaluations_of_one_metric_keep_a_row_each(hub, tiny_pipeline):
    def rows() -> list[str]:
        return [line for line in ModelCard.load("me/tiny").text.splitlines() if line.startswith("| emoji")]

    twice = [evaluation("test", 20.0), evaluation("test", 30.0)]
    for _ in range(2):
        tiny_pipeline.push_to_hub("me/tiny", evaluations=twice)
        assert rows() == ["| emoji | test | PSNR (dB) | 20 |", "| emoji | test | PSNR (dB) | 30 |"]
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[evaluation("test", 25.0)])
    assert rows() == ["| emoji | test | PSNR (dB) | 25 |"]
    assert [result.metric_value for result in ModelCard.load("me/tiny").data.eval_results] == [25.0]
    small = evaluation("test", 21.0)
    small["dataset"] |= {"config": "small", "revision": "v1"}
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[small])
    expected = ["| emoji | test | PSNR (dB) | 25 |", "| emoji (small, v1) | test | PSNR (dB) | 21 |"]
    assert rows() == expected
    text = ModelCard.load("me/tiny").text
    HfApi().upload_file(
        path_or_fileobj=f"{text}\n# In short\n\n{expected[0]}\n".encode(), path_in_repo="README.md", repo_id="me/tiny"
    )
    tiny_pipeline.push_to_hub("me/tiny", evaluations=[evaluation("test", 26.0)])
    assert rows() == ["| emoji | test | PSNR (dB) | 26 |", expected[1], "| emoji | test | PSNR (dB) | 26 |"]


def test_links_to_folders_are_followed_and_a_missing_tokenizer_is_named(hub, folder, tiny_pipeline, tmp_path):
    (folder / "tokenizer").rename(tmp_path / "words")
    with pytest.raises(ValueError, match="`folder` must hold a folder 'tokenizer', for the `tokenizer` of its"):
        push_folder(folder, "me/tiny")
    assert hub.repositories == {}
    (folder / "tokenizer").symlink_to(tmp_path / "words")
    (folder / "rqvae" / "back").symlink_to(folder)
    (folder / "latest").symlink_to(folder / "checkpoint-5")
    push_folder(folder, "me/tiny")
    assert np.array_equal(
        draw(RQImageGenerationPipeline.from_pretrained("me/tiny"), PROMPT), draw(tiny_pipeline, PROMPT)
    )
    assert not [path for path in hub.files("me/tiny") if "back" in path or "latest" in path]


def test_an_adapter_takes_evaluations_and_no_variants(hub, tiny_pipeline, tmp_path):
    get_peft_model(tiny_pipeline.transformer, LoraConfig(r=2, target_modules=["out_proj"])).save_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    for options in ({"variants": ["fp16"]}, {"max_shard_size": "1KB"}):
        with pytest.raises(ValueError, match="`variants` and `max_shard_size` need a model's whole weights"):
            push_folder(tmp_path, "me/adapter", **options)
    assert hub.repositories == {}
    push_folder(tmp_path, "me/adapter", evaluations=[evaluation("test", 20.0)])
    card = ModelCard.load("me/adapter")
    assert "| emoji | test | PSNR (dB) | 20 |" in card.text and card.data.eval_results[0].metric_value == 20.0


def test_a_stray_pickle_is_left_out_with_a_warning(folder, caplog):
    shared = set(shared_files(folder))
    (folder / "logs").mkdir()
    for path in (folder / "notes.pkl", folder / "logs" / "x.pt", folder / "tokenizer" / "words.pickle"):
        path.write_bytes(b"anything")
    assert set(shared_files(folder)) == shared
    assert "notes.pkl is a pickle and is not uploaded" in caplog.text
