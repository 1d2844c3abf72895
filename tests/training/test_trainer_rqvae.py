# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Training of the RQ-VAE: losses, discriminator, evaluations, averaged weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from training_runs import RQVAE_FIELDS, Samples, logged, make_rqvae, rqvae_trainer
from transformers.utils import is_torch_bf16_gpu_available

from rq_hf.models import RQVAEModel
from rq_hf.training import RQVAETrainingArguments
from rq_hf.training.losses import adversarial_loss, discriminator_loss


def test_training_lowers_the_loss_and_logs_its_parts(tmp_path):
    trainer = rqvae_trainer(tmp_path, max_steps=20, l1_weight=0.5, adversarial_weight=0.0, learning_rate=3e-3)
    codebook = trainer.model.codebook.clone()
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.8 * losses[0]
    assert not torch.equal(codebook, trainer.model.codebook)
    assert not any("adversarial" in name for entry in trainer.state.log_history for name in entry)
    parts = [logged(trainer, name) for name in ("reconstruction_loss", "commitment_loss")]
    assert all(len(values) == 20 for values in parts)
    assert all(loss > error + 0.25 * commitment for loss, error, commitment in zip(losses, *parts, strict=True))


def test_the_decoder_alone_trains_if_asked_to(tmp_path):
    trainer = rqvae_trainer(tmp_path, max_steps=2, train_decoder_only=True, learning_rate=1e-2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and {name.split(".")[0] for name in changed} == {"decoder", "post_quant_conv"}


def test_a_step_has_the_gradients_of_the_weighted_losses_and_the_discriminator_learns_from_its_own(tmp_path):
    pictures = Samples().pictures[:4]
    trainer = rqvae_trainer(tmp_path, l1_weight=0.3, adversarial_weight=0.5, learning_rate=0.1)
    twin, discriminator = make_rqvae().train(), trainer.discriminator
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    trainer.current_gradient_accumulation_steps = 1  # a step outside of `train`
    trainer.create_optimizer()
    trainer.create_scheduler(1)
    loss = trainer.training_step(trainer.model, {"pixel_values": pictures})
    after = {name: value.detach().clone() for name, value in discriminator.named_parameters()}

    discriminator.load_state_dict(before)
    outputs = twin(pictures, codebook_update="per_step")
    error = outputs.reconstruction_loss + 0.3 * F.l1_loss(outputs.reconstruction, pictures)
    adversarial = adversarial_loss(discriminator(outputs.reconstruction))
    last = twin.decoder.conv_out.weight
    norms = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (error, adversarial)]
    weight = norms[0] / (norms[1] + 1e-4)
    expected = error + twin.config.commitment_weight * outputs.commitment_loss + 0.5 * weight * adversarial
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for parameter, other in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-6)

    own = discriminator_loss(discriminator(pictures), discriminator(outputs.reconstruction.detach()))
    gradients = torch.autograd.grad(0.5 * own, list(discriminator.parameters()))
    for (name, value), gradient in zip(after.items(), gradients, strict=True):
        step = before[name] - value  # Adam's first step has the sign of the gradient
        clear = gradient.abs() > 1e-5
        assert torch.equal(step[clear].sign(), gradient[clear].sign()), name


def test_an_evaluation_gives_figures_of_all_rows_and_leaves_a_sheet(tmp_path):
    trainer = rqvae_trainer(tmp_path, model={"code_depth": 3}, adversarial_weight=0.0)
    metrics = trainer.evaluate()
    with torch.no_grad():
        outputs = trainer.model.eval()(Samples().pictures)
    assert metrics["eval_reconstruction_loss"] == pytest.approx(outputs.reconstruction_loss.item(), abs=1e-5)
    assert metrics["eval_loss"] == pytest.approx(outputs.loss.item(), abs=1e-5)
    assert metrics["eval_psnr"] == pytest.approx(-10 * math.log10(metrics["eval_mse"]))
    assert metrics["eval_codes_used"] == len(outputs.codes.unique())
    assert "eval_code_usage_depth_3" in metrics
    with Image.open(tmp_path / "pictures" / "step-0.png") as sheet:
        assert sheet.width > 4 * 16 and sheet.height > 8 * 16  # 8 pictures, each with three depths beside it


def test_evaluation_and_saved_model_use_the_averaged_weights(tmp_path):
    trainer = rqvae_trainer(tmp_path / "run", ema_decay=0.5, adversarial_weight=0.0)
    trainer.train()
    raw = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.save_model(tmp_path / "saved")
    saved = RQVAEModel.from_pretrained(tmp_path / "saved")
    measured = trainer.evaluate()["eval_reconstruction_loss"]
    with torch.no_grad():
        pictures = Samples().pictures
        assert measured == pytest.approx(saved.eval()(pictures).reconstruction_loss.item(), rel=1e-3)
        assert measured != pytest.approx(trainer.model.eval()(pictures).reconstruction_loss.item(), rel=1e-3)
    assert all(torch.equal(*pair) for pair in zip(trainer.model.parameters(), raw, strict=True))


