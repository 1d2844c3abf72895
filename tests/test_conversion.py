# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Official checkpoints, converted, give what the official code gives, and are whole folders of this ecosystem."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from convert_memory import AnonymousMemory, official_shapes
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
    transformer_shapes,
    write_archive,
    write_checkpoint,
    write_stage,
)
from safetensors.torch import load_file
from transformers import AutoModel
from transformers.utils import logging

from rq_hf import (
    ResidualQuantizer,
    RQImageGenerationPipeline,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
)
from rq_hf.conversion import convert_checkpoint, rqvae_rule, transformer_rule

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
script = importlib.import_module("convert_original_checkpoint")
OFFICIAL = load_file(EXPECTED)
KINDS = pytest.mark.parametrize("kind", CHANGES)
# Millions of parameters and number of keys of the official checkpoints, counted with the official code.
OFFICIAL_COUNTS = {
    "cc3m-rqt-8x8x4-654M": (654.062, 496),
    "imagenet-rqt-8x8x4-480M": (480.921, 268),
    "imagenet-rqt-8x8x4-821M": (820.899, 460),
    "imagenet-rqt-8x8x4-1.4B": (1387.530, 780),
    "imagenet-rqt-8x8x4-1.4B-rqvae-50e": (1387.530, 780),
    "imagenet-rqt-8x8x4-3.8B": (3822.488, 780),
    "ffhq-rqt-8x8x4-355M": (355.394, 460),
    "lsun-church-rqt-8x8x4-370M": (370.088, 460),
    "lsun-cat-rqt-8x8x4-612M": (612.061, 492),
    "lsun-bedroom-rqt-8x8x4-612M": (612.061, 492),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """Official checkpoint folder of a kind, written once."""
    folder, written = tmp_path_factory.mktemp("official"), {}
    return lambda kind: written.get(kind) or written.setdefault(kind, write_checkpoint(folder / kind, kind))


@pytest.fixture(scope="module")
def converted(tmp_path_factory, checkpoint) -> Callable[[str], Path]:
    """The pipeline folder made of it, written once."""
    folder, written = tmp_path_factory.mktemp("converted"), {}

    def convert(kind: str) -> Path:
        if kind not in written:
            assert convert_checkpoint(checkpoint(kind), folder / kind) == "pipeline"
            written[kind] = folder / kind
        return written[kind]

    return convert


@pytest.fixture
def warnings(caplog):
    """Messages of the library's loggers, which do not propagate by default."""
    logging.enable_propagation()
    yield lambda: [record.getMessage() for record in caplog.records]
    logging.disable_propagation()


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights under a folder, by component and name."""
    return {
        f"{path.parent.relative_to(folder)}:{name}": tensor
        for path in folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def assert_same_bytes(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), second[name].view(torch.uint8)), name


@KINDS
def test_converted_models_equal_the_official_code(kind, converted):
    pipe = RQImageGenerationPipeline.from_pretrained(converted(kind))
    rqvae, transformer = pipe.rqvae.eval(), pipe.transformer.eval()
    expected = {key.split(".")[-1]: value for key, value in OFFICIAL.items() if key.startswith(f"{kind}.")}
    codes = expected["codes"]

    assert (rqvae.encode(pictures(kind)) == codes).float().mean() >= 0.999
    decoded = torch.stack([rqvae.decode(codes[..., : depth + 1]) for depth in range(codes.shape[-1])])
    span = expected["pictures"].max() - expected["pictures"].min()
    assert (decoded - expected["pictures"]).abs().max() <= 1e-4 * span

    with torch.no_grad():
        outputs = transformer(condition(kind), codes)
    assert (outputs.logits - expected["logits"]).abs().max() <= 1e-4
    assert (outputs.text_logits is not None) == (kind == "cc3m") == ("text_logits" in expected)
    if kind == "cc3m":
        assert (outputs.text_logits - expected["text_logits"]).abs().max() <= 1e-4
    assert torch.equal(transformer.generate(condition(kind), do_sample=False), expected["greedy"])


def test_recorded_outputs_tell_depths_and_positions_apart():
    """Were codes or samples constant, the comparison above would prove little."""
    for kind in CHANGES:
        for name in ("codes", "greedy"):
            recorded = OFFICIAL[f"{kind}.{name}"]
            assert all(len(recorded[..., depth].unique()) > 2 for depth in range(recorded.shape[-1])), (kind, name)
    assert EXPECTED.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", OFFICIAL_COUNTS)
def test_every_weight_of_every_released_size_has_its_place(name):
    shapes = official_shapes(name)
    millions, keys = OFFICIAL_COUNTS[name]
    assert sum(torch.Size(shape).numel() for shape in shapes[1].values()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert (len(shapes[0]), len(shapes[1])) == (398, keys)
    preset = json.loads((ROOT / "scripts" / "configs" / f"{name}.json").read_text())
    rqvae = json.loads((ROOT / "scripts" / "configs" / f"{preset['card']['rqvae']}.json").read_text())
    with torch.device("meta"):
        models = [
            RQVAEModel(RQVAEConfig(**rqvae["model"])),
            RQTransformerForImageGeneration(RQTransformerConfig(**preset["model"])),
        ]
    for model, rule, official in zip(models, (rqvae_rule, transformer_rule), shapes, strict=True):
        used = set()
        for key, tensor in model.state_dict().items():
            if key != "codebook.weight":
                sources, combine = rule(key, model.config)
                used.update(sources)
                made = combine(*(torch.empty(official[source], device="meta") for source in sources))
                assert made.shape == tensor.shape, key
        assert used == set(official)


def test_an_archive_gives_what_its_folder_gives_and_leaves_nothing_beside(checkpoint, converted, tmp_path):
    archive = write_archive(checkpoint("ffhq"), tmp_path / "ffhq.tar.gz")
    assert convert_checkpoint(archive, tmp_path / "ffhq") == "pipeline"
    assert_same_bytes(weights_of(tmp_path / "ffhq"), weights_of(converted("ffhq")))
    assert {path.name for path in tmp_path.iterdir()} == {"ffhq.tar.gz", "ffhq"}


def test_stage_1_alone_is_an_rqvae(checkpoint, tmp_path):
    shutil.copytree(checkpoint("ffhq") / "stage1", tmp_path / "source" / "stage1")
    assert convert_checkpoint(tmp_path / "source", tmp_path / "out") == "rqvae"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    for loader in (RQVAEModel, AutoModel):
        model = loader.from_pretrained(tmp_path / "out")
        assert type(model) is RQVAEModel
        assert torch.equal(model.encode(pictures("ffhq")), OFFICIAL["ffhq.codes"])
    assert model.config.attention_levels == (1,) and model.config.codebook_size == 24


def test_stage_2_alone_fails_loudly_until_it_is_given_its_codebook(checkpoint, converted, tmp_path, warnings):
    shutil.copytree(checkpoint("ffhq") / "stage2", tmp_path / "source" / "stage2")
    assert convert_checkpoint(tmp_path / "source", tmp_path / "out") == "rq_transformer"
    assert any("set_codebook" in message and "no stage1" in message for message in warnings())
    assert "set_codebook" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "model_index.json").exists()
    transformer = AutoModel.from_pretrained(tmp_path / "out")
    assert type(transformer) is RQTransformerForImageGeneration
    rqvae = RQVAEModel.from_pretrained(converted("ffhq"), subfolder="rqvae")
    with pytest.raises(ValueError, match="must be finite"):
        transformer.generate(condition("ffhq"))
    with pytest.raises(ValueError, match="must have one codebook"):
        RQImageGenerationPipeline(rqvae, transformer)
    transformer.set_codebook(rqvae.codebook)
    RQImageGenerationPipeline(rqvae, transformer)
    assert torch.equal(transformer.generate(condition("ffhq"), do_sample=False), OFFICIAL["ffhq.greedy"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_loading_and_saving_again_changes_no_byte_of_a_weight(dtype, checkpoint, tmp_path):
    convert_checkpoint(checkpoint("cc3m"), tmp_path / "first", dtype=dtype)
    weights = weights_of(tmp_path / "first")
    assert weights["transformer:code_head.linear.weight"].dtype == dtype
    assert weights["rqvae:quantizer.codebook.weight"].dtype == torch.float32
    RQImageGenerationPipeline.from_pretrained(tmp_path / "first", dtype=dtype).save_pretrained(tmp_path / "second")
    assert_same_bytes(weights_of(tmp_path / "second"), weights)
    for part, model_class in (("rqvae", RQVAEModel), ("transformer", RQTransformerForImageGeneration)):
        for loader in (model_class, AutoModel):
            loader.from_pretrained(tmp_path / "first" / part).save_pretrained(tmp_path / "alone")
            expected = {name: value for name, value in weights.items() if name.startswith(f"{part}:")}
            alone = {f"{part}{name[1:]}": value for name, value in weights_of(tmp_path / "alone").items()}
            assert_same_bytes(alone, expected)
            shutil.rmtree(tmp_path / "alone")
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.json"))
    assert len(files) == 4
    for file in files:
        texts = [json.loads((tmp_path / folder / file).read_text()) for folder in ("first", "second")]
        for text in texts:
            text.pop("_name_or_path", None)
        assert texts[0] == texts[1], file


def test_large_weights_are_split_into_shards_that_load_as_one_file_does(checkpoint, converted, tmp_path):
    convert_checkpoint(checkpoint("cc3m"), tmp_path / "out", max_shard_size=100_000)
    for part in ("rqvae", "transformer"):
        index = json.loads((tmp_path / "out" / part / "model.safetensors.index.json").read_text())
        shards = sorted((tmp_path / "out" / part).glob("*.safetensors"))
        assert sorted(set(index["weight_map"].values())) == [path.name for path in shards]
        assert len(shards) > 1 and shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    RQImageGenerationPipeline.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert_same_bytes(weights_of(tmp_path / "again"), weights_of(converted("cc3m")))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of the process from /proc")
def test_conversion_holds_one_shard_in_memory(tmp_path):
    """`convert_memory.py` measures this at full size."""
    config = changed(configs("church")[1], {"arch.embed_dim": 512, "arch.body.n_layer": 7, "arch.vocab_size": 64})
    weights = {name: torch.ones(shape) for name, shape in transformer_shapes(config["arch"], 64).items()}
    size = (write_stage(tmp_path / "source" / "stage2", config, weights) / "model.pt").stat().st_size
    assert size > 100e6
    with AnonymousMemory() as memory:
        convert_checkpoint(tmp_path / "source", tmp_path / "out", max_shard_size=size // 8)
    assert memory.peak - memory.start < size // 4
    assert len(list((tmp_path / "out").glob("*.safetensors"))) >= 8


def test_configuration_is_translated(converted):
    pipe = RQImageGenerationPipeline.from_pretrained(converted("cc3m"))
    config = pipe.transformer.config
    assert (config.vocab_size, config.condition_length, config.code_shape) == (40, 6, (4, 4, 4))
    assert config.text_loss_weight == pytest.approx(0.2) and config.pad_token_id is None
    assert config.null_condition_ids is None and config.id2label is None
    assert (config.dropout, config.attention_dropout, config.embedding_dropout) == (0.1, 0.0, 0.0)
    assert pipe.rqvae.config.attention_levels == (2,) and pipe.rqvae.config.latent_channels == 24
    church = RQTransformerConfig.from_pretrained(converted("church"), subfolder="transformer")
    assert church.dropout == 0.3
    deep = RQTransformerConfig.from_pretrained(converted("imagenet_1.4B"), subfolder="transformer")
    assert (deep.num_spatial_layers, deep.num_depth_layers, deep.embedding_dropout) == (5, 2, 0.1)
    # The `per_step` rule goes on with averages as slow as the official rule's.
    updates = pipe.rqvae.quantizer.num_updates
    assert ((1 + updates) / (10 + updates)).item() == pytest.approx(pipe.rqvae.config.codebook_decay, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cc3m", {"temperature": 0.9, "top_k": 32, "top_p": [0.7, 0.8, 0.9, 1.0]}),  # `sampling`
        ("ffhq", {"temperature": None, "top_k": 250, "top_p": 1.0}),  # `experiment.sample`
    ],
)
def test_sampling_defaults_are_those_of_the_checkpoint(kind, expected, converted):
    settings = RQImageGenerationPipeline.from_pretrained(converted(kind)).transformer.generation_config
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.do_sample


def test_imagenet_classes_have_their_names(converted):
    pipe = RQImageGenerationPipeline.from_pretrained(converted("imagenet_480M"))
    assert len(pipe.transformer.config.id2label) == 1000
    assert pipe.get_label_ids(["goldfish", "toilet tissue"]) == [1, 999]


def test_without_torchvision_classes_have_no_names_and_a_warning_says_so(checkpoint, tmp_path, monkeypatch, warnings):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    convert_checkpoint(checkpoint("imagenet_480M"), tmp_path / "out")
    assert any("torchvision" in message for message in warnings())
    assert RQTransformerConfig.from_pretrained(tmp_path / "out", subfolder="transformer").id2label is None


@pytest.mark.parametrize("codebook_size", [20, 50])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_per_depth_training_equals_the_official_code(shared, codebook_size):
    """Recorded from the official code, random numbers included: more vectors than codes, and fewer."""
    quantizer = ResidualQuantizer(codebook_size, 8, 3, shared_codebook=shared)
    start = initial_codebook(1 if shared else 3, codebook_size)
    quantizer.codebook.weight.copy_(start)
    quantizer.embedding_sum.copy_(start)
    torch.manual_seed(5)
    for latents in training_latents():
        quantizer(latents, "per_depth")
    name = f"training.{'shared' if shared else 'separate'}.{codebook_size}"
    torch.testing.assert_close(quantizer.codebook.weight, OFFICIAL[f"{name}.weight"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.cluster_size, OFFICIAL[f"{name}.cluster_size"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.embedding_sum, OFFICIAL[f"{name}.embedding_sum"], rtol=1e-5, atol=1e-6)


def test_a_text_model_without_tokenizer_files_says_which_it_needs(checkpoint, tmp_path, warnings):
    convert_checkpoint(checkpoint("cc3m"), tmp_path / "out")
    assert any("bpe-16k-vocab.json" in text and "bpe-16k-merges.txt" in text for text in warnings())
    assert RQImageGenerationPipeline.from_pretrained(tmp_path / "out").tokenizer is None


def test_a_text_model_takes_its_tokenizer_files(checkpoint, tmp_path):
    vocab = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "a", "b", "a</w>", "b</w>", "ab</w>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    files = {"vocab_file": tmp_path / "vocab.json", "merges_file": tmp_path / "merges.txt"}
    convert_checkpoint(checkpoint("cc3m"), tmp_path / "out", **files)
    pipe = RQImageGenerationPipeline.from_pretrained(tmp_path / "out")
    assert pipe.encode_prompt("ab b").tolist() == [[6, 5, 0, 0, 0, 0]]
    assert pipe("ab b", output_type="latent", generator=torch.Generator().manual_seed(0)).images.shape == (1, 4, 4, 4)


def test_ema_takes_the_averaged_weights_of_the_transformer(tmp_path):
    plain, averaged = state_dicts("church"), state_dicts("church", seed=1)
    for stage, config, weights, other in zip(("stage1", "stage2"), configs("church"), plain, averaged, strict=True):
        write_stage(tmp_path / "both" / stage, config, weights, state_dict_ema=other)
    convert_checkpoint(tmp_path / "both", tmp_path / "out", ema=True)
    weights = weights_of(tmp_path / "out")
    assert torch.equal(weights["transformer:condition_embedding.weight"], averaged[1]["cond_emb.weight"])
    assert torch.equal(weights["rqvae:quant_conv.weight"], plain[0]["quant_conv.weight"])
    shutil.copytree(tmp_path / "both" / "stage1", tmp_path / "one" / "stage1")
    convert_checkpoint(tmp_path / "one", tmp_path / "alone", ema=True)
    assert torch.equal(weights_of(tmp_path / "alone")[".:quant_conv.weight"], averaged[0]["quant_conv.weight"])


def test_the_script_converts_an_archive_and_pushes_it_with_its_card(checkpoint, hub, tmp_path, capsys):
    archive = write_archive(checkpoint("imagenet_480M"), tmp_path / "imagenet_480M.tar.gz")
    output = tmp_path / "rqt-480M"
    script.main(
        ["--checkpoint", str(archive), "--output", str(output), "--dtype", "bfloat16", "--push_to_hub", "tester/rqt"]
    )
    assert "rqt-480M is a pipeline." in capsys.readouterr().out
    card = (output / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card and "No commercial use" in card
    assert 'from_pretrained("tester/rqt")' in card and "`imagenet_480M.tar.gz`" in card
    assert "value: 15.72" in card and "| ILSVRC/imagenet-1k |  | FID | 15.72 |" in card and "Table 5" in card
    assert weights_of(output)["transformer:code_head.linear.bias"].dtype == torch.bfloat16
    assert set(hub.files("tester/rqt")) >= {"model_index.json", "README.md", "transformer/model.safetensors"}
    assert RQImageGenerationPipeline.from_pretrained("tester/rqt").transformer.config.id2label[1] == "goldfish"


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("church", ["value: 7.45", "| church |  | FID | 7.45 |"]),
        ("imagenet_3.8B_rqvae_50e", ["value: 7.55", "value: 134"]),
        ("cc3m", ["value: 12.33", "value: 0.26", "language: en", "tokenizer is not in the folder"]),
        ("cc3m_cc12m_yfcc", ["FID of 16.9", "language: en", "30 million pairs"]),
        ("mine", ["`mine`"]),
    ],
)
def test_the_card_has_the_published_figures_of_the_archive(name, texts, checkpoint, tmp_path):
    kind = {"mine": "separate"}.get(name, name[:4].replace("imag", "imagenet_1.4B").replace("chur", "church"))
    source = shutil.copytree(checkpoint(kind), tmp_path / name)
    script.main(["--checkpoint", str(source), "--output", str(tmp_path / "out"), "--license", "cc-by-nc-sa-4.0"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(text in card for text in [*texts, "license: cc-by-nc-sa-4.0"]), card
    assert ("Evaluation" in card) == (name not in ("mine", "cc3m_cc12m_yfcc"))


def test_every_released_archive_has_a_card():
    archives = [f"imagenet_{size}" for size in ("480M", "821M", "1.4B", "1.4B_rqvae_50e", "3.8B_rqvae_50e")]
    archives += ["ffhq", "church", "cat", "bedroom", "cc3m", "cc3m_cc12m_yfcc"]
    cards = [script.released_cards(Path(f"/none/{name}")) for name in archives]
    assert all(card["transformer"] for card in cards)
    published = [card["transformer"].get("published", {}).get("fid") for card in cards]
    assert published == [15.72, 13.11, 11.56, 8.71, 7.55, 10.38, 7.45, 8.64, 3.04, 12.33, None]
