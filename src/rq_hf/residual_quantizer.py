# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Residual quantization (section 3.1).

Symbols: B pictures, H x W positions, D code depth, K codebook size, n_z codebook width, N = B*H*W vectors.
z latents, r_d residual before depth d+1, e(k) code vector, z-hat^(d) partial sum of the first d code vectors.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# Elements of the largest block of distances, or of Q_tau, held at once where codes are searched or drawn: 8 MiB, which
# a processor's cache holds.
DISTANCE_BLOCK_ELEMENTS = 2**21
# The same of code vectors, when they are squared, summed or replaced: 1 MiB.
COPY_BLOCK_ELEMENTS = 2**18
# Distances and logits divided by it stay finite in fp32; the likeliest code is drawn long before.
MIN_TEMPERATURE = 1e-30
# A CPU looks for the smallest distance in groups of so many.
ARGMIN_COLUMNS = 128
# `per_step` restarts a code whose moving average falls under this part of the codebook's mean.
RELATIVE_RESTART_THRESHOLD = 0.1


def one_per_depth(name: str, value: Any, code_depth: int, valid: Callable[[float], bool], expected: str) -> list:
    """`value`, a number or one per depth (also in an array or tensor) or `None`, as a checked list of `code_depth`
    entries."""
    value = value.tolist() if hasattr(value, "tolist") else value
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * code_depth
    if len(values) != code_depth:
        raise ValueError(f"`{name}` must be a number or a list of one per depth ({code_depth}), got {value!r}.")
    for entry in values:
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, Real) or not valid(entry)):
            raise ValueError(f"`{name}` must be {expected}, got {value!r}.")
    return values