@pytest.mark.parametrize("rule, updates", [("per_depth", RQVAE_FIELDS["code_depth"]), ("per_step", 1)])
def test_the_codebook_is_updated_with_each_accumulated_batch(tmp_path, rule, updates):
    options = {"codebook_update": rule, "max_steps": 2, "gradient_accumulation_steps": 2}
    trainer = rqvae_trainer(tmp_path, adversarial_weight=0.0, **options)
    before = trainer.model.quantizer.num_updates.clone()
    for method in (trainer.train, trainer.evaluate):  # an evaluation changes nothing
        method()
        assert (trainer.model.quantizer.num_updates - before).tolist() == [4 * updates]


def test_quantizer_dropout_decodes_a_random_number_of_depths_in_its_share_of_the_batches(tmp_path):
    trainer = rqvae_trainer(tmp_path, adversarial_weight=0.0, quantizer_dropout=0.5)
    trainer.generator = torch.Generator().manual_seed(0)
    depths = [trainer.draw_depth() for _ in range(400)]
    counts = [depths.count(depth) / 400 for depth in (None, *range(1, RQVAE_FIELDS["code_depth"] + 1))]
    assert counts[0] == pytest.approx(0.5, abs=0.06) and min(counts[1:]) == pytest.approx(max(counts[1:]), abs=0.08)
    errors = []
    for depth in (None, 1):
        trainer.draw_depth = lambda depth=depth: depth
        trainer.current_gradient_accumulation_steps = 1
        errors.append(trainer.training_step(trainer.model.eval(), {"pixel_values": Samples().pictures[:4]}).item())
    assert errors[0] != errors[1]


def test_grey_pictures_train_with_all_losses(tmp_path):
    trainer = rqvae_trainer(
        tmp_path, model={"num_channels": 1}, max_steps=1, perceptual_weight=1.0, perceptual_net="lite0"
    )
    trainer.train()
    assert logged(trainer, "perceptual_loss")[0] > 0 and logged(trainer, "adversarial_loss")


def test_both_models_train_by_the_schedule_and_the_weight_decay_of_the_arguments(tmp_path):
    schedule = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 3}}
    trainer = rqvae_trainer(tmp_path, warmup_steps=1, weight_decay=0.2, **schedule)
    trainer.train()
    rates = logged(trainer, "learning_rate")
    assert rates[1:3] == [1e-3, 1e-3] and 0 < rates[5] < rates[4] < 1e-3
    for optimizer in (trainer.optimizer, trainer.discriminator_optimizer):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
        assert optimizer.param_groups[0]["weight_decay"] == 0.2


def test_training_stops_early_where_evaluations_get_no_better_says_so_and_keeps_the_best(tmp_path, caplog):
    trainer = rqvae_trainer(
        tmp_path, learning_rate=0.1, adversarial_weight=0.0, early_stopping_patience=2, eval_strategy="steps",
        eval_steps=1, max_steps=30, save_total_limit=2,
    )  # fmt: skip
    trainer.train()
    losses = logged(trainer, "eval_loss")
    best, stopped = losses.index(min(losses)) + 1, len(losses)
    assert stopped == best + 2 < 30
    message = f"Stopped early, at step {stopped} of 30. The weights of step {best} are kept: best loss, "
    assert [text for text in caplog.messages if text.startswith("Stopped")] == [f"{message}{min(losses):.4g}."]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("scale, expected", [(math.nan, "from nan to nan"), (255, "from -.* to 2.*")])
def test_pixels_that_are_not_finite_or_out_of_range_are_refused(tmp_path, scale, expected):
    trainer = rqvae_trainer(tmp_path / "run", adversarial_weight=0.0)
    trainer.train_dataset.pictures = trainer.train_dataset.pictures * scale
    for method in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match=rf"`pixel_values` must be in \[-1, 1\], got values {expected}"):
            method()
    assert not any((tmp_path / "run").iterdir())


def test_a_loss_that_is_not_finite_ends_the_training_before_it_is_saved(tmp_path):
    trainer = rqvae_trainer(tmp_path / "run", adversarial_weight=0.0, save_strategy="steps", save_steps=2)
    with torch.no_grad():
        trainer.model.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="The loss must be finite, got nan by step 1"):
        trainer.train()
    assert not any((tmp_path / "run").iterdir())


def test_bf16_falls_back_to_fp32_where_it_is_not_to_be_had(tmp_path, caplog, monkeypatch):
    if is_torch_bf16_gpu_available():
        pytest.skip("a device with bf16")
    capabilities = {"cpu_name": "a processor", "avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert RQVAETrainingArguments(str(tmp_path), bf16=True).bf16 and not caplog.messages
    capabilities["avx512_bf16"] = False
    arguments = RQVAETrainingArguments(str(tmp_path), bf16=True)
    assert not arguments.bf16 and arguments.mixed_precision == "no"
    assert [text for text in caplog.messages if "bf16" in text] == [
        "The training runs in fp32, as no `bf16` was found on this cpu."
    ]
    assert RQVAETrainingArguments(str(tmp_path), bf16=True, use_cpu=True).bf16  # asked for
