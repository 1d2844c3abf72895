# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Fine-tuning of stage 2: adapters (LoRA), larger and new vocabularies of the condition, whole models."""

import copy
import json
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import PeftModel
from picture_files import FIXTURE, emoji_rows
from PIL import Image
from transformers import PreTrainedTokenizerFast

from rq_hf import (
    RQImageGenerationPipeline,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    train_caption_tokenizer,
)
from rq_hf.pipeline_rq_image_generation import load_component
from rq_hf.training import CodeDataArguments, RQTransformerTrainingArguments, ScriptArguments, transformer_config
from rq_hf.training.lora import add_lora
from rq_hf.training.vocabulary import class_vocabulary

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import train_rqt  # noqa: E402

CONCEPT = "dragon"
OLD = ["tabby, tabby cat", "goose", "goldfish, Carassius auratus", "volcano"]
CONDITION = ("condition_embedding.", "text_head.linear.")


def write_concept(folder: Path, labels: list[str | None]) -> Path:
    """Pictures of one emoji with these labels, and captions that name them."""
    (folder / "train").mkdir(parents=True)
    source = FIXTURE / "train" / emoji_rows()[0]["file_name"]
    lines = []
    for number, label in enumerate(labels):
        shutil.copy(source, folder / "train" / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "name": label, "text": f"a {label}"}))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def concept(tmp_path_factory) -> Path:
    return write_concept(tmp_path_factory.mktemp("concept"), [CONCEPT] * 8)


@pytest.fixture
def base(make_pipeline, tmp_path):
    """Saves a pipeline of tiny components, untrained; gives it and its folder."""

    def make(condition: str, **fields) -> tuple[RQImageGenerationPipeline, Path]:
        pipeline = make_pipeline(condition, **fields)
        pipeline.save_pretrained(tmp_path / f"base-{condition}")
        return pipeline, tmp_path / f"base-{condition}"

    return make


def train(start: Path, concept: Path, output: Path, **flags) -> RQImageGenerationPipeline:
    """Fine-tunes the pipeline in `start` by the script and loads what it leaves."""
    config = output.parent / f"{output.name}.json"
    config.write_text("{}")
    options = {
        "output_dir": output, "model_name_or_path": start, "rqvae_name_or_path": start, "dataset_name": concept,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "max_steps": 2, "learning_rate": 1e-2,
        "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no", "stochastic_codes": False,
        "soft_labels": False, "dropout": 0.0, **flags,
    }  # fmt: skip
    arguments = [str(config)]
    for name, value in options.items():
        if value is None:
            continue
        arguments += [f"--{name}", value if isinstance(value, str) else json.dumps(value, default=str).strip('"')]
    train_rqt.main(arguments)
    pipeline = RQImageGenerationPipeline.from_pretrained(output)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def losses(output: Path) -> list[float]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@torch.no_grad()
def logits(model, input_ids: list[int] | None = None) -> torch.Tensor:
    """Of random codes under each id, or under captions of random ids."""
    config, generator = model.config, torch.Generator().manual_seed(3)
    ids = torch.randint(32, (3, config.condition_length), generator=generator) % min(4, config.vocab_size)
    if input_ids is not None:
        ids = torch.tensor(input_ids)[:, None]
    codes = torch.randint(config.codebook_size, (1, *config.code_shape), generator=generator)
    return model(ids, codes.expand(len(ids), *config.code_shape)).logits


def lora_arguments(tmp_path, **changes) -> RQTransformerTrainingArguments:
    settings = {"lora_rank": 4, "model_name_or_path": "base", "use_cpu": True, **changes}
    return RQTransformerTrainingArguments(output_dir=str(tmp_path), **settings)


