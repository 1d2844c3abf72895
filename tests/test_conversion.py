# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Converted official checkpoints compute what the official code computes."""

import functools
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import LeavesAMark
from official_fixture import (
    CHANGES,
    EXPECTED,
    changed,
    condition,
    configs,
    initial_codebook,
    pictures,
    state_dicts,
    training_latents,
    write_checkpoint,
    write_stage,
)  # fmt: skip
from safetensors.torch import load_file
from transformers import AutoModel

from rq_hf import ResidualQuantizer, RQGenerationConfig, RQImageGenerationPipeline, RQTransformerConfig, RQVAEModel
from rq_hf.cli import main
from rq_hf.conversion import convert_checkpoint

OFFICIAL = load_file(EXPECTED)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """The official checkpoint of a kind, written once."""
    folder = tmp_path_factory.mktemp("official")
    return functools.cache(lambda kind: write_checkpoint(folder / kind, kind))


@pytest.fixture(scope="module")
def converted(tmp_path_factory, checkpoint) -> Callable[[str], Path]:
    """The pipeline converted from a kind, written once."""
    folder = tmp_path_factory.mktemp("converted")

    @functools.cache
    def convert(kind: str) -> Path:
        assert convert_checkpoint(checkpoint(kind), folder / kind) == "pipeline"
        return folder / kind

    return convert


