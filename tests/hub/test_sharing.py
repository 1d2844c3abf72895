# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What a push uploads, what it never uploads, and that it loads again from the Hub."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from conftest import assert_draws_alike, draw
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, list_repo_commits, snapshot_download
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM

from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration
from rq_hf.cli import main
from rq_hf.hub import push_folder, write_card
from rq_hf.training import save_pipeline

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
    refuse(
        saved / "tokenizer",
        "`with_code` needs a pipeline or a model.*'tokenizer'",
        with_code=True,
    )
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


def test_a_long_card_takes_little_time(hub, saved):
    pipe = RQImageGenerationPipeline.from_pretrained(saved)
    for part in ("[", "![", "[a](", '![a](b from_pretrained("'):
        (saved / "README.md").write_text("# Mine\n" + part * (100_000 // len(part)))
        start = time.process_time()
        pipe.push_to_hub("me/tiny")
        assert time.process_time() - start < 5 and len(ModelCard.load("me/tiny").text) > 90_000


def test_the_card_of_a_source_is_that_of_its_revision_and_may_be_private(hub, saved, caplog):
    for name, revision in (("Main", None), ("Trial", "trial")):
        (saved / "README.md").write_text(f"---\nlicense: mit\n---\n# {name}")
        push_folder(saved, "me/source", revision=revision)
    hub.repository("me/source").token = "hf_of_the_owner"
    loaded = RQImageGenerationPipeline.from_pretrained("me/source", token="hf_of_the_owner")
    loaded.push_to_hub("other")
    assert "The card of 'me/source' is not copied" in caplog.text and "tester/other" in hub.repositories
    for load in (RQImageGenerationPipeline, DiffusionPipeline):
        for name, revision in (("Main", None), ("Trial", "trial")):
            loaded = load.from_pretrained("me/source", revision=revision, token="hf_of_the_owner")
            loaded.push_to_hub("tester/copy", token="hf_of_the_owner")
            assert ModelCard.load("tester/copy").text.strip() == f"# {name}"


@pytest.fixture
def measured(tiny_pipeline, tmp_path) -> Path:
    """The folder of a pipeline with a prompt rewriter, whose card has figures, a picture and whom to credit."""
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    rewriter = BertForMaskedLM(BertConfig(vocab_size=len(tiny_pipeline.tokenizer), **tiny))
    tiny_pipeline.register_modules(prompt_rewriter=rewriter)
    save_pipeline(tiny_pipeline, tmp_path / "emoji", "float16")
    (tmp_path / "emoji" / "sample.png").write_bytes(b"png")
    facts = {"model_name": "emoji", "license": "cc-by-4.0", "attribution": "Drawn by [artists](artists.md)."}
    facts |= {"metrics": {"psnr": 28.125}, "datasets": ["me/data"], "sample_images": {"sample.png": "A sample"}}
    write_card(tmp_path / "emoji", "pipeline", facts)
    return tmp_path / "emoji"


def assert_has_its_figures(hub, repo_id: str) -> None:
    card = ModelCard.load(repo_id)
    assert card.data.eval_results[0].metric_value == 28.125 and "| PSNR (dB) | 28.12 |" in card.text
    assert card.text.lstrip().startswith("# emoji\n") and "based on" not in card.text
    assert "sample.png" in hub.files(repo_id)


def assert_is_about_other_weights(hub, repo_id: str, link: str | None) -> None:
    """The card has no name, figure or picture of its source, but tells what it is based on and whom to credit."""
    card = ModelCard.load(repo_id)
    assert card.data.eval_results is None and "28.1" not in str(card) and "sample.png" not in card.text
    assert link is None or "sample.png" not in hub.files(repo_id)
    assert card.text.lstrip().startswith(f"# {repo_id.split('/')[1]}\n")
    assert f'from_pretrained("{repo_id}")' in card.text
    assert ("is based on" in card.text) == (link is not None)
    assert (f"The model is based on {link}" if link else "An RQ-Transformer draws") in card.text
    assert card.data.base_model == ("me/model" if link and "me/model" in link else None)
    assert card.data.license == "cc-by-4.0" and card.text.count("Drawn by artists.") == 1


def change(model: torch.nn.Module) -> None:
    """Changes one weight a little."""
    with torch.no_grad():
        next(model.parameters()).view(-1)[-1] += 1e-3


def test_a_card_keeps_its_figures_for_the_same_weights_alone(hub, measured, caplog):
    pipe = RQImageGenerationPipeline.from_pretrained(measured)
    draw(pipe)
    pipe.push_to_hub("me/model")  # in fp32
    assert_has_its_figures(hub, "me/model")
    for component in ("transformer", "rqvae", "prompt_rewriter"):
        changed = RQImageGenerationPipeline.from_pretrained("me/model")
        change(getattr(changed, component))
        changed.push_to_hub(f"me/{component}")
        assert_is_about_other_weights(hub, f"me/{component}", "[me/model](https://huggingface.co/me/model)")
    pipe.tokenizer.add_tokens(["banana"])
    pipe.push_to_hub("me/tokenizer")
    RQImageGenerationPipeline.from_pretrained(measured, prompt_rewriter=None).push_to_hub("me/without")
    for repo_id in ("me/tokenizer", "me/without"):
        assert_is_about_other_weights(hub, repo_id, "`emoji`")
    assert "me/without gets a new card: the old one is about other weights, those of emoji" in caplog.text


def test_a_card_of_earlier_weights_is_replaced_in_a_folder_and_on_the_hub(hub, measured, tmp_path):
    main(["push", str(measured), "--repo_id", "me/model"])
    assert_has_its_figures(hub, "me/model")
    changed = RQImageGenerationPipeline.from_pretrained(measured)
    change(changed.transformer)
    changed.save_pretrained(tmp_path / "new")  # without a card
    main(["push", str(tmp_path / "new"), "--repo_id", "me/model"])
    assert_is_about_other_weights(hub, "me/model", None)  # they may as well be trained from scratch
    changed.save_pretrained(measured)  # beside the old card
    main(["push", str(measured), "--repo_id", "me/other"])
    assert_is_about_other_weights(hub, "me/other", "`emoji`")
    (measured / "README.md").write_text("# By hand\n")  # names no weights, so the push believes it
    push_folder(measured, "me/other")
    assert ModelCard.load("me/other").text.strip() == "# By hand"


def test_the_card_travels_with_a_pipeline(hub, saved, monkeypatch, tmp_path):
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
    saved = saved.rename(tmp_path / "runs" / "pipeline")
    monkeypatch.chdir(tmp_path)
    RQImageGenerationPipeline.from_pretrained("runs/pipeline").push_to_hub("me/first")
    RQImageGenerationPipeline.from_pretrained("me/first").push_to_hub("me/second", license="mit", with_code=True)
    for name, license in (("me/first", "cc-by-4.0"), ("me/second", "mit")):
        pushed = ModelCard.load(name)
        assert pushed.data.license == license and "pictures/sample.png" in hub.files(name)
        assert "see notes, the licence and [below](#use)" in pushed.text and "(https://example.org)" in pushed.text
        assert f'from_pretrained("{name}")' in pushed.text
        assert f"evaluate rqvae {name} --output runs/pipeline-figures.json" in pushed.text
    push_folder(saved, "me/third")
    assert "[the licence](LICENSE)" in ModelCard.load("me/third").text


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
