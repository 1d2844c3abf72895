# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What a push uploads, what it never uploads, and that it loads again from the Hub."""

import json
import os
from pathlib import Path

import pytest
from conftest import assert_draws_alike
from diffusers import DiffusionPipeline
from huggingface_hub import EvalResult, ModelCard, list_repo_commits, snapshot_download
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer

from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration
from rq_hf.cli import main
from rq_hf.evaluation.report import write_report
from rq_hf.hub import push_folder, write_card

FILES = {
    *("README.md", "model_index.json", "rqvae/config.json", "rqvae/model.safetensors"),
    *("rqvae/preprocessor_config.json", "transformer/config.json", "transformer/generation_config.json"),
    *("transformer/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pushed_pipeline_is_one_commit_and_draws_the_same_from_the_hub(hub, saved, tiny_pipeline):
    before = contents(saved)
    answer = push_folder(saved, "me/tiny", private=True)
    assert answer.commit_url.startswith(f"{hub.endpoint}/me/tiny/commit/") and hub.repository("me/tiny").private
    assert set(hub.files("me/tiny")) == FILES
    assert contents(saved) == before
    assert json.loads(hub.files("me/tiny")["model_index.json"].read_text())["rqvae"] == ["rq_hf", "RQVAEModel"]
    assert len(list_repo_commits("me/tiny")) == 2  # the empty first one, and ours
    assert push_folder(saved, "me/tiny").oid == answer.oid  # nothing has changed
    for load in (RQImageGenerationPipeline, DiffusionPipeline):
        loaded = load.from_pretrained("me/tiny")
        assert type(loaded) is RQImageGenerationPipeline
        assert_draws_alike(loaded, tiny_pipeline)
        num_requests = hub.num_requests
        assert_draws_alike(load.from_pretrained("me/tiny", local_files_only=True), tiny_pipeline)
        assert hub.num_requests == num_requests
    for name in ("rqvae", "transformer"):
        model_class = type(getattr(tiny_pipeline, name))
        for load in (model_class, AutoModel):
            assert type(load.from_pretrained("me/tiny", subfolder=name)) is model_class


def test_sampling_settings_reach_the_hub(hub, tiny_pipeline):
    tiny_pipeline.transformer.generation_config.update(top_k=[1, 2, 3], temperature=0.5)
    tiny_pipeline.push_to_hub("me/tiny")
    loaded = DiffusionPipeline.from_pretrained("me/tiny")
    assert not any(hub.cache.rglob("generation_config.json"))  # which diffusers does not download
    assert_draws_alike(loaded, tiny_pipeline)
    assert "| top_k | 1, 2, 3 |" in ModelCard.load("me/tiny").text


def test_only_what_a_model_folder_holds_is_uploaded(hub, saved):
    uploaded = set("notes.txt LICENSE code.py logs/events.out.tfevents.1 pictures/a.PNG link.txt".split())
    uploaded |= {"tokenizer/spiece.model", "tokenizer/chat_template.jinja"}
    left_out = set("training_args.bin rqvae/optimizer.PT rqvae/pytorch_model.BIN codes.npy pickled old.ckpt".split())
    left_out |= set("checkpoint-5/model.safetensors _x/x.json .git/config.json trainer_state.json a.model".split())
    for name in (uploaded | left_out) - {"link.txt"}:
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_bytes(b"anything")
    (saved / "link.txt").symlink_to("notes.txt")
    (saved / "broken.txt").symlink_to("nothing.txt")
    (saved / "folder").symlink_to(saved.parent, target_is_directory=True)
    for name in ("pipe.json", "rqvae/model-2.safetensors"):  # which would hang who reads them
        os.mkfifo(saved / name)
    push_folder(saved, "me/tiny")
    assert set(hub.files("me/tiny")) == {*FILES, *uploaded}
    push_folder(snapshot_download("me/tiny"), "me/second")  # a folder of the cache, whose files are links to blobs
    assert set(hub.files("me/second")) == set(hub.files("me/tiny"))


def test_no_path_of_the_machine_is_uploaded(hub, saved, tmp_path):
    loaded = RQImageGenerationPipeline.from_pretrained(saved)
    loaded.save_pretrained(tmp_path / "again")
    (tmp_path / "again" / "README.md").write_text(
        f'# Mine\n\n    pipe = RQImageGenerationPipeline.from_pretrained("{tmp_path / "again"}")\n'
    )
    get_peft_model(loaded.transformer, LoraConfig(r=2, target_modules=["out_proj"])).save_pretrained(tmp_path / "lora")
    assert f"base_model: {saved}" in (tmp_path / "lora" / "README.md").read_text()  # that of PEFT
    for name in ("again", "again/rqvae", "again/tokenizer", "lora"):
        push_folder(tmp_path / name, f"me/{Path(name).name}", with_code=name == "again")
        for path, file in hub.files(f"me/{Path(name).name}").items():
            assert str(tmp_path).encode() not in file.read_bytes(), path
    assert 'from_pretrained("me/again")' in ModelCard.load("me/again").text
    assert "lora" in ModelCard.load("me/lora").data.tags


def test_what_is_wrong_is_named_and_makes_no_repository(hub, saved, tmp_path):
    def refuse(folder: Path, message: str, **options) -> None:
        with pytest.raises(ValueError, match=message):
            push_folder(folder, "me/tiny", **options)
        assert hub.repositories == {}

    refuse(tmp_path / "nothing", "`folder` must hold model_index.json")
    refuse(saved / "tokenizer", "`with_code` needs a pipeline or a model.*'tokenizer'", with_code=True)
    refuse(saved, "`revision` must be None with `create_pr`.*'trial'", create_pr=True, revision="trial")
    refuse(saved, "license must be one of", license="as you like")
    (saved / "README.md").write_text("# Mine")
    for path, content, message in (
        ("rqvae/config.json", b"[1]", "`folder` must hold a JSON object in rqvae/config.json"),
        ("rqvae/config.json", b'{"model_type": "bert"}', "`folder` must hold models of this library.*'bert'"),
        ("rqvae/model.safetensors", b"x" * 99, "`folder` must hold whole weights, got rqvae/model.safetensors"),
        ("README.md", b"---\nlicense: [mit\n---\n# Mine", "README.md must be a model card"),
        ("README.md", b"\xff\xfe\x00", "README.md must be a model card in UTF-8, got UnicodeDecodeError"),
    ):
        whole = (saved / path).read_bytes()
        (saved / path).write_bytes(content)
        refuse(saved, message, with_code=True)
        (saved / path).write_bytes(whole)
    (tmp_path / "secret.json").write_text('"of the machine"')
    (saved / "rqvae" / "secret.json").symlink_to(tmp_path / "secret.json")
    refuse(saved, "`folder` must hold no link to a file outside of it, got .*rqvae/secret.json -> .*/secret.json")
    (saved / "rqvae" / "secret.json").unlink()
    (saved / "transformer" / "model.safetensors").rename(saved / "transformer" / "pytorch_model.bin")
    refuse(saved, "`folder` must hold weights as safetensors, there are no transformer/model")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    (tmp_path / "adapter_model.bin").write_bytes(b"pickled")
    refuse(tmp_path, "`folder` must hold weights as safetensors, there are no adapter_model")


def figures(repo_id: str) -> list:
    """The results in the metadata of a card, whose section has the same."""
    card = ModelCard.load(repo_id)
    results = card.data.eval_results or []
    assert card.text.count("## Evaluation") == bool(results)
    for result in results:
        name = result.metric_name or result.metric_type
        assert f"| {name} | {result.metric_value:.4g} | {result.dataset_name}" in card.text
    return [(result.metric_type, result.metric_value) for result in results]


def test_a_card_has_the_figures_that_are_given_or_newly_measured_and_no_older_ones(hub, saved, caplog):
    push_folder(saved, "me/tiny")
    assert figures("me/tiny") == []
    where = {"task_type": "text-to-image", "dataset_type": "me/data", "dataset_name": "me/data"}
    given = EvalResult(**where, metric_type="fid", metric_value=9.5)
    push_folder(saved, "me/tiny", eval_results=[given])
    assert figures("me/tiny") == [("fid", 9.5)]
    report = {"num_pictures": 4, "metrics": {"psnr": 28.125}, "depths": [{"depth": 1}]}
    write_report(report, saved / "evaluation.json")  # as `rq-hf evaluate` does
    main(["push", str(saved), "--repo_id", "me/tiny"])
    assert figures("me/tiny") == [("psnr", 28.125)]
    os.utime(saved / "evaluation.json", (0, 0))  # before the weights
    push_folder(saved, "me/tiny")
    assert figures("me/tiny") == [] and "evaluation.json, which is older than the weights" in caplog.text
    write_card(saved, "pipeline", {"metrics": {"ssim": 0.5}, "datasets": ["me/data"]})  # as a training does
    push_folder(saved, "me/tiny")
    assert figures("me/tiny") == [("ssim", 0.5)]
    RQImageGenerationPipeline.from_pretrained("me/tiny").push_to_hub("me/tiny")  # its weights may have changed
    assert figures("me/tiny") == []


def test_the_card_of_a_folder_is_pushed_with_the_name_of_the_repository(hub, saved, monkeypatch, tmp_path):
    card = """---
license: cc-by-4.0
---
# Mine

Drawn by [artists](https://example.org), see [notes](../notes.md), [the licence](LICENSE) and [below](#use).
![Sample](pictures/sample.png)
## Use
    pipe = RQImageGenerationPipeline.from_pretrained("runs/pipeline")
    rq-hf evaluate rqvae runs/pipeline --output runs/pipeline-figures.json
"""
    (saved / "pictures").mkdir()
    for name, content in {"README.md": card, "LICENSE": "words", "pictures/sample.png": "png"}.items():
        (saved / name).write_text(content)
    (tmp_path / "runs").mkdir()
    saved.rename(tmp_path / "runs" / "pipeline")
    monkeypatch.chdir(tmp_path)
    push_folder("runs/pipeline", "me/first")
    RQImageGenerationPipeline.from_pretrained("me/first").push_to_hub("me/first", license="mit")  # keeps the card
    push_folder("runs/pipeline", "me/second", with_code=True)
    for name, license in (("me/first", "mit"), ("me/second", "cc-by-4.0")):
        pushed = ModelCard.load(name)
        assert pushed.data.license == license and "pictures/sample.png" in hub.files(name)
        assert "see notes, [the licence]" in ModelCard.load("me/second").text and "[below](#use)" in pushed.text
        assert f'from_pretrained("{name}")' in pushed.text and "(https://example.org)" in pushed.text
        assert f"evaluate rqvae {name} --output runs/pipeline-figures.json" in pushed.text


def test_weights_of_an_earlier_push_are_deleted(hub, saved, tiny_pipeline):
    for size in ("5GB", "40KB", "5GB"):
        for path in (saved / "transformer").glob("model*"):
            path.unlink()
        tiny_pipeline.transformer.save_pretrained(saved / "transformer", max_shard_size=size)
        push_folder(saved, "me/tiny")
        weights = [path for path in hub.files("me/tiny") if path.startswith("transformer/model")]
        if size == "5GB":
            assert weights == ["transformer/model.safetensors"]  # and no index
        else:
            assert len(weights) > 2 and all("-of-" in path or "index" in path for path in weights)
        assert_draws_alike(RQImageGenerationPipeline.from_pretrained("me/tiny"), tiny_pipeline)


def test_a_push_goes_to_a_branch_or_a_pull_request(hub, saved):
    push_folder(saved, "me/tiny", license="mit")
    before = hub.files("me/tiny")
    (saved / "notes.txt").write_text("words")
    push_folder(saved, "me/tiny", revision="trial", commit_message="Words")
    answer = push_folder(saved, "me/tiny", create_pr=True)
    assert answer.pr_url == f"{hub.endpoint}/me/tiny/discussions/1"
    push_folder(saved, "me/tiny", revision="refs/pr/1")
    assert hub.files("me/tiny") == before
    for revision in ("trial", "refs/pr/1"):
        assert set(hub.files("me/tiny", revision)) == {*before, "notes.txt"}
        assert ModelCard.load(hub.files("me/tiny", revision)["README.md"]).data.license == "mit"
    assert list_repo_commits("me/tiny", revision="trial")[0].title == "Words"
    RQImageGenerationPipeline.from_pretrained("me/tiny", revision="trial")


def test_each_kind_of_folder_gets_a_card_of_its_kind_with_its_parameters(hub, saved, tiny_pipeline, tmp_path, caplog):
    num_parameters = [model.num_parameters() for model in (tiny_pipeline.rqvae, tiny_pipeline.transformer)]
    lora = get_peft_model(tiny_pipeline.transformer, LoraConfig(r=2, target_modules=["out_proj"]))
    lora.peft_config["default"].base_model_name_or_path = "me/base"
    lora.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()  # PEFT's own
    paths = ("pipeline", "pipeline/rqvae", "pipeline/transformer", "pipeline/tokenizer", "adapter")
    for path, library in zip(paths, ("diffusers", "rq_hf", "rq_hf", "transformers", "peft"), strict=True):
        repo_id = f"me/{Path(path).name}"
        push_folder(tmp_path / path, repo_id, license="mit")
        card = ModelCard.load(repo_id)
        assert (card.data.library_name, card.data.license) == (library, "mit")
        assert f'("{repo_id}")' in card.text and "path/to/this" not in card.text
    assert ModelCard.load("me/adapter").data.base_model == "me/base"
    assert "16 x 16 pixels" in ModelCard.load("me/rqvae").text
    assert all(f"| Parameters | {number:,} |" in ModelCard.load("me/pipeline").text for number in num_parameters)
    assert caplog.text.count("push it `with_code`") == 3  # models without code
    push_folder(saved, "me/pipeline", with_code=True)
    assert caplog.text.count("with_code") == 3 and "trust_remote_code" in ModelCard.load("me/pipeline").text
    assert AutoTokenizer.from_pretrained("me/tokenizer").get_vocab() == tiny_pipeline.tokenizer.get_vocab()
    assert type(AutoModel.from_pretrained("me/transformer")) is RQTransformerForImageGeneration
