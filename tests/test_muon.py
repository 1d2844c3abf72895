# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Muon for the weights inside a model, beside the optimizer of all others."""

import copy

import datasets
import pytest
import torch
from picture_files import FIXTURE
from two_processes_evaluation import Pictures

from rq_hf.training import PictureDataset, RQVAETrainer, RQVAETrainingArguments
from rq_hf.training.muon import JoinedOptimizer, MatrixMuon, block_matrices, inner_kernels, with_muon

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch older than 2.9 has no Muon")


def loss(model, codes):
    return model(torch.zeros(len(codes), 1, dtype=torch.long), codes, labels=codes).loss


@pytest.fixture
def codes(tiny_rqvae):
    torch.manual_seed(0)
    return torch.randint(tiny_rqvae.config.codebook_size, (2, *tiny_rqvae.config.code_shape))


def test_only_matrices_inside_blocks_are_muons(make_transformer, tiny_rqvae):
    model = make_transformer("class", tiny_rqvae)
    names = {id(weight): name for name, weight in model.named_parameters()}
    config = model.config
    matrices = block_matrices(model)
    assert len(matrices) == 4 * (config.num_spatial_layers + config.num_depth_layers)
    assert all(".blocks." in names[id(matrix)] and matrix.ndim == 2 for matrix in matrices)
    optimizer = with_muon(torch.optim.AdamW(model.parameters(), 1e-3), matrices, 2e-3, 0.0)
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(map(id, parameters)) == sorted(map(id, model.parameters()))
    assert [id(weight) for weight in optimizer.param_groups[-1]["params"]] == [id(matrix) for matrix in matrices]


