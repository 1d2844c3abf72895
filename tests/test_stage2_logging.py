# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the trainer of stage 2 shows while it trains: losses by depth, pictures a second, pictures of fixed prompts."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CAPTIONS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset
from transformers import TrainerCallback
from two_processes_evaluation import Pictures

from rq_hf import RQImageGenerationPipeline
from rq_hf.caption_tokenizer import BPEDropoutEncoder
from rq_hf.residual_quantizer import soft_code_probabilities
from rq_hf.seeds import seeded_generator
from rq_hf.training import CodeDataset, RQTransformerTrainer, RQTransformerTrainingArguments
from rq_hf.training.generation_figures import first_conditions, sheet_of_codes

LABELS = [2, 0, 2, 1, 1, 3, 0, 2]


@pytest.fixture
def make_trainer(make_rqvae, make_transformer, tiny_tokenizer, pictures, tmp_path):
    def make(condition: str = "text", fields=(), **training) -> RQTransformerTrainer:
        rqvae = make_rqvae()
        model = make_transformer(condition, rqvae, **dict(fields))
        arguments = RQTransformerTrainingArguments(**{
            "output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "max_steps": 2, "seed": 3,
            "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "eval_strategy": "steps",
            "eval_steps": 1, "logging_steps": 1, "learning_rate": 1e-2, "save_strategy": "no", "disable_tqdm": True,
            "eval_pictures": 3, **training,
        })  # fmt: skip
        conditions = {"text": [[caption, "other"] for caption in CAPTIONS + CAPTIONS], "class": LABELS, "none": None}
        encoder = BPEDropoutEncoder(tiny_tokenizer) if condition == "text" else None
        data = CodeDataset(Pictures(pictures), conditions[condition], encoder=encoder, training=False)
        return RQTransformerTrainer(model=model, args=arguments, rqvae=rqvae, train_dataset=data, eval_dataset=data)

    return make


def sheets(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "run").glob("pictures/*"))


@torch.no_grad()
def losses_by_depth(trainer: RQTransformerTrainer, **inputs) -> list[float]:
    """From logits and soft targets held whole."""
    model, temperatures = trainer.model.eval(), trainer.args.code_temperature
    codes, residuals = trainer.rqvae.quantize(trainer.rqvae.encode_latents(inputs["pixel_values"]))
    depths = range(codes.shape[-1])
    temperatures = temperatures if isinstance(temperatures, list) else [temperatures] * len(depths)
    targets = [
        soft_code_probabilities(residuals[..., depth, :], model.codebook.at_depth(depth), temperatures[depth])
        for depth in depths
    ]
    logits = model(inputs["input_ids"], codes).logits
    return [
        F.cross_entropy(logits[..., depth, :].flatten(0, -2), target.flatten(0, -2)).item()
        for depth, target in enumerate(targets)
    ]


@pytest.mark.parametrize("temperature", [5.0, [5.0, 1.0, 0.5]])
@pytest.mark.parametrize("fields", [{}, {"shared_codebook": False}])
def test_losses_of_each_depth_are_logged(make_trainer, make_rqvae, make_transformer, fields, temperature):
    trainer = make_trainer(stochastic_codes=False, code_temperature=temperature, learning_rate=0.0)
    if fields:
        trainer.rqvae = make_rqvae(**fields)
        trainer.model = trainer.model_wrapped = make_transformer("text", trainer.rqvae)
    data = trainer.eval_dataset
    expected = losses_by_depth(trainer, **{
        name: torch.stack([data[index][name] for index in range(8)]) for name in ("input_ids", "pixel_values")
    })  # fmt: skip
    trainer.train()
    training, evaluation = trainer.state.log_history[:2]
    names = [f"image_loss_depth_{depth}" for depth in (1, 2, 3)]
    assert [evaluation[f"eval_{name}"] for name in names] == pytest.approx(expected, abs=1e-5)
    assert len({round(loss, 3) for loss in expected}) == 3
    assert training["image_loss"] == pytest.approx(sum(training[name] for name in names) / 3, abs=1e-5)
    weight = trainer.model.config.text_loss_weight
    whole = (1 - weight) * training["image_loss"] + weight * training["text_loss"]
    assert training["loss"] == pytest.approx(whole, abs=1e-4)
    assert training["learning_rate"] == 0 and evaluation["eval_text_loss"] > 0


