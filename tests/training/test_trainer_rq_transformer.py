# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Training of the RQ-Transformer: its codes and labels, evaluations, pictures."""

import pytest
import torch
from PIL import Image
from training_runs import Samples, contextual_trainer, logged, rqt_trainer

from rq_hf import RQGenerationConfig
from rq_hf.training import RQTransformerTrainer


def batch(trainer: RQTransformerTrainer, count: int = 4) -> dict[str, torch.Tensor]:
    """Inputs of one step, and the random numbers of it."""
    trainer.generator = torch.Generator().manual_seed(0)
    trainer.model.train()
    data = Samples()
    return {"pixel_values": data.pictures[:count], "input_ids": data.input_ids[:count]}


def test_training_lowers_the_loss_and_logs_image_text_and_depths(tmp_path):
    trainer = rqt_trainer(tmp_path, max_steps=20, learning_rate=1e-2)
    trainer.train()
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.9 * first["image_loss"] + 0.1 * first["text_loss"], abs=1e-4)
    depths = [first[f"image_loss_depth_{depth}"] for depth in (1, 2)]
    assert first["image_loss"] == pytest.approx(sum(depths) / 2, abs=1e-4)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_image_loss", "eval_text_loss", "eval_image_loss_depth_2"} <= set(metrics)
    assert not any(name.startswith("rqvae") for name, _ in trainer.model.named_parameters())


def test_training_codes_are_hard_in_evaluations_and_drawn_in_training(tmp_path):
    trainer = rqt_trainer(tmp_path, code_temperature=[5.0, 1e-9])
    inputs = batch(trainer)
    latents = trainer.rqvae.encode_latents(inputs["pixel_values"])
    hard, hard_residuals = trainer.rqvae.quantize(latents)
    codes, residuals = trainer.training_codes(inputs)
    assert (codes[..., 0] != hard[..., 0]).float().mean() > 0.3  # tau of depth 1
    torch.testing.assert_close(residuals[..., 1, :], latents - trainer.rqvae.codebook[0][codes[..., 0]])
    assert torch.equal(codes[..., 1], torch.cdist(residuals[..., 1, :], trainer.rqvae.codebook).argmin(-1))
    again, _ = trainer.training_codes(inputs | {"latents": latents})
    assert not torch.equal(again, codes)  # the next batch of an accumulated step
    batch(trainer)
    assert torch.equal(trainer.training_codes(inputs)[0], codes)
    trainer.model.eval()
    for ours, theirs in zip(trainer.training_codes(inputs), (hard, hard_residuals), strict=True):
        assert torch.equal(ours, theirs)


def test_self_correction_draws_codes_of_the_first_pictures_and_labels_lead_back_to_them(tmp_path):
    count, options = 1, {"self_correction": 0.1, "self_correction_top_k": 1, "stochastic_codes": False}
    trainer = rqt_trainer(tmp_path, model={"dropout": 0.5}, **options)
    inputs = batch(trainer)
    latents = trainer.rqvae.encode_latents(inputs["pixel_values"])
    hard, hard_residuals = trainer.rqvae.quantize(latents)
    codes, residuals = trainer.training_codes(inputs)
    assert trainer.model.training
    likeliest = RQGenerationConfig(top_k=1)
    expected = trainer.model.eval().redraw_codes(hard, likeliest, input_ids=inputs["input_ids"])
    assert torch.equal(codes[:count], expected[:count]) and not torch.equal(codes[:count], hard[:count])
    assert torch.equal(codes[count:], hard[count:]) and torch.equal(residuals[count:], hard_residuals[count:])
    vectors = trainer.rqvae.codebook[0][codes[:count, ..., 0]]
    torch.testing.assert_close(residuals[:count, ..., 0, :], latents[:count])
    torch.testing.assert_close(residuals[:count, ..., 1, :], latents[:count] - vectors)  # what the own code leaves


@pytest.mark.parametrize("training", [True, False])
def test_pictures_are_encoded_in_the_precision_of_the_training(tmp_path, training):
    trainer = rqt_trainer(tmp_path, bf16=True)
    inputs, seen = batch(trainer), []
    trainer.rqvae.quant_conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.model.train(training)
    codes, residuals = trainer.training_codes(inputs)
    assert seen == [torch.bfloat16] and residuals.dtype == torch.float32 and codes.dtype == torch.long


def test_every_trained_parameter_gets_a_gradient(tmp_path):
    for depth in (1, 2):
        trainer = rqt_trainer(tmp_path, model={"code_depth": depth})
        trainer.compute_loss(trainer.model, batch(trainer)).backward()
        parameters = trainer.model.named_parameters()
        assert [name for name, each in parameters if each.requires_grad and each.grad is None] == []


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_evaluations_draw_the_same_pictures_with_the_averaged_weights(tmp_path, precision):
    trainer = rqt_trainer(
        tmp_path, model={"initializer_range": 0.3}, eval_pictures=3, ema_decay=0.5, learning_rate=1e-2, **precision
    )
    trainer.train()
    sheets = []
    for _ in range(2):
        trainer.evaluate()
        with Image.open(tmp_path / "pictures" / "step-6.png") as sheet:
            sheets.append(sheet.tobytes())
    with trainer.averaged_weights():
        averaged = trainer.draw_pictures(trainer.eval_dataset)
    assert sheets[0] == sheets[1] == averaged.tobytes()
    assert trainer.draw_pictures(trainer.eval_dataset).tobytes() != sheets[0]


def test_drawing_changes_nothing_of_the_training(tmp_path):
    losses = []
    for count in (2, 0):
        trainer = rqt_trainer(tmp_path, eval_pictures=count, eval_strategy="steps", eval_steps=2)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1]


def test_another_codebook_than_that_of_the_rqvae_and_bad_temperatures_are_refused(tmp_path):
    trainer = rqt_trainer(tmp_path, code_temperature=2.0)
    assert trainer.code_temperature == 2.0
    trainer.model.codebook.weight.neg_()
    with pytest.raises(ValueError, match="must have the codebook of `rqvae`"):
        RQTransformerTrainer(trainer.model, trainer.args, rqvae=trainer.rqvae)
    for bad in ([1.0, 1.0, 1.0], [], 0.0, [1.0, 0.0]):
        with pytest.raises(ValueError, match="`code_temperature` must be"):
            rqt_trainer(tmp_path, code_temperature=bad)


def test_contextual_transformers_train_on_masks_that_are_fixed_in_evaluations(tmp_path):
    trainer = contextual_trainer(tmp_path, max_steps=20, learning_rate=1e-2, eval_pictures=2)
    first, again = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] == again["eval_loss"] and (tmp_path / "pictures" / "step-0.png").is_file()
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first["eval_loss"]
    assert "text_loss" not in trainer.state.log_history[0]