@pytest.mark.parametrize(
    "recipe, rank", [("cc3m-rqt-8x8x4-654M", 16), ("imagenet-rqt-8x8x4-1.4B", 16), ("emoji-rqt-8x8x3-15M", 4)]
)
def test_adapters_are_less_than_a_twentieth_of_the_weights(tmp_path, recipe, rank):
    fields = json.loads((SCRIPTS / "configs" / f"{recipe}.json").read_text())["model"]
    with torch.device("meta"):
        adapted = add_lora(
            RQTransformerForImageGeneration(RQTransformerConfig(**fields)), lora_arguments(tmp_path, lora_rank=rank)
        )
    trainable, total = adapted.get_nb_trainable_parameters()
    assert 0 < trainable < 0.05 * total
    assert all("lora_" in name for name, weight in adapted.named_parameters() if weight.requires_grad)
    blocks = fields["num_spatial_layers"] + fields["num_depth_layers"]
    assert sum(name.endswith("lora_A.default.weight") for name, _ in adapted.named_parameters()) == 4 * blocks


def test_an_adapter_can_be_disabled_and_merged(tiny_transformer, tmp_path):
    before = copy.deepcopy(tiny_transformer).requires_grad_(False)
    adapted = add_lora(tiny_transformer, lora_arguments(tmp_path)).eval()
    assert torch.equal(logits(adapted), logits(before))  # new adapters change nothing
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    changed = logits(adapted)
    assert (changed - logits(before)).abs().max() > 0.1
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), logits(before))
    merged = adapted.merge_and_unload()
    assert type(merged) is RQTransformerForImageGeneration
    torch.testing.assert_close(logits(merged), changed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"lora_rank": 0}, "`lora_rank` must be at least 1, got 0"),
        ({"lora_alpha": 0}, "`lora_alpha` must be at least 1, got 0"),
        ({"lora_dropout": 1.0}, r"`lora_dropout` must be in \[0, 1\), got 1.0"),
        ({"model_name_or_path": None}, "`model_name_or_path` must be given with `lora_rank`"),
    ],
)
def test_bad_lora_arguments_are_refused(tmp_path, changes, expected):
    with pytest.raises(ValueError, match=expected):
        lora_arguments(tmp_path, **changes)


@pytest.mark.parametrize("name", [".", "transformer"])
def test_an_adapter_does_not_replace_its_base(tmp_path, name):
    base = tmp_path / name
    base.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="`output_dir` must be another folder than that of `model_name_or_path`"):
        lora_arguments(tmp_path, model_name_or_path=str(base))
    lora_arguments(tmp_path / "other", model_name_or_path=str(base))


def test_lora_learns_a_new_class_that_the_base_does_not_draw(base, concept, tmp_path):
    pipeline, start = base("class")
    lora = {"label_column": "name", "lora_rank": 8, "lora_alpha": 16}
    trained = train(start, concept, tmp_path / "run", max_steps=60, **lora)
    assert losses(tmp_path / "run")[-1] < 0.3 * losses(tmp_path / "run")[0]
    new = trained.transformer.config.label2id[CONCEPT]
    assert trained.transformer.config.id2label == dict(enumerate([*OLD, CONCEPT])) and new == 4

    with torch.no_grad():
        picture = torch.from_numpy(np.asarray(trained.reconstruct(picture_of(concept), output_type="latent").images))
    pipeline.transformer.add_classes([CONCEPT])
    accuracy = {
        name: (pipe(class_labels=CONCEPT, top_k=1, output_type="latent").images == picture).float().mean()
        for name, pipe in (("base", pipeline), ("trained", trained))
    }
    assert accuracy["base"] < 0.3 and accuracy["trained"] > 0.8