def test_evaluations_of_trainings_with_soft_and_hard_labels_can_be_compared(make_trainer):
    def evaluated(soft_labels: bool) -> dict[str, float]:
        torch.manual_seed(0)
        trainer = make_trainer(soft_labels=soft_labels, code_temperature=5.0, eval_pictures=0)
        return trainer.evaluate()

    soft, hard = evaluated(True), evaluated(False)
    assert soft["eval_image_loss_nearest_codes"] == pytest.approx(hard["eval_image_loss"], abs=1e-5)
    assert abs(soft["eval_image_loss"] - hard["eval_image_loss"]) > 1e-3
    assert "eval_image_loss_nearest_codes" not in hard


def test_the_loss_of_an_evaluation_does_not_depend_on_its_batches(make_trainer):
    metrics = []
    for batch_size in (1, 3, 8):
        torch.manual_seed(0)
        trainer = make_trainer(per_device_eval_batch_size=batch_size, eval_pictures=0)
        metrics.append(trainer.evaluate())
    for name in ("eval_loss", "eval_text_loss", "eval_image_loss"):
        assert [each[name] for each in metrics] == pytest.approx([metrics[0][name]] * 3, abs=2e-6)
    model, data = trainer.model.eval(), trainer.eval_dataset
    input_ids = torch.stack([data[index]["input_ids"] for index in range(8)])
    assert len({(row != 0).sum().item() for row in input_ids}) > 1  # captions of several lengths
    pixels = torch.stack([data[index]["pixel_values"] for index in range(8)])
    whole = model(input_ids, codes := trainer.rqvae.encode(pixels), labels=codes)
    assert metrics[0]["eval_text_loss"] == pytest.approx(whole.text_loss.item(), abs=2e-6)


def test_pictures_a_second_count_training_alone(make_trainer):
    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.1)

        def on_prediction_step(self, args, state, control, **kwargs):
            time.sleep(0.5)

    trainer = make_trainer(max_steps=4, logging_steps=2, gradient_accumulation_steps=2, eval_pictures=0)
    trainer.add_callback(Slow())
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    rates = [entry["pictures_per_second"] for entry in trainer.state.log_history if "pictures_per_second" in entry]
    assert len(rates) == 2
    trained = sum(16 / rate for rate in rates)  # two steps of two batches of four
    # Of two steps the first one's pause lies before the second; evaluations lie outside.
    assert 2 * 0.1 < trained < seconds - 4 * 2 * 0.5


@pytest.mark.parametrize("condition", ["text", "class", "none"])
def test_each_evaluation_leaves_the_same_conditions_drawn_with_the_same_seed(make_trainer, tmp_path, condition):
    trainer = make_trainer(condition)
    trainer.train()
    files = sheets(tmp_path)
    assert [path.name for path in files] == ["step-1.png", "step-2.png"]
    generators = [seeded_generator(3, index) for index in range(3)]
    input_ids, captions = first_conditions(trainer.eval_dataset, 3, trainer.model.config)
    codes = trainer.model.eval().generate(input_ids, generator=generators)
    with Image.open(files[1]) as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(sheet_of_codes(trainer.rqvae, codes, captions)))
    assert files[0].read_bytes() != files[1].read_bytes()


