# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stage 1 with a discriminator and a moving average of the weights."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from conftest import RQVAE_FIELDS
from safetensors.torch import load_file
from two_processes_evaluation import Pictures

from rq_hf import RQVAEConfig, RQVAEModel
from rq_hf.training import RQTrainer, RQVAETrainer, RQVAETrainingArguments
from rq_hf.training.discriminator import PatchDiscriminator, generator_loss, hinge_loss


@pytest.fixture
def make_trainer(make_rqvae, pictures, tmp_path):
    def make(folder="run", **training) -> RQVAETrainer:
        torch.manual_seed(0)
        arguments = RQVAETrainingArguments(**{
            "output_dir": str(tmp_path / folder), "use_cpu": True, "report_to": "none", "max_steps": 6, "seed": 3,
            "per_device_train_batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.0, "logging_steps": 1,
            "save_steps": 3, "disable_tqdm": True, "perceptual_weight": 0.0, **training,
        })  # fmt: skip
        data = Pictures(pictures)
        return RQVAETrainer(model=make_rqvae(), args=arguments, train_dataset=data, eval_dataset=data)

    return make


def logged(trainer: RQVAETrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_discriminator_is_the_published_one():
    discriminator = PatchDiscriminator()
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 663_361
    assert discriminator(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 62, 62)


def test_hinge_loss_is_zero_beyond_the_margin_only():
    assert hinge_loss(torch.full((2, 1), 1.5), torch.full((2, 1), -1.0)) == 0
    assert hinge_loss(torch.zeros(2, 1), torch.full((2, 1), 0.5)) == pytest.approx(0.5 * (1 + 1.5))
    assert generator_loss(torch.tensor([1.0, 2.0])) == -1.5


def test_one_pass_through_the_decoder_gives_loss_weight_and_gradients_of_two(make_trainer, pictures):
    trainer = make_trainer(l1_weight=0.3)
    model, discriminator = trainer.model.train(), trainer.discriminator
    loss = trainer.compute_loss(model, {"pixel_values": pictures})
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    weight = trainer._recorded["adaptive_weight"][0]
    model.zero_grad()

    restored = make_trainer("again").model.train()  # the codebook was updated on the way
    outputs = restored(pictures, codebook_update="per_step")
    error = outputs.reconstruction_loss + 0.3 * F.l1_loss(outputs.reconstruction, pictures)
    adversarial = generator_loss(discriminator(outputs.reconstruction))
    last = restored.decoder.conv_out.weight
    norms = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (error, adversarial)]
    expected_weight = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4)
    commitment_loss = restored.config.commitment_weight * outputs.commitment_loss
    expected = error + commitment_loss + 0.75 * expected_weight * adversarial
    expected.backward()

    assert weight == pytest.approx(expected_weight.item(), rel=1e-4)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in restored.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_discriminator_learns_only_from_its_own_loss(make_trainer, pictures):
    trainer = make_trainer()
    trainer.compute_loss(trainer.model.train(), {"pixel_values": pictures}).backward()
    assert all(parameter.grad is None for parameter in trainer.discriminator.parameters())
    before = {name: value.clone() for name, value in trainer.discriminator.named_parameters()}
    trainer.train()
    after = dict(trainer.accelerator.unwrap_model(trainer.discriminator).named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert {"adversarial_loss", "adaptive_weight", "discriminator_loss", "real_logits", "fake_logits"} <= set(
        trainer.state.log_history[0]
    )


def test_discriminator_begins_at_its_step(make_trainer):
    trainer = make_trainer(discriminator_start_step=4)
    start = {name: value.clone() for name, value in trainer.discriminator.state_dict().items()}
    trainer.train()
    assert len(logged(trainer, "adversarial_loss")) == 2 and len(logged(trainer, "loss")) == 6
    saved = load_file(f"{trainer.args.output_dir}/checkpoint-3/discriminator.safetensors")
    assert all(torch.equal(saved[name], start[name]) for name in saved)
    plain = make_trainer("plain", adversarial_weight=0.0)
    plain.train()
    assert logged(plain, "loss")[:4] == pytest.approx(logged(trainer, "loss")[:4], rel=1e-2)
    assert plain.discriminator is None and not logged(plain, "adversarial_loss")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_training_equals_the_uninterrupted_one(make_trainer, accumulation):
    options = {"ema_decay": 0.9, "gradient_accumulation_steps": accumulation, "warmup_steps": 2}
    options |= {"per_device_train_batch_size": 4 // accumulation}
    whole = make_trainer("whole", **options)
    whole.train()
    resumed = make_trainer("resumed", **options)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-3")
    for name in ("loss", "discriminator_loss", "adaptive_weight"):
        assert logged(resumed, name)[-3:] == pytest.approx(logged(whole, name)[-3:], rel=1e-5)
    ends = []
    for trainer in (whole, resumed):
        discriminator = trainer.accelerator.unwrap_model(trainer.discriminator)
        moments = [state["exp_avg"] for state in trainer.discriminator_optimizer.state.values()]
        ends.append([*trainer.model.state_dict().values(), *discriminator.state_dict().values(), *moments])
        ends[-1] += trainer.average.shadow_params
        assert trainer.discriminator_scheduler.last_epoch == 6
    for first, second in zip(*ends, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_goes_on_compiled_and_not(make_trainer, compiled):
    compiling = {"torch_compile": True, "torch_compile_backend": "eager"}
    first = make_trainer("first", **(compiling if compiled else {}))
    first.train()
    checkpoint = f"{first.args.output_dir}/checkpoint-3"
    assert load_file(f"{checkpoint}/discriminator.safetensors").keys() == PatchDiscriminator().state_dict().keys()
    second = make_trainer("second", **({} if compiled else compiling))
    second.train(resume_from_checkpoint=checkpoint)
    for name in ("loss", "discriminator_loss"):
        assert len(logged(first, name)) == 6 and logged(second, name) == pytest.approx(logged(first, name), rel=1e-4)


@pytest.mark.parametrize("changes", [{"fp16": True}, {"lr_scheduler_type": "reduce_lr_on_plateau"}])
def test_what_does_not_go_with_a_discriminator_is_refused(make_trainer, changes):
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` must be"):
        make_trainer(eval_strategy="steps", eval_steps=3, **changes)


def test_fp16_that_only_the_launcher_knows_is_refused_with_a_discriminator(make_trainer, monkeypatch):
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")  # which itself needs a GPU
    with pytest.raises(ValueError, match="`mixed_precision` must not be fp16 with a discriminator, got fp16"):
        make_trainer()
    assert make_trainer(adversarial_weight=0.0).discriminator is None


@pytest.mark.parametrize("name", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_a_discriminator_is_refused_where_one_model_alone_is_trained(make_trainer, monkeypatch, name):
    def enable(trainer):
        create(trainer)
        setattr(trainer, name, True)  # either needs several processes

    create = RQTrainer.create_accelerator_and_postprocess
    monkeypatch.setattr(RQTrainer, "create_accelerator_and_postprocess", enable)
    with pytest.raises(ValueError, match="`adversarial_weight` must be 0 with FSDP and DeepSpeed, got 0.75"):
        make_trainer()
    assert make_trainer(adversarial_weight=0.0).discriminator is None


@pytest.mark.parametrize("rule", ["per_step", "per_depth"])
def test_the_codebook_is_updated_with_each_accumulated_batch_as_a_warning_says(make_trainer, caplog, rule):
    options = {"adversarial_weight": 0.0, "codebook_update": rule, "max_steps": 2, "save_strategy": "no"}
    for batches in (1, 4):
        caplog.clear()
        trainer = make_trainer(per_device_train_batch_size=1, gradient_accumulation_steps=batches, **options)
        before = trainer.model.quantizer.num_updates.clone()
        trainer.train()
        updates = (trainer.model.quantizer.num_updates - before).tolist()
        assert updates == [2 * batches * (trainer.model.config.code_depth if rule == "per_depth" else 1)]
        assert (f"The codebook is updated {batches} times a step" in caplog.text) == (batches > 1)
    make_trainer(gradient_accumulation_steps=4, train_decoder_only=True, model_name_or_path="model", **options)
    assert caplog.text.count("The codebook is updated") == 1  # not where it stays as it is


def test_grey_pictures_have_a_perceptual_loss(tmp_path):
    arguments = RQVAETrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1, logging_steps=1, save_strategy="no",
        perceptual_backbone="efficientnet_lite0", disable_tqdm=True,
    )  # fmt: skip
    data = Pictures(torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    model = RQVAEModel(RQVAEConfig(**RQVAE_FIELDS | {"num_channels": 1, "image_size": 32}))
    trainer = RQVAETrainer(model=model, args=arguments, train_dataset=data)
    trainer.train()
    assert logged(trainer, "perceptual_loss")[0] > 0 and logged(trainer, "adversarial_loss")


def test_pictures_too_small_for_the_discriminator_are_refused():
    discriminator = PatchDiscriminator()
    assert discriminator(torch.zeros(2, 3, 12, 12)).shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match="at least 12 pixels"):
        discriminator(torch.zeros(2, 3, 16, 11))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_training_is_the_same_training(make_trainer):
    histories = []
    for compiled in (False, True):
        trainer = make_trainer(f"compiled-{compiled}", torch_compile=compiled, save_strategy="no")
        trainer.train()
        histories.append([logged(trainer, name) for name in ("loss", "adaptive_weight", "discriminator_loss")])
    for eager, compiled in zip(*histories, strict=True):
        assert compiled == pytest.approx(eager, rel=2e-2) and compiled[0] == pytest.approx(eager[0], rel=1e-3)


def test_model_is_evaluated_and_saved_with_averaged_weights(make_trainer, tmp_path):
    trainer = make_trainer(ema_decay=0.5, adversarial_weight=0.0)
    seen = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    average = None
    step = trainer.average.step

    def follow(parameters):
        nonlocal average
        parameters = list(parameters)
        step(parameters)
        decay = 0.0 if average is None else min(0.5, (1 + len(steps)) / (10 + len(steps)))
        average = [
            new.detach().clone() if average is None else decay * old + (1 - decay) * new.detach()
            for old, new in zip(average or seen, parameters, strict=True)
        ]
        steps.append(None)

    steps: list[None] = []
    trainer.average.step = follow
    trainer.train()
    last = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.save_model(tmp_path / "saved")
    trainer.save_model(_internal_call=True)  # as a push to the Hub does
    saved = RQVAEModel.from_pretrained(tmp_path / "saved")
    pushed = RQVAEModel.from_pretrained(trainer.args.output_dir)
    for value, other, expected in zip(saved.parameters(), pushed.parameters(), average, strict=True):
        torch.testing.assert_close(value, expected)
        assert torch.equal(value, other)
    measured = trainer.evaluate()["eval_reconstruction_loss"]
    with torch.no_grad():
        pictures = trainer.eval_dataset.pictures
        assert measured == pytest.approx(saved.eval()(pictures).reconstruction_loss.item(), rel=1e-3)
        assert measured != pytest.approx(trainer.model.eval()(pictures).reconstruction_loss.item(), rel=1e-3)
    assert all(torch.equal(*pair) for pair in zip(trainer.model.parameters(), last, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [{"perceptual_weight": -1.0}, {"adversarial_weight": -0.1}, {"discriminator_start_step": -1}, {"ema_decay": 1.0}],
)
def test_bad_weights_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
        RQVAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)


@pytest.mark.parametrize("adversarial_weight", [0.0, 0.75])
def test_a_decoder_trained_alone_leaves_the_codes(make_trainer, pictures, adversarial_weight):
    options = {"train_decoder_only": True, "model_name_or_path": "model", "ema_decay": 0.9}
    trainer = make_trainer(adversarial_weight=adversarial_weight, **options)
    model = trainer.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    codes = model.encode(pictures)
    trainer.train()
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if name.startswith(("decoder", "post_quant_conv"))}
    assert torch.equal(model.eval().encode(pictures), codes)
    if adversarial_weight == 0:
        assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]


def test_a_decoder_alone_needs_a_model_whose_codes_stay(make_trainer):
    with pytest.raises(ValueError, match="`model_name_or_path` must be given with `train_decoder_only`, got None"):
        make_trainer(train_decoder_only=True)
    arguments = make_trainer(train_decoder_only=True, model_name_or_path="model").args
    with pytest.raises(ValueError, match="`model` must be given with `train_decoder_only`, got None"):
        RQVAETrainer(args=arguments, model_init=RQVAEModel)