def test_rows_in_reserve_begin_as_the_mean_and_train_with_an_adapter(base, concept, tmp_path, tiny_tokenizer):
    _, start = base("class", vocab_size=8, null_condition_ids=None)
    lora = {"label_column": "name", "lora_rank": 2, "condition_dropout": 0.5}
    trained = train(start, concept, tmp_path / "class", max_steps=8, **lora).transformer
    first = load_component(RQTransformerForImageGeneration, start, "transformer").condition_embedding.weight
    mean, (null,) = first[:4].mean(0), trained.config.null_condition_ids
    assert (trained.config.vocab_size, trained.config.label2id[CONCEPT], null) == (8, 4, 5)
    for index in (4, null):
        moved = (trained.condition_embedding.weight[index] - mean).abs().max()
        assert 1e-4 < moved < 0.5 and not torch.equal(trained.condition_embedding.weight[index], first[index])
    assert torch.equal(trained.condition_embedding.weight[6:], first[6:])

    pipeline, start = base("text", vocab_size=len(tiny_tokenizer) + 8)
    grown = copy.deepcopy(tiny_tokenizer)
    grown.add_tokens(["dragon"])
    grown.save_pretrained(tmp_path / "words")
    captions = {"caption_column": "text", "tokenizer_name_or_path": tmp_path / "words", "lora_rank": 2}
    trained = train(start, concept, tmp_path / "text", max_steps=8, **captions).transformer
    index, first = grown.convert_tokens_to_ids("dragon"), pipeline.transformer.condition_embedding.weight
    assert index == len(tiny_tokenizer)
    moved = (trained.condition_embedding.weight[index] - first[:index].mean(0)).abs().max()
    assert moved < 0.5 and not torch.equal(trained.condition_embedding.weight[index], first[index])


def picture_of(concept: Path) -> Image.Image:
    with Image.open(concept / "train" / "0.png") as picture:
        return picture.convert("RGB").resize((16, 16))


def test_a_saved_adapter_makes_the_base_what_the_run_made_of_it(base, concept, tmp_path):
    pipeline, start = base("class")
    trained = train(start, concept, tmp_path / "run", label_column="name", lora_rank=2, ema_decay=0.9)
    adapter = tmp_path / "run" / "adapter"
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} == {
        path.name for path in adapter.iterdir() if not path.name.startswith(".")
    }
    card = (adapter / "README.md").read_text()
    assert "library_name: peft" in card and "load_adapter(" in card and "add_classes" in card
    for name, weight in trained.transformer.state_dict().items():
        if not name.endswith(("query_key_value.weight", "out_proj.weight", "mlp.0.weight", "mlp.2.weight")):
            old = pipeline.transformer.state_dict()[name]
            rows = 4 if name == "condition_embedding.weight" else None  # the new class and the null row follow
            assert torch.equal(weight[:rows], old[:rows]), name

    pipeline.transformer.add_classes([CONCEPT])
    expected, without = logits(trained.transformer, [0, 4, 5]), logits(pipeline.transformer, [0, 4, 5])
    assert (expected - without).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3
    merged = PeftModel.from_pretrained(copy.deepcopy(pipeline.transformer), adapter).merge_and_unload()
    torch.testing.assert_close(logits(merged, [0, 4, 5]), expected, rtol=1e-5, atol=1e-5)
    pipeline.transformer.load_adapter(str(adapter))
    torch.testing.assert_close(logits(pipeline.transformer, [0, 4, 5]), expected, rtol=1e-5, atol=1e-5)
    assert pipeline(class_labels=CONCEPT, output_type="latent").images.shape == (1, 4, 4, 3)

    pipeline.transformer = merged
    pipeline.save_pretrained(tmp_path / "merged")
    again = RQImageGenerationPipeline.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again.transformer, [4]), logits(merged, [4]), rtol=1e-5, atol=1e-5)