def test_drawn_pictures_are_those_of_the_pipeline(make_trainer, tiny_tokenizer):
    trainer = make_trainer()
    input_ids, captions = first_conditions(trainer.eval_dataset, 3, trainer.model.config)
    assert captions == CAPTIONS[:3]
    pipeline = RQImageGenerationPipeline(trainer.rqvae, trainer.model, tiny_tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    assert torch.equal(pipeline.encode_prompt(captions), input_ids)
    generators = [seeded_generator(3, index) for index in range(3)]
    codes = pipeline(captions, generator=generators, output_type="latent").images
    sheet = np.asarray(sheet_of_codes(trainer.rqvae, codes, captions))
    generators = [seeded_generator(3, index) for index in range(3)]
    (first, *_) = pipeline(captions, generator=generators, output_type="np").images
    tile = sheet[8 : 8 + 128, 8 : 8 + 128]  # eight times as large
    assert np.array_equal(tile[4::8, 4::8], np.rint(first * 255).astype(np.uint8))
    assert np.array_equal(tile[::8, ::8], tile[7::8, 7::8])


def test_the_first_different_conditions_are_drawn(make_trainer):
    trainer = make_trainer("class")
    input_ids, names = first_conditions(trainer.eval_dataset, 3, trainer.model.config)
    assert input_ids.tolist() == [[2], [0], [1]]
    assert names == ["goldfish, Carassius auratus", "tabby, tabby cat", "goose"]
    assert len(first_conditions(trainer.eval_dataset, 9, trainer.model.config)[0]) == 4
    input_ids, names = first_conditions(make_trainer("none").eval_dataset, 5, trainer.model.config)
    assert input_ids.tolist() == [[0]] * 5 and names is None


def test_drawing_uses_the_generation_config_and_the_averaged_weights(make_trainer, tmp_path):
    trainer = make_trainer(ema_decay=0.5, max_steps=4, eval_steps=4)
    trainer.model.generation_config.top_k = 1
    trainer.train()
    input_ids, captions = first_conditions(trainer.eval_dataset, 3, trainer.model.config)

    def drawn(**sampling) -> np.ndarray:
        generators = [seeded_generator(3, index) for index in range(3)]
        codes = trainer.model.eval().generate(input_ids, generator=generators, **sampling)
        return np.asarray(sheet_of_codes(trainer.rqvae, codes, captions))

    with trainer.averaged_weights():
        expected, unlike = drawn(), drawn(top_k=32)
    with Image.open(tmp_path / "run" / "pictures" / "step-4.png") as sheet:
        assert np.array_equal(np.asarray(sheet), expected)
    assert not np.array_equal(unlike, expected) and not np.array_equal(drawn(), expected)


def test_drawing_changes_nothing_of_the_training(make_trainer):
    histories = []
    for count in (0, 3):
        torch.manual_seed(0)
        trainer = make_trainer(max_steps=4, eval_pictures=count, fields={"dropout": 0.3})
        trainer.train()
        histories.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert histories[0] == histories[1]


def test_no_pictures_are_drawn_where_none_are_asked_for(make_trainer, tmp_path):
    make_trainer(eval_pictures=0).train()
    assert not sheets(tmp_path)
    with pytest.raises(ValueError, match="`eval_pictures` must be at least 0, got -1"):
        make_trainer(eval_pictures=-1)


@pytest.mark.parametrize("precision", ["bf16", "bf16_full_eval"])
def test_pictures_are_drawn_in_bf16(make_trainer, tmp_path, precision):
    metrics = make_trainer(**{precision: True}).evaluate()
    assert math.isfinite(metrics["eval_image_loss_depth_3"])
    assert [path.name for path in sheets(tmp_path)] == ["step-0.png"]


def test_several_data_sets_have_sheets_of_their_own(make_trainer, tmp_path, pictures):
    trainer = make_trainer("class")
    others = CodeDataset(Pictures(pictures), [3] * 8, training=False)
    trainer.evaluate({"animals": trainer.eval_dataset, "others": others})
    assert [path.name for path in sheets(tmp_path)] == ["step-0-animals.png", "step-0-others.png"]


def break_weights(trainer: RQTransformerTrainer) -> None:
    trainer.model.code_head.linear.weight.data.fill_(math.nan)


def guide(trainer: RQTransformerTrainer) -> None:
    trainer.model.generation_config.guidance_scale = 3.0


def shard(trainer: RQTransformerTrainer) -> None:
    trainer.is_fsdp_enabled = True  # FSDP needs an accelerator; the losses do not look at this


class Plain(Dataset):
    """Any data set with the batches of stage 2."""

    def __init__(self, rows: CodeDataset):
        self.rows = [rows[index] for index in range(4)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def take_others(trainer: RQTransformerTrainer) -> None:
    trainer.eval_dataset = Plain(trainer.eval_dataset)


@pytest.mark.parametrize(
    "change, reason",
    [
        (break_weights, "The logits must be finite"),
        (guide, "`guidance_scale` other than 1 needs"),
        (shard, "a model that FSDP or ZeRO-3 shards does not generate"),
        (take_others, "the evaluation data must be a `CodeDataset`, got Plain"),
    ],
)
def test_where_none_can_be_drawn_the_reason_is_logged_and_training_goes_on(
    make_trainer, tmp_path, caplog, change, reason
):
    trainer = make_trainer("class", fields={"null_condition_ids": None})
    change(trainer)
    assert "eval_loss" in trainer.evaluate()
    assert f"No pictures are drawn at step 0: {reason}" in caplog.text
    assert not sheets(tmp_path)


def test_tensorboard_gets_losses_of_each_depth_and_the_pictures(make_trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    make_trainer(report_to=["tensorboard"]).train()
    board = EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0}).Reload()
    images = board.Images("eval/samples")
    assert [image.step for image in images] == [1, 2]
    with Image.open(sheets(tmp_path)[1]) as sheet:
        assert (images[1].width, images[1].height) == sheet.size
    for name in ("eval/image_loss_depth_3", "train/image_loss_depth_3", "train/pictures_per_second"):
        assert [scalar.step for scalar in board.Scalars(name)] == [1, 2]
