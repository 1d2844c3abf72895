# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Training on the vectors of a frozen text encoder, by the command line."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import draw
from diffusers import DiffusionPipeline
from picture_files import COLOURS, write_shapes
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from training_runs import COMMON, assert_equal
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from rq_hf import RQImageGenerationPipeline
from rq_hf.cli import main
from rq_hf.hub import push_folder
from rq_hf.pipelines.text_encoding import load_text_encoder
from rq_hf.training import CodeDataArguments, Recipe, RQTransformerTrainingArguments, train_rq_transformer
from rq_hf.training.conditions import CaptionEmbeds

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", *COLOURS, "circle", "square", "triangle"]
SIZES = dict(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
T5_SIZES = dict(vocab_size=len(WORDS), d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
LENGTH = 6
MAKERS = {
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "t5": lambda: T5Model(T5Config(**T5_SIZES)),
    "clip": lambda: CLIPTextModel(CLIPTextConfig(**SIZES, max_position_embeddings=LENGTH, eos_token_id=3)),
    "llama": lambda: LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2)),
}
KINDS = {"bert": BertModel, "t5": T5EncoderModel, "clip": CLIPTextModel, "llama": LlamaModel}
SMALL_TRANSFORMER = {
    "hidden_size": 32, "num_spatial_layers": 1, "num_depth_layers": 1, "num_attention_heads": 2,
    "initializer_range": 0.3,  # pictures that depend visibly on their prompts
}  # fmt: skip
PROMPTS = ["a red circle", "a blue square"]