def test_lora_training_resumes_exactly(base, concept, tmp_path):
    _, start = base("class")
    flags = {
        "label_column": "name", "lora_rank": 2, "lora_dropout": 0.5, "condition_dropout": 0.3, "max_steps": 6,
        "save_strategy": "steps", "save_steps": 3, "gradient_checkpointing": True, "ema_decay": 0.5,
    }  # fmt: skip
    whole = train(start, concept, tmp_path / "whole", **flags)
    names = {path.name for path in (tmp_path / "whole" / "checkpoint-3").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names
    resumed = train(
        start, concept, tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"), **flags
    )
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")
    assert torch.equal(logits(resumed.transformer, [0, 4]), logits(whole.transformer, [0, 4]))


def test_a_pushed_adapter_is_loaded_by_its_repository_id(hub, base, concept, tmp_path):
    pipeline, start = base("text")
    trained = train(
        start, concept, tmp_path / "run", caption_column="text", tokenizer_name_or_path=str(start), lora_rank=2,
        push_to_hub=True, hub_model_id="me/dragon",
    )  # fmt: skip
    files = set(hub.files("me/dragon")) - {".gitattributes"}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert 'load_adapter("me/dragon")' in (tmp_path / "run" / "adapter" / "README.md").read_text()
    expected = logits(trained.transformer)
    assert (expected - logits(pipeline.transformer)).abs().max() > 1e-3
    pipeline.transformer.load_adapter("me/dragon")
    torch.testing.assert_close(logits(pipeline.transformer), expected, rtol=1e-5, atol=1e-5)


def test_whole_fine_tuning_moves_every_weight_but_the_codebook(base, concept, tmp_path):
    pipeline, start = base("class")
    trained = train(start, concept, tmp_path / "run", label_column="name", learning_rate=1e-3, weight_decay=0.1)
    assert not (tmp_path / "run" / "adapter").exists()
    pipeline.transformer.add_classes([CONCEPT])
    old = pipeline.transformer.state_dict()
    for name, weight in trained.transformer.state_dict().items():
        assert torch.equal(weight, old[name]) == (name == "codebook.weight"), name


# The vocabulary of the condition.


def test_new_classes_in_rows_kept_in_reserve_begin_as_the_others_do(make_transformer):
    model = make_transformer("class", vocab_size=8, null_condition_ids=[7])
    weight = model.condition_embedding.weight.detach()
    mean, null = weight[:4].mean(0), weight[7].clone()
    assert model.add_classes(["dragon", "phoenix"]) == [4, 5]
    assert (weight[4:6] == mean).all() and torch.equal(weight[7], null)
    model = make_transformer("class", vocab_size=3, null_condition_ids=None, id2label={})
    assert model.add_classes(["dragon"]) == [0] and model.condition_embedding.weight.isfinite().all()


def test_new_classes_follow_the_old_ones_whose_logits_stay(make_transformer):
    model = make_transformer("class")
    before, null = logits(model, [0, 1, 2, 3]), logits(model, [4])
    assert model.add_classes(["dragon", "phoenix"]) == [4, 5]
    config = model.config
    assert (config.vocab_size, config.null_condition_ids) == (7, (6,)) == (len(model.condition_embedding.weight), (6,))
    assert config.id2label == dict(enumerate([*OLD, "dragon", "phoenix"]))
    assert config.label2id == {name: index for index, name in config.id2label.items()}
    assert torch.equal(logits(model, [0, 1, 2, 3]), before) and torch.equal(logits(model, [6]), null)
    assert not torch.allclose(logits(model, [4]), null)
    assert model.add_classes([]) == [] and model.config.null_condition_ids == (6,)


def test_the_same_classes_under_other_names_stay_the_same_ids(make_transformer):
    config = make_transformer("class").config
    others = [f"{name}, {name} of the data" for name in OLD]
    fields = class_vocabulary(config, others, dropped=False)
    assert fields["id2label"] == dict(enumerate(others)) and fields["vocab_size"] == config.vocab_size
    swapped = [others[1], others[0], *others[2:]]
    assert class_vocabulary(config, swapped, dropped=False)["vocab_size"] == config.vocab_size + len(OLD)


def test_names_may_be_given_to_integer_labels_of_a_nameless_model(make_transformer, tiny_rqvae, tmp_path):
    model = make_transformer("class", tiny_rqvae, vocab_size=3, null_condition_ids=None, id2label=None)
    model.save_pretrained(tmp_path / "base")
    arguments = ScriptArguments(
        training=RQTransformerTrainingArguments(
            str(tmp_path), use_cpu=True, model_name_or_path=str(tmp_path / "base"), report_to="none"
        ),
        data=CodeDataArguments(label_column="label"),
        model={"id2label": {"0": "tench", "1": "goldfish", "2": "shark"}},
    )
    rows = datasets.Dataset.from_dict({"label": [0, 2, 1]})
    config = transformer_config(arguments, tiny_rqvae, None, rows)
    assert config.vocab_size == 3 and config.id2label == {0: "tench", 1: "goldfish", 2: "shark"}


def test_new_classes_need_no_null_condition(make_transformer, tmp_path):
    model = make_transformer("class", vocab_size=4, null_condition_ids=None)
    before = logits(model, [0, 1, 2, 3])
    assert model.add_classes(name for name in [CONCEPT]) == [4]
    assert (model.config.vocab_size, model.config.null_condition_ids) == (5, None)
    model.save_pretrained(tmp_path)
    loaded = RQTransformerForImageGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, [0, 1, 2, 3]), before) and loaded.config.label2id[CONCEPT] == 4


