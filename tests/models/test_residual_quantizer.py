# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Residual quantization: codes and losses, stochastic codes, both codebook updates, precision, memory, processes."""

import functools
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import one_hot

from rq_hf import ResidualQuantizer, soft_code_probabilities
from rq_hf.models.residual_quantizer import inverse_cdf_sample

SHARED_AND_SEPARATE = pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])


def make_latents(*shape: int, seed: int = 1) -> torch.Tensor:
    """Clustered vectors, so that codebooks have something to find: `(*shape, 6)`."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, 6, generator=torch.Generator().manual_seed(99)) * 2
    chosen = centres[torch.randint(12, shape, generator=generator)]
    return chosen + 0.4 * torch.randn(*shape, 6, generator=generator)


def make_quantizer(shared: bool = True, trained: bool = True, codebook_size: int = 16, **fields) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(codebook_size, 6, 3, shared_codebook=shared, **fields)
    if trained:
        for step in range(10):
            quantizer(make_latents(8, 4, 4, seed=step), "per_step")
    return quantizer


def books(quantizer: ResidualQuantizer) -> list[torch.Tensor]:
    """The codebook of each depth."""
    weight = quantizer.codebook.weight
    return [weight[depth if len(weight) > 1 else 0] for depth in range(quantizer.code_depth)]


def state(quantizer: ResidualQuantizer) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in quantizer.named_buffers()}


@SHARED_AND_SEPARATE
def test_every_code_is_the_nearest_to_what_the_coarser_ones_left_and_the_error_falls(shared):
    quantizer, latents = make_quantizer(shared), make_latents(16, 4, 3, seed=50)
    codes, residuals = quantizer.quantize(latents)
    assert codes.shape == (16, 4, 3, 3) and codes.dtype == torch.long and residuals.shape == (16, 4, 3, 3, 6)
    left = latents.double()
    for depth, book in enumerate(books(quantizer)):
        torch.testing.assert_close(residuals[..., depth, :].double(), left, rtol=0, atol=1e-5)
        distances = (left[..., None, :] - book.double()).square().sum(-1)
        assert torch.equal(codes[..., depth], distances.argmin(-1))
        before = left.square().mean()
        left = left - book.double()[codes[..., depth]]
        assert left.square().mean() < (0.5 if depth == 0 else 0.9) * before
        partial_sum = quantizer.embed(codes[..., : depth + 1])
        torch.testing.assert_close(partial_sum.double(), latents - left, rtol=0, atol=1e-5)


def test_of_equally_near_codes_the_first_is_taken():
    quantizer = make_quantizer(trained=False, codebook_size=8)
    quantizer.codebook.weight[0, 3:] = quantizer.codebook.weight[0, 2]
    codes, _ = quantizer.quantize(make_latents(8, 4, 4))
    assert (codes == 2).any() and codes.max() == 2


@SHARED_AND_SEPARATE
def test_training_and_evaluation_give_equal_codes_and_pictures_of_codes(shared):
    quantizer, latents = make_quantizer(shared), make_latents(4, 4, 4)
    codes, _ = quantizer.quantize(latents)
    before, embedded = state(quantizer), quantizer.embed(codes)
    for rule in (None, "per_step"):
        quantized, training_codes, _ = quantizer(latents, rule)
        assert torch.equal(training_codes, codes)
        torch.testing.assert_close(quantized, embedded, rtol=0, atol=1e-5)
        if rule is None:
            torch.testing.assert_close(state(quantizer), before, rtol=0, atol=0)
    for depth in (1, 2):
        coarse, all_codes, _ = quantizer(latents, None, depth)
        torch.testing.assert_close(coarse, quantizer.embed(all_codes[..., :depth]), rtol=0, atol=1e-5)
        assert all_codes.shape == codes.shape


def test_the_gradient_of_the_quantized_latents_passes_straight_through():
    quantizer, latents = make_quantizer(), make_latents(2, 3, 3).requires_grad_()
    weights = torch.randn(latents.shape)
    for depth in (None, 1):
        latents.grad = None
        (quantizer(latents, depth=depth)[0] * weights).sum().backward()
        assert torch.equal(latents.grad, weights)


@SHARED_AND_SEPARATE
def test_commitment_is_the_mean_over_depths_and_moves_latents_only(shared):
    quantizer, latents = make_quantizer(shared), make_latents(2, 3, 3).requires_grad_()
    _, codes, commitment = quantizer(latents)
    loss, gradient, partial_sum = 0.0, 0.0, torch.zeros_like(latents)
    for depth, book in enumerate(books(quantizer)):
        partial_sum = partial_sum + book[codes[..., depth]]
        difference = (latents - partial_sum).detach()
        loss += difference.square().sum().item() / latents.numel() / 3
        gradient += 2 * difference / latents.numel() / 3
    assert commitment.item() == pytest.approx(loss, rel=1e-5)
    commitment.backward()
    torch.testing.assert_close(latents.grad, gradient)
    assert not any(buffer.requires_grad for buffer in quantizer.buffers()) and not list(quantizer.parameters())


def naive_update(latents, buffers, decay, epsilon, restart):
    """The rule "per_step" in plain loops. `buffers` are lists of one tensor per codebook, and change."""
    weights, sizes, sums, updates = (list(buffer.unbind()) for buffer in buffers)
    num_codes, width = weights[0].shape
    residual, all_codes, pools = latents.reshape(-1, width).clone(), [], [[] for _ in weights]
    for depth in range(3):
        index = depth if len(weights) > 1 else 0
        codes = [int((vector - weights[index]).square().sum(-1).argmin()) for vector in residual]
        pools[index] += list(zip(residual, codes, strict=True))
        residual = residual - weights[index][codes]
        all_codes.append(codes)
    for index, pool in enumerate(pools):
        rate = min(decay, (1 + updates[index].item()) / (10 + updates[index].item()))
        updates[index] += 1
        for k in range(num_codes):
            own = [vector for vector, code in pool if code == k]
            sizes[index][k] = rate * sizes[index][k] + (1 - rate) * len(own)
            sums[index][k] = rate * sums[index][k] + (1 - rate) * sum(own, torch.zeros(width))
        if restart:
            mean = sizes[index].sum().item() / num_codes
            drawn = torch.stack([vector for vector, _ in pool])
            if len(drawn) < num_codes:
                drawn = drawn.repeat((num_codes + len(drawn) - 1) // len(drawn), 1)
                drawn = drawn + torch.rand(drawn.shape) * 0.01 / width**0.5
            drawn = drawn[torch.randperm(len(drawn))][:num_codes]
            for k in range(num_codes):
                if sizes[index][k] < 0.1 * mean:
                    sizes[index][k] = mean
                    sums[index][k] = mean * drawn[k]
        total = sizes[index].sum()
        for k in range(num_codes):
            weights[index][k] = sums[index][k] / (total * (sizes[index][k] + epsilon) / (total + num_codes * epsilon))
    return torch.tensor(all_codes).T.reshape(*latents.shape[:-1], 3)


@SHARED_AND_SEPARATE
@pytest.mark.parametrize("codebook_size", [8, 100], ids=["fewer codes than vectors", "more codes than vectors"])
@pytest.mark.parametrize("restart", [True, False], ids=["restart", "no restart"])
def test_per_step_updates_equal_plain_loops(shared, codebook_size, restart):
    """Those of "per_depth" equal the official code in test_conversion.py."""
    decay = 0.9  # counts pass the threshold within a few steps
    quantizer = make_quantizer(shared, False, codebook_size, decay=decay, restart_unused_codes=restart)
    names = ("codebook.weight", "cluster_size", "embedding_sum", "num_updates")
    naive = [state(quantizer)[name] for name in names]
    for step in range(5):
        latents = make_latents(2, 4, 3, seed=step)
        torch.manual_seed(step)
        codes = quantizer(latents, "per_step")[1]
        torch.manual_seed(step)
        assert torch.equal(codes, naive_update(latents, naive, decay, 1e-5, restart)), f"step {step}"
        for name, expected in zip(names, naive, strict=True):
            torch.testing.assert_close(state(quantizer)[name], expected, rtol=2e-4, atol=1e-5)


def test_soft_probabilities_equal_the_formula_from_hard_ones_to_uniform_ones():
    residuals, codebook = torch.randn(50, 3, 4), torch.randn(11, 4)
    distances = (residuals.double()[:, :, None] - codebook.double()).square().sum(-1)
    for temperature in (0.1, 0.5, 2.0, 1e8):
        probabilities = soft_code_probabilities(residuals, codebook, temperature)
        assert probabilities.shape == (50, 3, 11)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(50, 3))
        expected = (-distances / temperature).softmax(-1)
        torch.testing.assert_close(probabilities.double(), expected, rtol=0, atol=1e-5)
    hard = soft_code_probabilities(residuals, codebook, 1e-6)
    torch.testing.assert_close(hard, one_hot(distances.argmin(-1), 11).float(), rtol=0, atol=1e-3)
    assert torch.equal(soft_code_probabilities(residuals, codebook, 1e-300), hard)
    for temperature in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`temperature` must be greater than 0"):
            soft_code_probabilities(residuals, codebook, temperature)


@SHARED_AND_SEPARATE
def test_stochastic_codes_are_as_frequent_as_their_probabilities(shared):
    quantizer, temperature, count = make_quantizer(shared, codebook_size=6), 3.0, 40000
    latent = make_latents(1, 1, 1)
    codes, residuals = quantizer.quantize(latent.expand(count, 1, 1, 6), temperature, stochastic=True)
    codes, residuals = codes.flatten(0, 2), residuals.flatten(0, 2)

    def assert_frequencies(drawn, residual, book):
        expected = soft_code_probabilities(residual, book, temperature)
        frequencies = one_hot(drawn, 6).float().mean(0)
        deviation = (expected * (1 - expected) / len(drawn)).sqrt()
        assert ((frequencies - expected).abs() < 4.5 * deviation + 1e-6).all(), (frequencies, expected)

    assert_frequencies(codes[:, 0], latent.flatten(), books(quantizer)[0])
    assert codes[:, 0].unique().numel() > 1
    first = codes[:, 0].mode().values  # the second code is drawn given what the drawn first one left
    mine = codes[:, 0] == first
    left = latent.flatten() - books(quantizer)[0][first]
    torch.testing.assert_close(residuals[mine][:, 1], left.expand(int(mine.sum()), 6))
    assert_frequencies(codes[mine][:, 1], left, books(quantizer)[1])


def test_each_depth_has_its_own_temperature_and_0_or_none_takes_the_nearest_code():
    quantizer, latents = make_quantizer(), make_latents(4, 8, 8)
    hard, _ = quantizer.quantize(latents)
    assert torch.equal(quantizer.quantize(latents, 1e4)[0], hard)  # `stochastic` is False
    for cold in (0, None, 1e-9):
        assert torch.equal(quantizer.quantize(latents, cold, stochastic=True)[0], hard)
        codes, _ = quantizer.quantize(latents, [cold, 1e4, cold], stochastic=True)
        assert torch.equal(codes[..., 0], hard[..., 0])
        assert (codes[..., 1] == hard[..., 1]).float().mean() < 0.5
    for temperature, expected in (([0.5], "a number or a list of one per depth"), ([0.5, -1.0, 1.0], "at least 0")):
        with pytest.raises(ValueError, match=f"`temperature` must be {expected}"):
            quantizer.quantize(latents, temperature, stochastic=True)
    for options, got in (({"decay": 2}, "2 and 1e-05"), ({"epsilon": -1}, "0.99 and -1")):
        with pytest.raises(ValueError, match=rf"`decay` must be in \[0, 1\) and `epsilon` .*, got {got}"):
            make_quantizer(trained=False, **options)


def test_inverse_cdf_sampling_never_takes_a_code_of_probability_0():
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0], [0, 0, 3, 0, 0], [1, 1, 1, 1, 0]])
    extremes = [0.0, 0.25, 0.5, 0.75, 1 - 2**-24]
    drawn = [inverse_cdf_sample(probabilities, torch.full((3,), uniform)).tolist() for uniform in extremes]
    assert drawn == [[1, 2, 0], [1, 2, 1], [3, 2, 2], [3, 2, 3], [3, 2, 3]]
    rows = torch.randn(2000, 300).mul(5).softmax(-1) * (torch.rand(2000, 300) < 0.5)
    for uniforms in (torch.rand(2000), torch.full((2000,), 1 - 2**-24), torch.zeros(2000)):
        assert (rows.gather(1, inverse_cdf_sample(rows, uniforms)[:, None]) > 0).all()


@SHARED_AND_SEPARATE
def test_codes_under_autocast_equal_those_in_fp32(shared):
    quantizer, latents = make_quantizer(shared, codebook_size=64), make_latents(32, 4, 4)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    hard, residuals = quantizer.quantize(latents)
    drawn, _ = quantizer.quantize(latents, 1.0, stochastic=True, generator=generators[0])
    soft = soft_code_probabilities(residuals, books(quantizer)[0], 0.5)
    other = make_quantizer(shared, codebook_size=64)
    other.load_state_dict(quantizer.state_dict())
    quantized, _, commitment = quantizer(latents, "per_step")
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        assert torch.equal(other.quantize(latents)[0], hard)
        assert torch.equal(other.quantize(latents, 1.0, True, generators[1])[0], drawn)
        assert torch.equal(soft_code_probabilities(residuals, books(other)[0], 0.5), soft)
        low_precision = other(latents, "per_step")
    assert torch.equal(low_precision[0], quantized) and torch.equal(low_precision[1], hard)
    assert low_precision[2] == commitment
    assert torch.equal(other.cluster_size.sum(), quantizer.cluster_size.sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casting_leaves_every_bit_of_the_buffers(dtype):
    quantizer, latents = make_quantizer(), make_latents(8, 4, 4)
    quantizer.cluster_size.mul_(1e4)  # beyond the largest half
    before, codes = state(quantizer), quantizer.quantize(latents)[0]
    torch.testing.assert_close(state(torch.nn.Sequential(quantizer).to(dtype).half()[0]), before, rtol=0, atol=0)
    assert torch.equal(quantizer.quantize(latents)[0], codes)
    assert quantizer.quantize(latents.bfloat16())[1].dtype == torch.float32
    assert quantizer.to("meta").codebook.weight.is_meta


def in_processes(*calls) -> None:
    """Runs each call in a fork of its own."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=call) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=600)
        assert process.exitcode == 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of the memory is read from /proc")