def write_encoder(folder: Path, kind: str) -> Path:
    """A random encoder with a tokenizer of words, which has no limit of length, and no padding for a decoder model."""
    torch.manual_seed(0)
    MAKERS[kind]().save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    padding = {} if kind == "llama" else {"pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **padding).save_pretrained(folder)
    return folder


@pytest.fixture
def paths(make_rqvae, tmp_path) -> Path:
    """A folder with captioned `data` and an `rqvae`."""
    write_shapes(tmp_path / "data")
    make_rqvae().save_pretrained(tmp_path / "rqvae")
    return tmp_path


def run(*words: object, **flags: object) -> None:
    for name, value in flags.items():
        words += (f"--{name}", str(value) if isinstance(value, str | Path) else json.dumps(value))
    main([str(word) for word in words])


def train(paths: Path, output: str, **flags: object) -> RQImageGenerationPipeline:
    common = {name: value for name, value in COMMON.items() if name != "seed"}
    options = {"max_steps": 2, "condition_dropout": 0.2, "max_train_samples": 8, "caption_column": "text"}
    options |= {"dataset_name": paths / "data", "output_dir": paths / output, "condition_length": LENGTH}
    if "model_name_or_path" in flags:
        del options["condition_length"]
    else:
        options |= {"rqvae_name_or_path": paths / "rqvae", **SMALL_TRANSFORMER}
    (paths / "recipe.json").write_text("{}")
    run("train-rqt", paths / "recipe.json", **common | options | flags)
    return RQImageGenerationPipeline.from_pretrained(paths / output)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_command_trains_a_pipeline_by_any_encoder_with_and_without_a_cache(kind, paths):
    encoder, weights = write_encoder(paths / "encoder", kind), []
    for output, is_cached in (("cached", True), ("fly", False)):
        pipe = train(paths, output, text_encoder=encoder, cache_latents=is_cached)
        assert type(pipe.text_encoder) is KINDS[kind]
        assert_equal(pipe.text_encoder.state_dict(), load_text_encoder(encoder).state_dict())  # it stays as it was
        assert pipe.transformer.config.condition_dim == 16 and pipe.transformer.config.condition_length == LENGTH
        red, blue = (draw(pipe, prompt, guidance_scale=2.0) for prompt in PROMPTS)
        assert red.shape == (1, 4, 4, 3) and not torch.equal(red, blue)
        weights.append(pipe.transformer.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_encoders_may_lack_a_pooler_and_nothing_else(tmp_path):
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path / "masked")
    assert type(load_text_encoder(tmp_path / "masked")) is BertModel
    weights = {name: value for name, value in MAKERS["bert"]().state_dict().items() if "LayerNorm" not in name}
    MAKERS["bert"]().save_pretrained(tmp_path / "broken", state_dict=weights)
    with pytest.raises(ValueError, match="must hold all weights of BertModel, but 6 are missing"):
        load_text_encoder(tmp_path / "broken")


@pytest.mark.parametrize("is_cached", [True, False])
def test_the_model_sees_in_training_what_the_pipeline_gives_it(is_cached, paths):
    write_encoder(paths / "encoder", "bert")
    options = COMMON | {"max_steps": 1, "condition_dropout": 0.5, "eval_pictures": 2, "cache_latents": is_cached}
    names = {"dataset_name": "data", "rqvae_name_or_path": "rqvae", "text_encoder": "encoder"}
    names = {name: str(paths / folder) for name, folder in names.items()}
    data = CodeDataArguments(caption_column="text", max_train_samples=8, **names)
    training = RQTransformerTrainingArguments(output_dir=str(paths / "run"), **options)
    model = {**SMALL_TRANSFORMER, "condition_length": LENGTH}
    trainer = train_rq_transformer(Recipe(training, data, model))
    dataset, pipe = trainer.train_dataset, RQImageGenerationPipeline.from_pretrained(paths / "run")
    batch = trainer.data_collator([dataset[index] for index in range(len(dataset))])
    assert ("prompt_embeds" in batch, "input_ids" in batch) == (is_cached, not is_cached)
    embeds = trainer.condition(batch)["prompt_embeds"]
    is_dropped = (embeds == 0).flatten(1).all(1)
    assert 0 < is_dropped.sum() < len(dataset)
    captions = [caption for caption, dropped in zip(dataset.rows["text"], is_dropped, strict=True) if not dropped]
    torch.testing.assert_close(embeds[~is_dropped], pipe.encode_prompt(captions)[0])


def test_vectors_of_captions_are_kept_on_disk_for_the_same_encoder(paths):
    folder = write_encoder(paths / "encoder", "llama")
    other = write_encoder(paths / "other", "bert")

    def files(name: Path, texts: list[str]) -> list[str]:
        embeds = CaptionEmbeds(texts, AutoTokenizer.from_pretrained(name), load_text_encoder(name).eval(), LENGTH)
        assert embeds[texts[-1]].shape == embeds.null.shape == (LENGTH, 16)
        return [file["filename"] for file in embeds.embeds.cache_files]

    kept = files(folder, PROMPTS)
    assert len(kept) == 1 and files(folder, PROMPTS) == kept
    assert files(other, PROMPTS) != kept and files(folder, PROMPTS[:1]) != kept


def test_fine_tuning_evaluation_and_code_need_nothing_but_the_pipeline(paths, hub):
    pipe = train(paths, "base", text_encoder=write_encoder(paths / "encoder", "bert"))
    for output, flags in (("tuned", {}), ("lora", {"lora_rank": 2})):
        tuned = train(paths, output, model_name_or_path=paths / "base", cache_latents=True, **flags)
        assert_equal(tuned.text_encoder.state_dict(), pipe.text_encoder.state_dict())
        assert tuned.tokenizer.get_vocab() == pipe.tokenizer.get_vocab()
        torch.testing.assert_close(tuned.encode_prompt(PROMPTS)[0], pipe.encode_prompt(PROMPTS)[0])

    data = {"dataset_name": paths / "data", "caption_column": "text", "split": "train"}
    run("evaluate", "likelihood", paths / "tuned", **data, output=paths / "likelihood.json")
    options = {"num_pictures": 4, "feature_extractor": "pixels", "output": paths / "samples.json"}
    run("evaluate", "samples", paths / "tuned", **data, **options)
    for name, metric in (("likelihood", "loss"), ("samples", "frechet_distance_pixels")):
        metrics = json.loads((paths / f"{name}.json").read_text())["metrics"]
        assert metrics[metric] > 0, metrics

    push_folder(paths / "tuned", "me/encoder", with_code=True)
    coded = DiffusionPipeline.from_pretrained("me/encoder", trust_remote_code=True)
    assert type(coded) is not RQImageGenerationPipeline and type(coded.text_encoder) is BertModel
    tuned = RQImageGenerationPipeline.from_pretrained(paths / "tuned")
    assert torch.equal(*(draw(each, PROMPTS[0], output_type="pt") for each in (tuned, coded)))


def test_the_python_of_the_guide_runs(monkeypatch, tmp_path):
    root = Path(__file__).parents[2]
    for name in ("checkpoints", "tests"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    names = {}
    page = (root / "docs" / "text_encoders.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "text_encoders.md", "exec"), names)
    assert names["embeds"].shape == (2, 16, 32) and len(names["images"]) == 2