def test_classes_that_cannot_be_added_are_refused_and_nothing_changes(make_transformer):
    model = make_transformer("class")
    for names in (["goose"], ["a", "a"], [3]):
        with pytest.raises(ValueError, match="`names` must be texts that no other class has, got"):
            model.add_classes(names)
    with pytest.raises(ValueError, match="`names` must be a list of texts, got 'dog'"):
        model.add_classes("dog")
    assert model.config.vocab_size == 5 and model.config.id2label == dict(enumerate(OLD))
    for kind in ("text", "none"):
        with pytest.raises(ValueError, match="`names` of classes need a model whose classes have names"):
            make_transformer(kind).add_classes([CONCEPT])


def test_rows_in_use_are_not_cut_off(make_transformer):
    for kind, least in (("class", 5), ("text", 1)):
        model = make_transformer(kind)
        with pytest.raises(ValueError, match=f"`new_num_tokens` must be at least {least}, .* got {least - 1}"):
            model.resize_token_embeddings(least - 1)
        model.resize_token_embeddings(least)
        assert model.config.vocab_size == least


def larger_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([CONCEPT])
    larger.save_pretrained(folder)
    return folder


def test_a_tokenizer_that_begins_with_the_models_ids_grows_its_vocabulary(
    base, concept, tiny_tokenizer, tmp_path, caplog
):
    size = len(tiny_tokenizer)
    pipeline, start = base("text", vocab_size=size)
    tokenizer = larger_tokenizer(pipeline.tokenizer, tmp_path / "larger")
    flags = {"caption_column": "text", "tokenizer_name_or_path": str(tokenizer), "learning_rate": 0.0}
    trained = train(start, concept, tmp_path / "run", **flags)
    assert f"The vocabulary grows from {size} to {size + 1} caption ids" in caplog.text
    assert trained.transformer.config.vocab_size == len(trained.tokenizer) == size + 1
    assert torch.equal(logits(trained.transformer), logits(pipeline.transformer))
    old, new = pipeline.transformer.state_dict(), trained.transformer.state_dict()
    assert all(torch.equal(new[name][: len(weight)], weight) for name, weight in old.items())
    assert CONCEPT in trained.tokenizer.tokenize(f"a {CONCEPT}")