@pytest.mark.parametrize(
    "batch_size, width, limit", [(16, 16, 60), pytest.param(64, 256, 2048, marks=pytest.mark.slow)]
)
def test_131072_codes_stay_under_2_gib(batch_size, width, limit):
    """At once, the distances would need 512 MiB in the short case and 2 GiB in the long one."""

    def memory(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024  # MiB

    def measure() -> None:
        quantizer, peaks = ResidualQuantizer(131072, width, 1), {}
        latents = torch.randn(batch_size, 8, 8, width, requires_grad=True)
        for name, call in {
            "hard": lambda: quantizer.quantize(latents),
            "stochastic": lambda: quantizer.quantize(latents, 1.0, stochastic=True),
            "per_depth": lambda: quantizer(latents, "per_depth")[2].backward(),
            "per_step": lambda: quantizer(latents, "per_step")[2].backward(),
        }.items():
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before = memory("VmRSS")
            call()
            peaks[name] = memory("VmHWM") - before
        assert 8 < max(peaks.values()) < limit, peaks  # one block of distances is 8 MiB

    in_processes(measure)


def test_processes_sum_their_counts_and_share_one_codebook(tmp_path):
    kinds = [(name, rule, *sizes) for name, *sizes in (("sums", 8, False), ("restarts", 40, True), ("few", 200, True))
             for rule in ("per_step", "per_depth")]  # fmt: skip

    def train(rank: int) -> None:
        if rank < 2:  # the last works alone on the pictures of both others
            dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=2)
        for name, rule, codebook_size, restart in kinds:
            torch.manual_seed(0)
            quantizer = ResidualQuantizer(codebook_size, 6, 1, restart_unused_codes=restart)
            for pictures in torch.randn(4, 2, 4, 4, 6):  # of a step
                quantizer(pictures[rank : rank + 1] if rank < 2 else pictures, rule)
            torch.save(quantizer.state_dict(), tmp_path / f"{name}-{rule}-{rank}")
        if rank < 2:
            dist.barrier()
            dist.destroy_process_group()

    in_processes(*(functools.partial(train, rank) for rank in range(3)))
    for name, rule, *_ in kinds:
        first, second, alone = (torch.load(tmp_path / f"{name}-{rule}-{rank}") for rank in range(3))
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        if name == "sums":
            torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-6)
        else:  # restarted codes are vectors of the batch, no two the same
            assert first["codebook.weight"][0].unique(dim=0).shape == first["codebook.weight"][0].shape, (name, rule)