def row_blocks(num_rows: int, row_elements: int, max_elements: int) -> list[slice]:
    """Slices over `num_rows` rows such that a block has at most `max_elements` elements, but at least a row."""
    rows = max(1, max_elements // row_elements)
    return [slice(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows)]


def nearest_codes(residuals: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Q(r; C), the nearest code of each residual and of equally near ones the first (Eq. 3), block by block.

    Distances are rounded as in the official code: equal codes, which its update rule leaves in the codebook, then fall
    to the same index.

    Args:
        residuals: `(N, n_z)`, fp32.
        codebook: `(K, n_z)`, fp32.

    Returns:
        `(N,)` long.
    """
    residual_norms = residuals.pow(2).sum(-1, keepdim=True)
    book_blocks = row_blocks(len(codebook), codebook.shape[1], COPY_BLOCK_ELEMENTS)
    code_norms = torch.cat([codebook[block].t().pow(2).sum(0, keepdim=True) for block in book_blocks], dim=1)
    blocks = row_blocks(len(residuals), len(codebook), DISTANCE_BLOCK_ELEMENTS)
    codes = torch.empty(len(residuals), dtype=torch.long, device=residuals.device)
    buffer = residuals.new_empty(blocks[0].stop if blocks else 0, len(codebook))
    for block in blocks:
        distances = torch.add(residual_norms[block], code_norms, out=buffer[: block.stop - block.start])
        distances.addmm_(residuals[block], codebook.t(), alpha=-2)  # ||r - e(k)||^2
        codes[block] = first_argmin(distances)
    return codes


def first_argmin(values: torch.Tensor) -> torch.Tensor:
    """Place of the smallest of each row, of equal ones the first: `(N, K)` to `(N,)` long."""
    rows, size = values.shape
    if values.device.type != "cpu" or size % ARGMIN_COLUMNS:
        return values.argmin(-1)
    # A CPU finds smallest values, which it does many at a time, much faster than their places.
    groups = values.view(rows, size // ARGMIN_COLUMNS, ARGMIN_COLUMNS)
    group = groups.amin(-1).argmin(-1)  # (N,), the first one that has the smallest
    within = groups[torch.arange(rows, device=values.device), group].argmin(-1)
    return group * ARGMIN_COLUMNS + within


def without_autocast(device_type: str) -> AbstractContextManager:
    """What turns autocast off on a kind of device, where it has one: the meta device has none."""
    # Compilers of older versions of torch cannot ask for what is available.
    if torch.compiler.is_compiling() or torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def soft_code_probabilities(residuals: torch.Tensor, codebook: torch.Tensor, temperature: float) -> torch.Tensor:
    r"""Q_tau(k | r) of Eq. 15: softmax over k of -||r - e(k)||^2 / tau.

    Args:
        residuals (`torch.Tensor` of shape `(..., n_z)`): residual vectors.
        codebook (`torch.Tensor` of shape `(K, n_z)`): code vectors.
        temperature (`float`): tau > 0; towards 0 the nearest code gets all the mass.

    Returns:
        `torch.Tensor` of shape `(..., K)`, fp32, whatever the inputs' dtype and autocast.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
    with without_autocast(residuals.device.type):
        flat, book = residuals.float().reshape(-1, residuals.shape[-1]), codebook.float()
        temperature = max(temperature, MIN_TEMPERATURE)
        # ||r||^2 is the same for all k. Divided within the product: the compiler's softmax of a quotient is slow.
        logits = torch.addmm(book.square().sum(-1), flat, book.t(), beta=-1 / temperature, alpha=2 / temperature)
        probabilities = torch.softmax(logits, dim=-1)
    return probabilities.reshape(*residuals.shape[:-1], -1)


def inverse_cdf_sample(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The code at which the cumulative distribution passes `uniforms`.

    Args:
        probabilities: `(N, K)`, not negative; rows need not sum to 1.
        uniforms: `(N,)` in [0, 1).

    Returns:
        `(N,)` long. A code of probability 0 is never returned.
    """
    # A GPU sums a single row in an order of its own, in which a probability of 0 can add a last bit in fp32.
    precise = torch.float64 if probabilities.is_cuda else probabilities.dtype
    cumulative = probabilities.cumsum(-1, dtype=precise)
    thresholds = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds, right=True)[:, 0].clamp_(max=probabilities.shape[-1] - 1)


class Codebook(nn.Module):
    """Code vectors, one set for all depths or one for each, behind a `forward` so that offloading hooks see it.

    Buffers:
        weight: `(1, K, n_z)` shared, `(D, K, n_z)` separate.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, codebook_dim: int, dtype: torch.dtype | None = None):
        super().__init__()
        self.register_buffer("weight", torch.randn(num_codebooks, codebook_size, codebook_dim, dtype=dtype))

    def at_depth(self, depth: int) -> torch.Tensor:
        """`(K, n_z)` code vectors searched at `depth`."""
        return self(None, depth)

    def forward(self, codes: torch.Tensor | None, first_depth: int = 0) -> torch.Tensor:
        """Code vectors e(k) of codes at depths `first_depth`, `first_depth + 1`, ...

        Args:
            codes: `(..., d)` long, or `None`: all codes of `first_depth`.
            first_depth: depth of `codes[..., 0]`.

        Returns:
            `(..., d, n_z)`, or `(K, n_z)` of all codes.
        """
        if codes is None:
            return self.weight[first_depth if len(self.weight) > 1 else 0]
        num_codebooks, codebook_size, _ = self.weight.shape
        if num_codebooks == 1:
            return F.embedding(codes, self.weight[0])
        depths = torch.arange(first_depth, first_depth + codes.shape[-1], device=codes.device)
        codes = codes.long()
        # Negative ones would count from behind.
        return self.weight[depths, codes.where(codes >= 0, codebook_size)]


class ResidualQuantizer(nn.Module):
    r"""Quantizes latent vectors into D codes each, coarse to fine (Eq. 3-5); moving averages train the codebook.

    Everything here runs in fp32 with autocast off, and the buffers stay fp32 when the model is cast. TF32 is as
    PyTorch has it: off, unless it is turned on, when distances are rounded and codes may differ.

    Args:
        codebook_size (`int`): K.
        codebook_dim (`int`): n_z.
        code_depth (`int`): D.
        shared_codebook (`bool`, defaults to `True`): one codebook for all depths.
        decay (`float`, defaults to 0.99): decay of the moving averages.
        epsilon (`float`, defaults to 1e-5): Laplace smoothing of the cluster sizes.
        restart_unused_codes (`bool`, defaults to `True`): replace codes that are hardly used.

    Buffers:
        codebook.weight: `(C, K, n_z)` code vectors, C = 1 shared or D separate.
        cluster_size: `(C, K)` moving average of the number of vectors of each code.
        embedding_sum: `(C, K, n_z)` moving average of the sum of those vectors; codebook = sum / smoothed size.
        num_updates: `(C,)` updates so far; after few of them the averages of the `per_step` rule have a short memory.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf import ResidualQuantizer
    >>> quantizer = ResidualQuantizer(codebook_size=64, codebook_dim=8, code_depth=4)
    >>> codes, residuals = quantizer.quantize(torch.randn(2, 4, 4, 8))
    >>> codes.shape, quantizer.embed(codes[..., :2]).shape
    (torch.Size([2, 4, 4, 4]), torch.Size([2, 4, 4, 8]))
    ```
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        code_depth: int,
        shared_codebook: bool = True,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        restart_unused_codes: bool = True,
    ):
        super().__init__()
        self.code_depth = code_depth
        self.decay = decay
        self.epsilon = epsilon
        self.restart_unused_codes = restart_unused_codes
        num_codebooks = 1 if shared_codebook else code_depth
        self.codebook = Codebook(num_codebooks, codebook_size, codebook_dim, dtype=torch.float32)
        self.register_buffer("cluster_size", torch.zeros(num_codebooks, codebook_size, dtype=torch.float32))
        self.register_buffer("embedding_sum", self.codebook.weight.clone())
        self.register_buffer("num_updates", torch.zeros(num_codebooks, dtype=torch.float32))

    def _apply(self, fn, recurse=True):
        def keep_dtype(tensor):
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    @torch.no_grad()
    def quantize(
        self,
        latents: torch.Tensor,
        temperature: float | Sequence[float] | None = None,
        stochastic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Codes of latents by Eq. 3, or sampled by Eq. 15; the codebook is left alone.

        Args:
            latents (`torch.Tensor` of shape `(B, H, W, n_z)`): encoder output z.
            temperature (`float` or `list[float]`, *optional*):
                tau of Eq. 15, one number or one per depth, used if `stochastic`. `None` or 0: hard codes.
            stochastic (`bool`, defaults to `False`): draw each code from Q_tau(. | r) instead of taking the nearest.
            generator (`torch.Generator`, *optional*): for the draws, on any device.

        Returns:
            codes `(B, H, W, D)` long and residuals r_0..r_{D-1} `(B, H, W, D, n_z)` fp32.

        Raises:
            `ValueError`: latents of another width, or none; a negative temperature, or not one per depth.
        """
        width = self.codebook.weight.shape[-1]
        if latents.ndim < 1 or latents.shape[-1] != width or 0 in latents.shape:
            raise ValueError(f"`latents` must have shape (batch_size, ..., {width}), got {tuple(latents.shape)}.")
        temperatures = one_per_depth("temperature", temperature, self.code_depth, lambda v: v >= 0, "at least 0")
        shape = latents.shape[:-1]
        codes, residuals = [], []
        with without_autocast(latents.device.type):
            residual = latents.float().reshape(-1, latents.shape[-1])  # r_0 = z
            for depth, depth_temperature in enumerate(temperatures):
                residuals.append(residual)
                if stochastic and depth_temperature:
                    device = generator.device if generator is not None else latents.device
                    uniforms = torch.rand(len(residual), generator=generator, device=device, dtype=torch.float32)
                    uniforms = uniforms.to(latents.device)
                    code = self._sample(residual, depth, depth_temperature, uniforms)
                else:
                    code = nearest_codes(residual, self.codebook.at_depth(depth))
                codes.append(code)
                residual = residual - F.embedding(code, self.codebook.at_depth(depth))  # r_d = r_{d-1} - e(k_d)
        codes = torch.stack(codes, dim=-1).view(*shape, self.code_depth)  # (B, H, W, D)
        residuals = torch.stack(residuals, dim=-2).view(*shape, self.code_depth, -1)  # (B, H, W, D, n_z)
        return codes, residuals

    def forward(
        self, latents: torch.Tensor, codebook_update: Literal["per_depth", "per_step"] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        r"""Quantizes for training: straight-through estimator and commitment loss, and a codebook update if asked for.

        Args:
            latents (`torch.Tensor` of shape `(B, H, W, n_z)`): encoder output z.
            codebook_update (*optional*): `None` leaves the codebook alone. `"per_depth"` is the official rule: after
                each depth the averages, restarts and codebook are brought up to date, so the next depth searches the
                new codebook, and a code restarts when its average falls under 1. `"per_step"` makes one update after
                all depths, and a code restarts when its average falls under 0.1 of the codebook's mean.

        Returns:
            quantized z-hat `(B, H, W, n_z)` whose gradient passes to the latents, codes `(B, H, W, D)`, and the
            commitment loss (Eq. 7, mean over depths), a scalar.
        """
        if codebook_update not in (None, "per_depth", "per_step"):
            raise ValueError(f"`codebook_update` must be None, 'per_depth' or 'per_step', got {codebook_update!r}.")
        with without_autocast(latents.device.type):
            latents = latents.float()
            flat = latents.reshape(-1, latents.shape[-1])  # (N, n_z)
            residual = flat.detach()  # r_0 = z
            partial_sum, residual_sum = torch.zeros_like(residual), torch.zeros_like(residual)
            residuals = residual.new_empty(self.code_depth if codebook_update == "per_step" else 0, *residual.shape)
            codes, commitment_loss = [], 0.0
            for depth in range(self.code_depth):
                code = nearest_codes(residual, self.codebook.at_depth(depth))
                vectors = F.embedding(code, self.codebook.at_depth(depth))  # e(k_d), before any update
                if codebook_update == "per_depth":
                    self._update_per_depth(depth if len(self.cluster_size) > 1 else 0, residual, code)
                elif codebook_update == "per_step":
                    residuals[depth] = residual
                codes.append(code)
                residual = residual - vectors  # r_d = r_{d-1} - e(k_d) = z - z-hat^(d)
                partial_sum += vectors  # z-hat^(d), Eq. 4
                residual_sum += residual
                commitment_loss = commitment_loss + residual.square().mean()  # ||z - sg[z-hat^(d)]||^2, Eq. 7
            if codebook_update == "per_step":
                self._update_per_step(residuals, torch.stack(codes))
            # The gradient of all D terms of Eq. 7 at once, so that no partial sum is kept for the way back.
            gradient = residual_sum.mul_(2 / residual_sum.numel())
            surrogate = (flat * gradient).sum()
            commitment_loss = (commitment_loss + surrogate - surrogate.detach()) / self.code_depth
            quantized = flat + (partial_sum - flat).detach()
        codes = torch.stack(codes, dim=-1).view(*latents.shape[:-1], self.code_depth)  # (B, H, W, D)
        return quantized.view_as(latents), codes, commitment_loss

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """z-hat^(d), the sum of the code vectors (Eq. 4): `(B, H, W, d)` long, d <= D, to `(B, H, W, n_z)`."""
        return self.codebook(codes).sum(-2)

    def _sample(self, residual: torch.Tensor, depth: int, temperature: float, uniforms: torch.Tensor) -> torch.Tensor:
        """A code drawn from Q_tau(. | r) for each residual (Eq. 15), block by block: `(N,)`."""
        codebook = self.codebook.at_depth(depth)
        blocks = row_blocks(len(residual), len(codebook), DISTANCE_BLOCK_ELEMENTS)
        return torch.cat(
            [
                inverse_cdf_sample(soft_code_probabilities(residual[block], codebook, temperature), uniforms[block])
                for block in blocks
            ]
        )

    # The codebook update: moving averages of counts and sums, restarts, then codebook = sum / smoothed count.

    @torch.no_grad()
    def _update_per_depth(self, index: int, vectors: torch.Tensor, codes: torch.Tensor):
        """The official rule for codebook `index`, `vectors` `(N, n_z)` and their `codes` `(N,)`."""
        self._update_averages(index, vectors, codes, self.decay)
        self.num_updates[index] += 1
        if self.restart_unused_codes:
            one = torch.ones_like(self.cluster_size[index, 0])
            self._restart(index, self.cluster_size[index] < one, one, vectors[None], noise_first=True)
        self._update_codebook(index)

    @torch.no_grad()
    def _update_per_step(self, residuals: torch.Tensor, codes: torch.Tensor):
        """One update after all depths, with averages that forget fast at first and restarts relative to mean usage.

        Args:
            residuals: `(D, N, n_z)`.
            codes: `(D, N)`.
        """
        if len(self.cluster_size) == 1:
            groups = [(residuals, codes)]
        else:
            groups = list(zip(residuals.split(1), codes.split(1), strict=True))
        for index, (vectors, code) in enumerate(groups):
            updates = self.num_updates[index]
            decay = ((1 + updates) / (10 + updates)).clamp(max=self.decay)
            self._update_averages(index, vectors.flatten(0, 1), code.flatten(), decay)
            updates += 1
            if self.restart_unused_codes:
                mean_size = self.cluster_size[index].mean()
                unused = self.cluster_size[index] < RELATIVE_RESTART_THRESHOLD * mean_size
                self._restart(index, unused, mean_size, vectors)
            self._update_codebook(index)

    def _update_averages(self, index: int, vectors: torch.Tensor, codes: torch.Tensor, decay: float | torch.Tensor):
        ones = torch.ones(len(vectors), 1, device=vectors.device)
        pairs = [(self.cluster_size[index, :, None], ones)]
        for columns in row_blocks(vectors.shape[1], len(self.cluster_size[index]), COPY_BLOCK_ELEMENTS):
            pairs.append((self.embedding_sum[index, :, columns], vectors[:, columns]))
        for average, values in pairs:  # the counts, then the sums of some coordinates at a time
            total = torch.zeros_like(average).index_add_(0, codes, values)
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(total)
            if isinstance(decay, torch.Tensor):
                average.lerp_(total, 1 - decay)
            else:  # a code of one hit a step stays exactly at the official rule's threshold only if rounded as there
                average.mul_(decay).add_(total, alpha=1 - decay)

    def _restart(
        self, index: int, unused: torch.Tensor, size: torch.Tensor, vectors: torch.Tensor, noise_first: bool = False
    ):
        """Puts random ones of `vectors` in the place of `unused` codes, as if each had `size` hits.

        The vectors are those of all processes, drawn by the first one; what one process would draw from all is drawn.

        Args:
            vectors: `(parts, N, n_z)`, of one shape on every process.
            noise_first: draw all noise before the vectors, as the official code does; it is held whole then.
        """
        cluster_size, embedding_sum = self.cluster_size[index], self.embedding_sum[index]
        distributed = dist.is_available() and dist.is_initialized()
        processes, rank = (dist.get_world_size(), dist.get_rank()) if distributed else (1, 0)
        rows, dimension = vectors.shape[1:]
        total = processes * vectors.shape[0] * rows
        repeats = max(1, -(-len(cluster_size) // total))

        def from_first_process(drawn: torch.Tensor) -> torch.Tensor:
            if distributed:
                dist.broadcast(drawn, 0)
            return drawn

        def draw_noise(rows: int) -> torch.Tensor:
            noise = torch.rand(rows, dimension, device=vectors.device)
            noise *= 0.01 / dimension**0.5
            return from_first_process(noise)

        is_noisy = repeats > 1  # vectors that are taken again differ by a little noise
        noise = draw_noise(repeats * total) if is_noisy and noise_first else None
        drawn = torch.randperm(repeats * total, device=vectors.device)[: len(cluster_size)]
        drawn = from_first_process(drawn.contiguous())
        # All vectors in the order of one process: part by part, and within a part process by process.
        part, within = drawn % total // (processes * rows), drawn % (processes * rows)
        flat_index = part * rows + within % rows
        for block in row_blocks(len(cluster_size), dimension, COPY_BLOCK_ELEMENTS):
            candidates = vectors.reshape(-1, dimension).index_select(0, flat_index[block])
            if distributed:
                candidates.masked_fill_((within[block] // rows != rank)[:, None], 0.0)
                dist.all_reduce(candidates)
            if is_noisy:
                extra = noise.index_select(0, drawn[block]) if noise is not None else draw_noise(len(candidates))
                candidates += extra
            candidates *= size
            torch.where(unused[block, None], candidates, embedding_sum[block], out=embedding_sum[block])
        torch.where(unused, size, cluster_size, out=cluster_size)

    def _update_codebook(self, index: int):
        cluster_size = self.cluster_size[index]
        total = cluster_size.sum()
        smoothed = total * (cluster_size + self.epsilon) / (total + len(cluster_size) * self.epsilon)
        torch.div(self.embedding_sum[index], smoothed[:, None], out=self.codebook.weight[index])
