# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Residual quantization (section 3.1).

Symbols: B pictures, H x W positions, D code depth, K codebook size, n_z codebook width, N = B*H*W vectors.
z latents, r_d residual after d codes (r_0 = z), e(k) code vector, z-hat^(d) sum of the first d code vectors.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# Distances, or probabilities Q_tau, are computed in blocks of at most this many elements (8 MiB in fp32).
BLOCK_ELEMENTS = 2**21
# Dividing by a smaller temperature overflows fp32; at this value the nearest code has probability 1.
MIN_TEMPERATURE = 1e-30
# "per_step" restarts a code whose average count falls below this fraction of the codebook's mean count.
RESTART_FRACTION = 0.1


def one_per_depth(
    name: str, value: Any, code_depth: int, is_valid: Callable[[float], bool], expected: str
) -> list[float | None]:
    """A list of `code_depth` numbers or `None`s from one of them, or from one per depth (a list, array or tensor)."""
    value = value.tolist() if hasattr(value, "tolist") else value
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * code_depth
    if len(values) != code_depth:
        raise ValueError(f"`{name}` must be a number or a list of one per depth ({code_depth}), got {value!r}.")
    for entry in values:
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, Real) or not is_valid(entry)):
            raise ValueError(f"`{name}` must be {expected}, got {value!r}.")
    return values