def test_joined_steps_are_those_of_each_optimizer_alone(make_transformer, tiny_rqvae, codes):
    """With rates that a schedule changes, and with the state taken over in the middle by new ones."""
    joined = make_transformer("class", tiny_rqvae).eval()
    alone = copy.deepcopy(joined)
    adam = torch.optim.AdamW(joined.parameters(), 1e-2, weight_decay=0.1)
    start = with_muon(adam, block_matrices(joined), 3e-2, 0.2)
    matrices = block_matrices(alone)
    taken = {id(matrix) for matrix in matrices}
    rest = [weight for weight in alone.parameters() if id(weight) not in taken]
    separate = [
        torch.optim.AdamW(rest, 1e-2, weight_decay=0.1),
        torch.optim.Muon(matrices, 3e-2, 0.2, adjust_lr_fn="match_rms_adamw"),
    ]
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in (start, *separate)]
    optimizer = start
    for step in range(4):
        if step == 2:
            new = with_muon(torch.optim.AdamW(joined.parameters(), 1.0), block_matrices(joined), 1.0, 0.0)
            new.load_state_dict(copy.deepcopy(start.state_dict()))
            optimizer, schedules[0] = new, torch.optim.lr_scheduler.ExponentialLR(new, 0.5, last_epoch=1)
        for model, optimizers in ((joined, [optimizer]), (alone, separate)):
            loss(model, codes).backward()
            for each in optimizers:
                each.step()
                each.zero_grad()
        for schedule in schedules:
            schedule.step()
    for one, other in zip(joined.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_closure_is_evaluated_once():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = JoinedOptimizer(torch.optim.SGD([weight], 0.1))
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        value = weight.square().sum()
        value.backward()
        return value

    assert optimizer.step(closure).item() == 4 and calls == [1]
    assert weight.detach().allclose(torch.full((2, 2), 0.8))


def test_kernels_inside_are_muons_but_not_those_at_the_pixels(tiny_rqvae):
    names = {id(weight): name for name, weight in tiny_rqvae.named_parameters()}
    taken = {names[id(kernel)] for kernel in inner_kernels(tiny_rqvae)}
    all_kernels = {name for name, weight in tiny_rqvae.named_parameters() if weight.ndim == 4}
    assert all_kernels - taken == {"encoder.conv_in.weight", "decoder.conv_out.weight"} and taken < all_kernels
    tiny_rqvae.encoder.requires_grad_(False)
    assert {names[id(kernel)] for kernel in inner_kernels(tiny_rqvae)} == {
        name for name in taken if not name.startswith("encoder.")
    }


def test_a_kernel_is_trained_as_a_matrix_of_its_output_channels():
    """Over a state that is taken over, and with a weight that has no gradient."""
    torch.manual_seed(0)
    kernel, unused = torch.nn.Parameter(torch.randn(4, 3, 3, 3)), torch.nn.Parameter(torch.randn(2, 2, 1, 1))
    matrix = torch.nn.Parameter(kernel.detach().reshape(4, 27).clone())
    before = unused.detach().clone()
    optimizer = MatrixMuon([kernel, unused], 1e-2, 0.1)
    alone = torch.optim.Muon([matrix], 1e-2, 0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = MatrixMuon([kernel, unused], 1.0, 0.0)
            optimizer.load_state_dict(state)
        gradient = torch.randn(4, 3, 3, 3)
        kernel.grad, matrix.grad = gradient, gradient.reshape(4, 27).clone()
        optimizer.step()
        alone.step()
        assert torch.equal(kernel.reshape(4, 27), matrix) and torch.equal(kernel.grad, gradient)
    assert torch.equal(unused, before)
    optimizer.zero_grad()
    assert kernel.grad is None


def test_muon_changes_what_stays_where_it_was_put_later():
    """A model that is moved after its optimizer was made, as by `load_state_dict(assign=True)`, is still trained."""
    kernel = torch.nn.Parameter(torch.ones(2, 2, 1, 1))
    optimizer = MatrixMuon([kernel], 1e-1, 0.0)
    kernel.data = torch.full((2, 2, 1, 1), 5.0)
    kernel.grad = torch.eye(2).reshape(2, 2, 1, 1)
    optimizer.step()
    assert (kernel[0, 0] < 5).item() and (kernel[1, 1] < 5).item()


def test_kernels_of_a_model_in_channels_last_are_refused(tiny_rqvae):
    with pytest.raises(ValueError, match=r"`weights` must be contiguous, got strides \("):
        MatrixMuon(inner_kernels(tiny_rqvae.to(memory_format=torch.channels_last)), 1e-3, 0.0)
    MatrixMuon(inner_kernels(tiny_rqvae.to(memory_format=torch.contiguous_format)), 1e-3, 0.0)


def test_stage1_training_with_muon_resumes_exactly(tiny_rqvae, tmp_path):
    """The kernels inside move as AdamW would not move them, all others as with it alone."""
    rows = datasets.load_dataset(str(FIXTURE))["train"].select(range(12))
    pictures = PictureDataset(rows, tiny_rqvae.config.image_size)

    def trainer(name, **flags):
        arguments = RQVAETrainingArguments(
            output_dir=str(tmp_path / name), use_cpu=True, report_to="none", save_steps=2, bf16=True,
            per_device_train_batch_size=6, learning_rate=1e-3, logging_steps=1, perceptual_weight=0.0,
            adversarial_weight=0.5, disable_tqdm=True, **{"max_steps": 4, **flags},
        )  # fmt: skip
        return RQVAETrainer(model=copy.deepcopy(tiny_rqvae), args=arguments, train_dataset=pictures)

    runs = [trainer(name, muon_learning_rate=1e-2) for name in "ab"]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for (name, weight), other in zip(runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(weight, other), name
    firsts = [trainer(name, muon_learning_rate=rate, max_steps=1) for name, rate in (("c", 1e-2), ("d", None))]
    for each in firsts:
        each.train()
    by_muon = {id(kernel) for kernel in inner_kernels(firsts[0].model)}
    for (name, weight), by_adam in zip(firsts[0].model.named_parameters(), firsts[1].model.parameters(), strict=True):
        assert torch.equal(weight, by_adam) != (id(weight) in by_muon), name


@pytest.mark.parametrize(
    "schedule, options", [("polynomial", {"lr_end": 1e-4}), ("cosine_with_min_lr", {"min_lr": 1e-4})]
)
def test_schedules_with_a_lowest_rate_lower_muon_to_the_same_part_of_its_own(
    tiny_rqvae, pictures, tmp_path, schedule, options
):
    arguments = RQVAETrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", max_steps=3, disable_tqdm=True,
        learning_rate=1e-3, muon_learning_rate=2e-2, lr_scheduler_type=schedule, lr_scheduler_kwargs=options,
        perceptual_weight=0.0, adversarial_weight=0.0,
    )  # fmt: skip
    trainer = RQVAETrainer(model=tiny_rqvae, args=arguments, train_dataset=Pictures(pictures))
    trainer.train()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([1e-4] * (len(rates) - 1) + [2e-3])
    assert "betas" not in trainer.optimizer.param_groups[-1]  # Muon's group has its own settings alone


@pytest.mark.parametrize("script", ["train_classifier", "train_ranker"])
def test_scripts_whose_models_have_no_weights_for_muon_know_no_rate_of_it(load_script, script):
    """They would ignore it, or fail once all is loaded."""
    flags = ["--output_dir", "out", "--dataset_name", "data", "--muon_learning_rate", "1e-3"]
    with pytest.raises(ValueError, match="muon_learning_rate"):
        load_script(script).main(flags)