def test_other_ids_are_refused_and_replaced_when_asked_for(base, concept, tmp_path):
    pipeline, start = base("text")
    train_caption_tokenizer(["zebra quiz", "a dragon"], vocab_size=50, max_length=5).save_pretrained(
        tmp_path / "length"
    )
    train_caption_tokenizer(["zebra quiz", "a dragon"], vocab_size=50, max_length=6).save_pretrained(
        tmp_path / "other"
    )
    flags = {"caption_column": "text", "learning_rate": 0.0, "condition_dropout": 0.1}
    for name, expected in (
        ("length", "`tokenizer_name_or_path` must have `model_max_length` 6, .* got 5"),
        ("other", "`tokenizer_name_or_path` must have the ids of the tokenizer of `model_name_or_path`"),
    ):
        flags["tokenizer_name_or_path"] = str(tmp_path / name)
        with pytest.raises(ValueError, match=f"{expected}.*replace_condition_vocabulary"):
            train(start, concept, tmp_path / "run", **flags)
        trained = train(start, concept, tmp_path / f"run-{name}", replace_condition_vocabulary=True, **flags)
        config, tokenizer = trained.transformer.config, trained.tokenizer
        assert (config.vocab_size, config.condition_length) == (len(tokenizer), tokenizer.model_max_length)
        assert config.null_condition_ids == (tokenizer.pad_token_id,) * config.condition_length
        old, new = pipeline.transformer.state_dict(), trained.transformer.state_dict()
        for key, weight in new.items():
            is_new = key.startswith(CONDITION) or (name == "length" and key.startswith("condition_positions"))
            assert is_new or torch.equal(weight, old[key]), key
        assert not torch.equal(new["condition_embedding.weight"][:4], old["condition_embedding.weight"][:4])


def test_an_unconditional_model_becomes_one_of_classes(base, concept, tmp_path):
    pipeline, start = base("none")
    flags = {"label_column": "name", "learning_rate": 0.0}
    with pytest.raises(ValueError, match="`label_column` needs a `model_name_or_path` with classes.*--replace"):
        train(start, concept, tmp_path / "run", **flags)
    flags |= {"replace_condition_vocabulary": True, "condition_dropout": 0.1}
    trained = train(start, concept, tmp_path / "classes", **flags)
    config = trained.transformer.config
    assert (config.id2label, config.vocab_size, config.null_condition_ids) == ({0: CONCEPT}, 2, (1,))
    old = pipeline.transformer.state_dict()
    for name, weight in trained.transformer.state_dict().items():
        assert name.startswith(CONDITION) or torch.equal(weight, old[name]), name
    back = train(
        tmp_path / "classes", concept, tmp_path / "back", learning_rate=0.0, replace_condition_vocabulary=True
    )
    config = back.transformer.config
    assert (config.id2label, config.vocab_size, config.null_condition_ids) == (None, 1, None)
    with pytest.raises(ValueError, match="`caption_column` or `label_column` must be given"):
        train(tmp_path / "classes", concept, tmp_path / "no-condition")


def test_condition_dropout_gives_a_pretrained_model_its_null_condition(base, concept, tmp_path):
    pipeline, start = base("class", vocab_size=4, null_condition_ids=None)
    data = write_concept(tmp_path / "known", ["volcano", "goose", None, "volcano"])
    flags = {"label_column": "name", "learning_rate": 0.0, "condition_dropout": 0.1}
    trained = train(start, data, tmp_path / "known-run", **flags)
    config = trained.transformer.config
    assert (config.vocab_size, config.null_condition_ids, len(config.id2label)) == (5, (4,), 4)
    assert torch.equal(logits(trained.transformer, [0, 1, 2, 3]), logits(pipeline.transformer, [0, 1, 2, 3]))
    trained = train(start, concept, tmp_path / "new-run", **flags)
    config = trained.transformer.config
    assert (config.vocab_size, config.null_condition_ids, config.label2id[CONCEPT]) == (6, (5,), 4)


def test_replacing_needs_a_model_to_keep_and_all_of_it_to_train(concept, base, tmp_path):
    _, start = base("none")
    for changes, expected in (
        ({"model_name_or_path": None}, "`replace_condition_vocabulary` needs a `model_name_or_path`"),
        ({"lora_rank": 2}, "`replace_condition_vocabulary` must be false with `lora_rank`"),
    ):
        with pytest.raises(ValueError, match=expected):
            train(start, concept, tmp_path / "run", label_column="name", replace_condition_vocabulary=True, **changes)


def test_a_recipes_vocabulary_size_does_not_hinder_new_classes(base, concept, tmp_path):
    _, start = base("class")
    trained = train(start, concept, tmp_path / "run", label_column="name", vocab_size=5)
    assert trained.transformer.config.vocab_size == 6