def row_blocks(num_rows: int, row_elements: int, max_elements: int = BLOCK_ELEMENTS) -> list[slice]:
    """Slices over `num_rows` rows, each of at most `max_elements` elements but at least one row."""
    rows = max(1, max_elements // row_elements)
    return [slice(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows)]


def without_autocast(device_type: str) -> AbstractContextManager:
    """Disables autocast on devices that have it; the meta device has none."""
    if torch.compiler.is_compiling() or torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def nearest_codes(residuals: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Q(r; C), the nearest of the code vectors `(K, n_z)` to each residual `(N, n_z)` (Eq. 1): indexes `(N,)`.

    Ties go to the smallest index. The order of operations is the official code's; another order rounds differently.
    """
    residual_norms = residuals.pow(2).sum(-1, keepdim=True)  # (N, 1)
    code_norms = codebook.t().pow(2).sum(0, keepdim=True)  # (1, K)
    codes = [
        (residual_norms[block] + code_norms).addmm_(residuals[block], codebook.t(), alpha=-2).argmin(-1)
        for block in row_blocks(len(residuals), len(codebook))
    ]  # ||r - e(k)||^2
    return torch.cat(codes)


def soft_code_probabilities(residuals: torch.Tensor, codebook: torch.Tensor, temperature: float) -> torch.Tensor:
    r"""Q_tau(k | r) of Eq. 15: softmax over k of -||r - e(k)||^2 / tau.

    Args:
        residuals (`torch.Tensor` of shape `(..., n_z)`): r.
        codebook (`torch.Tensor` of shape `(K, n_z)`): e(k).
        temperature (`float`): tau > 0. Towards 0 the nearest code gets all the mass.

    Returns:
        `torch.Tensor` of shape `(..., K)`, fp32 for inputs of any dtype.

    Raises:
        `ValueError`: a temperature that is not greater than 0.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
    scale = 1 / max(temperature, MIN_TEMPERATURE)
    with without_autocast(residuals.device.type):
        flat, codebook = residuals.float().reshape(-1, residuals.shape[-1]), codebook.float()
        # ||r||^2 is the same for all k and drops out of the softmax.
        logits = torch.addmm(codebook.square().sum(-1), flat, codebook.t(), beta=-scale, alpha=2 * scale)  # (N, K)
        probabilities = logits.softmax(-1)
    return probabilities.reshape(*residuals.shape[:-1], -1)


def inverse_cdf_sample(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Indexes `(N,)` at which the cumulative sums of probabilities `(N, K)` pass uniforms `(N,)` in [0, 1).

    Rows need not sum to 1. An index of probability 0 is never returned.
    """
    # A GPU adds a row in parallel, and rounding in fp32 could let the sum grow at a probability of 0.
    precise = torch.float64 if probabilities.is_cuda else probabilities.dtype
    cumulative = probabilities.cumsum(-1, dtype=precise)
    thresholds = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds, right=True)[:, 0].clamp_(max=probabilities.shape[-1] - 1)


class Codebook(nn.Module):
    """Code vectors, one set for all depths or one per depth. It is a module so that offloading hooks see it.

    Buffers:
        weight: `(1, K, n_z)` if shared, else `(D, K, n_z)`.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, codebook_dim: int, dtype: torch.dtype | None = None):
        super().__init__()
        self.register_buffer("weight", torch.randn(num_codebooks, codebook_size, codebook_dim, dtype=dtype))

    def weight_of(self, depth: int) -> torch.Tensor:
        """All code vectors `(K, n_z)` of one depth, counted from 0."""
        return self(None, depth)  # the hooks of group offloading see calls only

    def forward(self, codes: torch.Tensor | None, first_depth: int = 0) -> torch.Tensor:
        """Code vectors e(k) `(..., d, n_z)` of codes `(..., d)`; the first has depth `first_depth`, counted from 0."""
        if codes is None:
            return self.weight[first_depth if len(self.weight) > 1 else 0]
        num_codebooks, codebook_size, _ = self.weight.shape
        if num_codebooks == 1:
            return F.embedding(codes, self.weight[0])
        depths = torch.arange(first_depth, first_depth + codes.shape[-1], device=codes.device)
        codes = codes.long().where(codes >= 0, codebook_size)  # a negative index would count from the end
        return self.weight[depths, codes]


class ResidualQuantizer(nn.Module):
    r"""Quantizes vectors into D codes each, coarse to fine (Eq. 3-5). Moving averages train the codebook.

    All arithmetic runs in fp32 with autocast off, and buffers stay in fp32 when the model is cast.

    Args:
        codebook_size, codebook_dim, code_depth (`int`): K, n_z and D.
        shared_codebook, decay, epsilon, restart_unused_codes (*optional*):
            As in [`RQVAEConfig`], where two are called `codebook_decay` and `codebook_epsilon`.

    Buffers:
        codebook.weight: `(C, K, n_z)` code vectors, C = 1 if shared, else D.
        cluster_size: `(C, K)` moving average of the number of vectors of each code.
        embedding_sum: `(C, K, n_z)` moving average of the sum of those vectors.
        num_updates: `(C,)` updates so far.

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
        if not (0 <= decay < 1 and epsilon > 0):
            raise ValueError(f"`decay` must be in [0, 1) and `epsilon` greater than 0, got {decay} and {epsilon}.")
        self.code_depth, self.restart_unused_codes = code_depth, restart_unused_codes
        self.decay, self.epsilon = decay, epsilon
        num_codebooks = 1 if shared_codebook else code_depth
        self.codebook = Codebook(num_codebooks, codebook_size, codebook_dim, dtype=torch.float32)
        self.register_buffer("cluster_size", torch.zeros(num_codebooks, codebook_size, dtype=torch.float32))
        self.register_buffer("embedding_sum", self.codebook.weight.clone())
        self.register_buffer("num_updates", torch.zeros(num_codebooks, dtype=torch.float32))

    def _apply(self, fn, recurse=True):  # `to`, `half` and `bfloat16` move the buffers but do not round them
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
        r"""Codes of latents: the nearest ones (Eq. 3), or drawn from Q_tau (Eq. 15). The codebook does not change.

        Args:
            latents (`torch.Tensor` of shape `(B, H, W, n_z)` or `(..., n_z)`): encoder output z, or other vectors.
            temperature (`float` or `list[float]`, *optional*):
                tau of Eq. 15 for `stochastic` codes, one number or one per depth. `None` or 0: the nearest code.
            stochastic (`bool`, defaults to `False`): draw each code from Q_tau(. | r).
            generator (`torch.Generator`, *optional*): of the draws, on any device.

        Returns:
            codes `(B, H, W, D)` long and residuals r_0..r_{D-1} `(B, H, W, D, n_z)` fp32.

        Raises:
            `ValueError`: latents of another width, without elements or not finite, or a negative temperature.
        """
        width = self.codebook.weight.shape[-1]
        if latents.ndim < 1 or latents.shape[-1] != width or 0 in latents.shape:
            raise ValueError(f"`latents` must have shape (batch_size, ..., {width}), got {tuple(latents.shape)}.")
        if not torch.compiler.is_compiling() and not latents.float().sum().isfinite():  # NaN would become code 0
            raise ValueError(f"`latents` must be finite, got NaN or infinity in {latents.dtype}.")
        temperatures = one_per_depth("temperature", temperature, self.code_depth, lambda tau: tau >= 0, "at least 0")
        codes, residuals = [], []
        with without_autocast(latents.device.type):
            residual = latents.float().reshape(-1, width)  # (N, n_z), r_0 = z
            for depth, tau in enumerate(temperatures):  # Eq. 4
                codebook = self.codebook.weight_of(depth)
                if stochastic and tau:
                    code = self._draw(residual, codebook, tau, generator)  # k_d
                else:
                    code = nearest_codes(residual, codebook)
                residuals.append(residual)
                codes.append(code)
                residual = residual - F.embedding(code, codebook)  # r_d = r_{d-1} - e(k_d)
        codes = torch.stack(codes, dim=-1).view(*latents.shape[:-1], self.code_depth)  # (B, H, W, D)
        residuals = torch.stack(residuals, dim=-2).view(*codes.shape, width)  # (B, H, W, D, n_z)
        return codes, residuals

    @torch.no_grad()
    def residuals(self, latents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """r_0..r_{D-1} `(B, H, W, D, n_z)` of latents `(B, H, W, n_z)` if their codes are `codes` `(B, H, W, D)`."""
        partial_sums = self.codebook(codes).cumsum(-2)  # (B, H, W, D, n_z), z-hat^(1)..z-hat^(D)
        return latents.float()[..., None, :] - F.pad(partial_sums[..., :-1, :], (0, 0, 1, 0))

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """z-hat^(d), the sum of the first d code vectors: `(B, H, W, d)` long, d <= D, to `(B, H, W, n_z)`."""
        return self.codebook(codes).sum(-2)

    def forward(
        self,
        latents: torch.Tensor,
        codebook_update: Literal["per_depth", "per_step"] | None = None,
        depth: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        r"""Quantizes for training: straight-through estimator, commitment loss and, if asked for, a codebook update.

        Args:
            latents (`torch.Tensor` of shape `(B, H, W, n_z)`): z, finite; a check would make a GPU wait.
            codebook_update (*optional*):
                `None`: no update. `"per_depth"`: the official rule, an update after each depth; a code restarts when
                its average count falls below 1. `"per_step"`: one update after all depths, for small batches; the
                averages forget faster at first, and a code restarts when its count falls below a tenth of the mean.
            depth (`int`, *optional*):
                d of the partial sum that is returned, by default D. Codes and losses are those of all depths.

        Returns:
            z-hat^(d) `(B, H, W, n_z)`, whose gradient passes straight to the latents, codes `(B, H, W, D)`, and the
            commitment loss `()` (Eq. 7, mean over depths).
        """
        if codebook_update not in (None, "per_depth", "per_step"):
            raise ValueError(f"`codebook_update` must be None, 'per_depth' or 'per_step', got {codebook_update!r}.")
        with without_autocast(latents.device.type):
            flat = latents.float().reshape(-1, latents.shape[-1])  # (N, n_z), z
            residual, partial_sum = flat.detach(), torch.zeros_like(flat)
            codes, residuals, commitment_losses = [], [], []
            for index in range(self.code_depth):  # Eq. 4
                codebook = self.codebook.weight_of(index)
                code = nearest_codes(residual, codebook)
                vectors = F.embedding(code, codebook)  # e(k_d), before any update
                if codebook_update == "per_depth":
                    self._update("per_depth", index if len(self.cluster_size) > 1 else 0, residual, code)
                residuals.append(residual)
                codes.append(code)
                residual = residual - vectors  # r_d = r_{d-1} - e(k_d)
                partial_sum = partial_sum + vectors  # z-hat^(d)
                commitment_losses.append(F.mse_loss(flat, partial_sum))  # ||z - sg[z-hat^(d)]||^2, Eq. 7
                if index + 1 == (depth or self.code_depth):
                    quantized = flat + (partial_sum - flat).detach()  # straight through
            if codebook_update == "per_step" and len(self.cluster_size) == 1:  # all depths train one codebook
                self._update("per_step", 0, torch.cat(residuals), torch.cat(codes))
            elif codebook_update == "per_step":
                for index in range(self.code_depth):
                    self._update("per_step", index, residuals[index], codes[index])
        codes = torch.stack(codes, dim=-1).view(*latents.shape[:-1], self.code_depth)  # (B, H, W, D)
        return quantized.view(latents.shape), codes, torch.stack(commitment_losses).mean()

    def _draw(
        self, residual: torch.Tensor, codebook: torch.Tensor, temperature: float, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Codes `(N,)` drawn from Q_tau(. | r) of each residual (Eq. 15)."""
        device = residual.device if generator is None else generator.device
        uniforms = torch.rand(len(residual), generator=generator, device=device, dtype=torch.float32)
        uniforms = uniforms.to(residual.device)
        codes = [
            inverse_cdf_sample(soft_code_probabilities(residual[block], codebook, temperature), uniforms[block])
            for block in row_blocks(len(residual), len(codebook))
        ]
        return torch.cat(codes)

    @torch.no_grad()
    def _update(self, rule: str, index: int, vectors: torch.Tensor, codes: torch.Tensor) -> None:
        """Updates codebook `index` with vectors `(N, n_z)` and their codes `(N,)`: moving averages of counts and sums,
        restarts, then codebook = sum / smoothed count."""
        cluster_size, embedding_sum = self.cluster_size[index], self.embedding_sum[index]  # (K,), (K, n_z), views
        decay = self.decay
        if rule == "per_step":  # a short memory at first
            updates = self.num_updates[index]
            decay = ((1 + updates) / (10 + updates)).clamp(max=decay)
        counts = torch.zeros_like(cluster_size).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(embedding_sum).index_add_(0, codes, vectors)
        for average, total in ((cluster_size, counts), (embedding_sum, sums)):
            if _is_distributed():
                dist.all_reduce(total)
            average.mul_(decay).add_(total.mul_(1 - decay))
        self.num_updates[index] += 1
        if self.restart_unused_codes:
            count = threshold = torch.ones_like(cluster_size[0])
            if rule == "per_step":
                count = cluster_size.mean()
                threshold = RESTART_FRACTION * count
            unused = cluster_size < threshold  # (K,)
            torch.where(unused[:, None], self._random_vectors(vectors) * count, embedding_sum, out=embedding_sum)
            torch.where(unused, count, cluster_size, out=cluster_size)
        total = cluster_size.sum()
        smoothed = total * (cluster_size + self.epsilon) / (total + len(cluster_size) * self.epsilon)
        torch.div(embedding_sum, smoothed[:, None], out=self.codebook.weight[index])

    def _random_vectors(self, vectors: torch.Tensor) -> torch.Tensor:
        """K random ones of vectors `(N, n_z)`, the same on all processes; repeated with a little noise if N < K."""
        size, width = self.codebook.weight.shape[1:]
        count = -(-size // len(vectors)) * len(vectors)
        noise = torch.rand(count, width, device=vectors.device) if count > len(vectors) else None
        indexes = torch.randperm(count, device=vectors.device)[:size]  # (K,)
        drawn = vectors[indexes % len(vectors)]  # (K, n_z)
        if noise is not None:
            drawn += noise[indexes] * (0.01 / width**0.5)
        if _is_distributed():
            dist.broadcast(drawn, 0)
        return drawn


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