@pytest.fixture
def broken(tmp_path) -> Path:
    """A checkpoint that a test may spoil."""
    return write_checkpoint(tmp_path / "source" / "church", "church")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights under a folder, by component and name."""
    files = {path.parent.name: load_file(path) for path in folder.rglob("*.safetensors")}
    return {f"{component}:{name}": tensor for component, file in files.items() for name, tensor in file.items()}


def assert_refused(checkpoint: Path, message: str, **arguments) -> None:
    """The conversion fails with this message and leaves nothing behind."""
    folder = checkpoint.parent / "results"
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(checkpoint, folder / "out", **arguments)
    assert not folder.exists()


@pytest.mark.parametrize("kind", CHANGES)
def test_converted_models_equal_the_official_code(kind, converted):
    pipe = RQImageGenerationPipeline.from_pretrained(converted(kind))
    expected = {key.split(".")[-1]: value for key, value in OFFICIAL.items() if key.startswith(f"{kind}.")}
    codes = expected["codes"]

    assert torch.equal(pipe.rqvae.encode(pictures(kind)), codes)
    decoded = torch.stack([pipe.rqvae.decode(codes[..., : depth + 1]) for depth in range(codes.shape[-1])])
    span = expected["pictures"].max() - expected["pictures"].min()
    assert (decoded - expected["pictures"]).abs().max() <= 1e-4 * span

    with torch.no_grad():
        outputs = pipe.transformer(condition(kind), codes)
    assert (outputs.logits - expected["logits"]).abs().max() <= 1e-4
    assert (outputs.text_logits is not None) == (kind == "cc3m") == ("text_logits" in expected)
    if kind == "cc3m":
        assert (outputs.text_logits - expected["text_logits"]).abs().max() <= 1e-4
    assert torch.equal(pipe.transformer.generate(condition(kind), do_sample=False), expected["greedy"])


@pytest.mark.parametrize("codebook_size", [20, 50])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_per_depth_training_equals_the_official_code(shared, codebook_size):
    """Three steps with the same random numbers, of more vectors than codes and of fewer."""
    quantizer = ResidualQuantizer(codebook_size, 8, 3, shared_codebook=shared)
    start = initial_codebook(1 if shared else 3, codebook_size)
    quantizer.codebook.weight.copy_(start)
    quantizer.embedding_sum.copy_(start)
    torch.manual_seed(5)
    for latents in training_latents():
        quantizer(latents, "per_depth")
    name = f"training.{'shared' if shared else 'separate'}.{codebook_size}"
    trained = [quantizer.codebook.weight, quantizer.cluster_size, quantizer.embedding_sum]
    expected = [OFFICIAL[f"{name}.{buffer}"] for buffer in ("weight", "cluster_size", "embedding_sum")]
    torch.testing.assert_close(trained, expected, rtol=1e-5, atol=1e-6)


def test_an_archive_gives_what_its_folder_gives_and_leaves_nothing_beside(checkpoint, converted, tmp_path, capsys):
    archive = shutil.make_archive(tmp_path / "ffhq", "gztar", checkpoint("ffhq").parent, "ffhq")
    main(["convert", "--checkpoint", archive, "--output", str(tmp_path / "ffhq")])
    assert capsys.readouterr().out == f"{tmp_path / 'ffhq'} holds the converted pipeline.\n"
    torch.testing.assert_close(weights_of(tmp_path / "ffhq"), weights_of(converted("ffhq")), rtol=0, atol=0)
    assert {path.name for path in tmp_path.iterdir()} == {"ffhq.tar.gz", "ffhq"}


def test_stage_1_alone_is_an_rqvae(checkpoint, tmp_path):
    shutil.copytree(checkpoint("ffhq") / "stage1", tmp_path / "source" / "stage1")
    assert convert_checkpoint(tmp_path / "source", tmp_path / "out") == "rqvae"
    files = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert type(model) is RQVAEModel
    assert torch.equal(model.encode(pictures("ffhq")), OFFICIAL["ffhq.codes"])


def test_stage_2_alone_draws_nothing_until_it_is_given_its_codebook(checkpoint, converted, tmp_path):
    shutil.copytree(checkpoint("ffhq") / "stage2", tmp_path / "source" / "stage2")
    assert convert_checkpoint(tmp_path / "source", tmp_path / "out") == "rq_transformer"
    assert "set_codebook" in (tmp_path / "out" / "README.md").read_text()
    transformer = AutoModel.from_pretrained(tmp_path / "out")
    rqvae = RQVAEModel.from_pretrained(converted("ffhq"), subfolder="rqvae")
    with pytest.raises(ValueError, match="finite"):
        transformer.generate(condition("ffhq"))
    with pytest.raises(ValueError, match="codebook"):
        RQImageGenerationPipeline(rqvae, transformer)
    transformer.set_codebook(rqvae.codebook)
    RQImageGenerationPipeline(rqvae, transformer)
    assert torch.equal(transformer.generate(condition("ffhq"), do_sample=False), OFFICIAL["ffhq.greedy"])


def test_configuration_and_sampling_defaults_are_translated(converted):
    pipe = RQImageGenerationPipeline.from_pretrained(converted("cc3m"))
    config, sampling = pipe.transformer.config, pipe.transformer.generation_config
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.9, 32, [0.7, 0.8, 0.9, 1.0])  # `sampling`
    sampling = RQGenerationConfig.from_pretrained(converted("ffhq"), subfolder="transformer")
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, 250, 1.0)  # `experiment.sample`
    assert (config.vocab_size, config.condition_length, config.code_shape) == (40, 6, (4, 4, 4))
    assert config.text_loss_weight == pytest.approx(0.2) and config.pad_token_id is None
    assert config.null_condition_ids is None and config.id2label is None
    assert (config.dropout, config.attention_dropout, config.embedding_dropout) == (0.1, 0.0, 0.0)
    assert pipe.rqvae.config.attention_levels == (2,) and pipe.rqvae.config.latent_channels == 24
    assert RQTransformerConfig.from_pretrained(converted("church"), subfolder="transformer").dropout == 0.3
    deep = RQTransformerConfig.from_pretrained(converted("imagenet_1.4B"), subfolder="transformer")
    assert (deep.num_spatial_layers, deep.num_depth_layers, deep.embedding_dropout) == (5, 2, 0.1)
    # The "per_step" rule goes on with averages as slow as the official ones.
    updates = pipe.rqvae.quantizer.num_updates
    assert ((1 + updates) / (10 + updates)).item() == pytest.approx(pipe.rqvae.config.codebook_decay, abs=1e-4)


def tokenizer_files(folder: Path, num_tokens: int) -> dict[str, Path]:
    """Files of a caption tokenizer, as arguments of the conversion."""
    tokens = ["[PAD]", "[UNK]", "a", "b", "a</w>", "b</w>", "ab</w>"]
    tokens += map(chr, range(200, 200 + num_tokens - len(tokens)))
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return {"vocab_file": folder / "vocab.json", "merges_file": folder / "merges.txt"}


def test_a_text_model_takes_its_tokenizer_files_and_no_others(checkpoint, converted, broken, tmp_path):
    assert RQImageGenerationPipeline.from_pretrained(converted("cc3m")).tokenizer is None
    convert_checkpoint(checkpoint("cc3m"), tmp_path / "out", **tokenizer_files(tmp_path, 40))
    pipe = RQImageGenerationPipeline.from_pretrained(tmp_path / "out")
    expected = pipe.transformer.embed_ids(torch.tensor([[6, 5, 0, 0, 0, 0]]))
    assert torch.equal(pipe.encode_prompt("ab b")[0], expected)
    files = tokenizer_files(tmp_path, 47)
    assert_refused(checkpoint("cc3m"), "`vocab_file` must have the transformer's 40 tokens, got 47", **files)
    for name, path in files.items():  # one without the other
        assert_refused(checkpoint("cc3m"), "`vocab_file` and `merges_file` must be files of one", **{name: path})
    shutil.rmtree(broken / "stage2")
    assert_refused(broken, "`vocab_file` must be None for a checkpoint without stage1 or stage2", **files)


def test_ema_takes_the_averaged_weights_of_the_transformer(tmp_path):
    plain, averaged = state_dicts("church"), state_dicts("church", seed=1)
    for stage, config, weights, other in zip(("stage1", "stage2"), configs("church"), plain, averaged, strict=True):
        write_stage(tmp_path / "both" / stage, config, weights, state_dict_ema=other)
    convert_checkpoint(tmp_path / "both", tmp_path / "out", ema=True)
    weights = weights_of(tmp_path / "out")
    assert torch.equal(weights["transformer:condition_embedding.weight"], averaged[1]["cond_emb.weight"])
    assert torch.equal(weights["rqvae:quant_conv.weight"], plain[0]["quant_conv.weight"])


def test_imagenet_classes_have_their_names_and_the_card_the_facts(checkpoint, tmp_path):
    convert_checkpoint(checkpoint("imagenet_480M"), tmp_path / "out", repo_id="me/imagenet-480M")
    pipe = RQImageGenerationPipeline.from_pretrained(tmp_path / "out")
    assert len(pipe.transformer.config.id2label) == 1000
    assert pipe.get_label_ids(["goldfish", "toilet tissue"]) == [1, 999]
    card = (tmp_path / "out" / "README.md").read_text()
    facts = ["license: cc-by-nc-sa-4.0", 'from_pretrained("me/imagenet-480M")', "one of 1,000 classes"]
    for text in (*facts, "`imagenet_480M`", "| top_k | 64 |"):
        assert text in card, text


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    with tarfile.open(tmp_path / "church.tar.gz", "w:gz") as file:
        file.addfile(tarfile.TarInfo("../stage1/model.pt"))
    with pytest.raises(tarfile.FilterError):
        convert_checkpoint(tmp_path / "church.tar.gz", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["church.tar.gz"]


def test_a_file_that_executes_code_is_refused_and_executes_nothing(broken, tmp_path):
    marker = tmp_path / "executed"
    write_stage(broken / "stage2", configs("church")[1], state_dicts("church")[1], scheduler=LeavesAMark(marker))
    assert_refused(broken, "stage2/model.pt must hold tensors and plain containers only: other objects could execute")
    assert not marker.exists()
    convert_checkpoint(broken, tmp_path / "out", allow_pickle=True)
    assert marker.exists() and (tmp_path / "out" / "model_index.json").exists()


def test_parts_that_do_not_fit_or_are_not_there_are_refused(broken):
    assert_refused(broken / "missing", "`checkpoint` must be a folder or a .tar.gz archive with one stage1/")
    assert_refused(broken, r"stage2/model.pt must hold `state_dict_ema`, got \['epoch', ", ema=True)
    (broken / "stage1" / "config.yaml").rename(broken / "stage1" / "config.yml")
    assert_refused(broken, "stage1/config.yaml must be an official one, but cannot be read: FileNotFoundError")
    write_checkpoint(broken, "church")
    config, weights = configs("church")[1], state_dicts("church")[1]
    write_stage(broken / "stage2", changed(config, {"dataset.vocab_size": 63}), weights)
    assert_refused(broken, "`codebook_size` must be the RQ-VAE's, 64, got 63")
    weights["more"] = weights.pop("input_mlp.bias")
    write_stage(broken / "stage2", config, weights)
    assert_refused(broken, r"RQTransformer.*missing: \['input_mlp.bias'\]; unknown: \['more'\]")
