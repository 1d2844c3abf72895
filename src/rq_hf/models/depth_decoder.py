# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The depth decoder (section 3.2.2): from a context vector to the D codes of one position, coarse to fine.

Symbols: D code depth, K codebook size, n_z codebook width, n_e hidden width, N rows. e(k) code vector,
z-hat^(d) sum of the first d code vectors. `...` are any dimensions, such as pictures and positions.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .configuration_rq_transformer import RQTransformerConfig
from .residual_quantizer import Codebook, one_per_depth, row_blocks, soft_code_probabilities
from .sampling import RQGenerationConfig
from .transformer_blocks import KeyValueCache, LearnedPositions, PredictionHead, TransformerStack

# Label of a code that has no loss, as in `F.cross_entropy`.
IGNORED = -100
# Logits of many rows are held in blocks of at most this many elements (64 MiB in fp32).
LOGIT_BLOCK_ELEMENTS = 2**24


class CodeHead(PredictionHead):
    """The head that all depths share. With targets it returns losses, and holds no more than a block of logits."""

    def forward(
        self,
        x: torch.Tensor,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        codebook: torch.Tensor | None = None,
        temperatures: Sequence[float] = (),
    ) -> torch.Tensor:
        """Logits `(..., D, K)` of states `(..., D, n_e)`, or with targets the cross-entropy of each code `(..., D)`.

        Targets are codes `(..., D)`, distributions `(..., D, K)`, or Q_tau (Eq. 15) of residuals `(..., D, n_z)`.
        """
        if labels is None and residuals is None:
            return super().forward(x)
        states = x.flatten(0, -3)  # (N, D, n_e)
        targets = (labels if residuals is None else residuals).flatten(0, x.ndim - 3)  # (N, D), (N, D, K or n_z)
        blocks = row_blocks(len(states), states.shape[1] * self.linear.out_features, LOGIT_BLOCK_ELEMENTS)
        if len(blocks) == 1:
            return self._losses(states, targets, codebook, temperatures).view(x.shape[:-1])
        losses = [  # each block is computed again for its gradient
            checkpoint(self._losses, states[block], targets[block], codebook, temperatures, use_reentrant=False)
            for block in blocks
        ]
        return torch.cat(losses).view(x.shape[:-1])

    def _losses(self, states, targets, codebook, temperatures) -> torch.Tensor:
        """Cross-entropy `(N, D)`; with a codebook the targets are residuals."""
        if codebook is not None:
            of_depths = [
                soft_code_probabilities(targets[:, depth], codebook[depth % len(codebook)], temperature)
                for depth, temperature in enumerate(temperatures)
            ]
            targets = torch.stack(of_depths, dim=1)  # (N, D, K)
        logits = super().forward(states).float()  # (N, D, K)
        logits, targets = logits.flatten(0, 1), targets.flatten(0, 1)
        return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED).view(states.shape[:2])


class DepthDecoder(nn.Module):
    r"""
    Predicts and draws the D codes of a position from one context vector (Eq. 12, 13), a hidden state of any model.

    Args:
        config ([`RQTransformerConfig`]):
            `code_shape[2]` is D. The fields of the condition and of the spatial transformer are not used.

    Buffers:
        codebook.weight: `(1 or D, K, n_z)`, the RQ-VAE's; see [`set_codebook`].

    Example:

    ```python
    >>> import torch
    >>> from rq_hf import DepthDecoder, RQGenerationConfig, RQTransformerConfig
    >>> config = RQTransformerConfig(
    ...     code_shape=(1, 1, 4), codebook_size=32, codebook_dim=8, hidden_size=16, num_depth_layers=1,
    ...     num_attention_heads=2,
    ... )
    >>> backbone, depth_decoder = torch.nn.Linear(10, 16), DepthDecoder(config).eval()
    >>> context = backbone(torch.randn(6, 10))
    >>> depth_decoder(context, codes=torch.randint(32, (6, 4))).shape  # logits
    torch.Size([6, 4, 32])
    >>> codes = torch.randint(32, (6, 4))
    >>> depth_decoder(context, codes, labels=codes).mean().backward()  # losses
    >>> codes, quantized, is_finite = depth_decoder.draw(context, RQGenerationConfig(do_sample=False))
    >>> codes.shape, quantized.shape
    (torch.Size([6, 4]), torch.Size([6, 8]))
    ```
    """

    def __init__(self, config: RQTransformerConfig):
        super().__init__()
        self.code_depth = config.code_shape[2]
        num_codebooks = 1 if config.shared_codebook else self.code_depth
        self.codebook = Codebook(num_codebooks, config.codebook_size, config.codebook_dim)
        self.projection = nn.Linear(config.codebook_dim, config.hidden_size)
        self.positions = LearnedPositions(self.code_depth, config.hidden_size)
        self.transformer = TransformerStack(config, config.num_depth_layers)
        self.head = CodeHead(config, config.codebook_size)

    @torch.no_grad()
    def set_codebook(self, codebook: torch.Tensor) -> None:
        """Copies [`RQVAEModel.codebook`], `(1, K, n_z)`, or `(D, K, n_z)` with `shared_codebook=False`.

        Raises:
            `ValueError`: wrong shape.
        """
        weight = self.codebook.weight
        if codebook.shape != weight.shape:
            raise ValueError(f"`codebook` must have shape {tuple(weight.shape)}, got {tuple(codebook.shape)}.")
        weight.copy_(codebook)

    def forward(
        self,
        context: torch.Tensor,
        codes: torch.LongTensor,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        label_temperature: float | Sequence[float] | None = None,
    ) -> torch.Tensor:
        """Predicts each code from the context and the coarser codes (teacher forcing).

        Args:
            context (`torch.Tensor` of shape `(..., n_e)`): One vector per position, h_t.
            codes (`torch.LongTensor` of shape `(..., D)`): The codes of the position.
            labels, residuals, label_temperature (*optional*): Targets; with them [`losses`] are returned.

        Returns:
            Logits `(..., D, K)` (Eq. 13), or the cross-entropy of each code `(..., D)`, in nats.
        """
        states = self.states(context, self.partial_sums(codes)[..., :-1, :])  # (..., D, n_e)
        if labels is None and residuals is None:
            return self.head(states)
        return self.losses(states, labels, residuals, label_temperature)

    def partial_sums(self, codes: torch.LongTensor) -> torch.Tensor:
        """z-hat^(1..D) `(..., D, n_z)` of codes `(..., D)`."""
        return self.codebook(codes).cumsum(dim=-2)

    def states(self, context: torch.Tensor, partial_sums: torch.Tensor) -> torch.Tensor:
        """Outputs of the depth transformer for h_t `(..., n_e)` and z-hat^(1..d-1) `(..., d-1, n_z)`: those of the
        first d depths, `(..., d, n_e)` (Eq. 12)."""
        inputs = context[..., None, :]  # (..., 1, n_e)
        if partial_sums.shape[-2] > 0:  # quantized linear layers take no empty tensor
            inputs = torch.cat([inputs, self.projection(partial_sums)], dim=-2)  # (..., d, n_e)
        states = self.transformer(self.positions(inputs.flatten(0, -3)))  # (N, d, n_e)
        return states.view(inputs.shape)

    def losses(
        self,
        states: torch.Tensor,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        label_temperature: float | Sequence[float] | None = None,
    ) -> torch.Tensor:
        """Cross-entropy of each code `(..., D)`, in nats (Eq. 14), after outputs `(..., D, n_e)` of [`states`].

        Args:
            labels: Codes `(..., D)`, where -100 has no loss, or distributions `(..., D, K)` for small K.
            residuals: Instead of `labels`: `(..., D, n_z)`, of which the targets of Eq. 15 are made block by block.
            label_temperature: tau > 0 of Eq. 15, one number or one per depth; needed with `residuals`.
        """
        if residuals is None:
            return self.head(states, labels if labels.is_floating_point() else labels.long())
        taus = one_per_depth(
            "label_temperature", label_temperature, self.code_depth, lambda tau: tau > 0, "greater than 0"
        )
        if None in taus:
            raise ValueError("`residuals` need a `label_temperature`, got None.")
        return self.head(states, None, residuals, self.codebook.weight, taus)

    def new_caches(self, num_rows: int, like: torch.Tensor) -> list[KeyValueCache]:
        """Empty caches for [`draw`], with the dtype and device of `like`."""
        return self.transformer.new_caches(num_rows, self.code_depth, like)

    def draw(
        self,
        context: torch.Tensor,
        settings: RQGenerationConfig,
        uniforms: torch.Tensor | None = None,
        known_codes: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        process: Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor] | None = None,
        caches: list[KeyValueCache] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draws the codes of N positions, depth by depth (Eq. 12, 13).

        Args:
            context: h_t `(N, n_e)`. With guidance, N rows with a condition and then the same N without, `(2N, n_e)`.
            settings: How codes are drawn.
            uniforms: `(N, D)` in [0, 1), needed for drawing.
            known_codes, known_mask: `(N, D)`; the codes to keep, and where.
            process: `process(codes, logits)` changes logits `(N, K)` that follow codes `(N,)` of the coarser depths.
            caches: From [`new_caches`], to be used again. They are overwritten.

        Returns:
            Codes `(N, D)`, z-hat `(N, n_z)`, and whether all logits were finite `()`.
        """
        caches = self.new_caches(len(context), context) if caches is None else caches
        codes, quantized = [], None
        is_finite = torch.ones((), dtype=torch.bool, device=context.device)
        for d in range(self.code_depth):
            inputs = context if d == 0 else for_all_rows(self.projection(quantized), len(context))  # (N or 2N, n_e)
            states = self.transformer(self.positions(inputs[:, None], offset=d), caches, d)
            logits = self.head(states)[:, 0].float()  # (N or 2N, K)
            if settings.guidance_scale != 1.0:
                conditional, null = logits.chunk(2)
                logits = null + settings.guidance_scale * (conditional - null)
            is_finite = is_finite & logits.sum().isfinite().to(is_finite.device)
            logits = logits if process is None else process(codes, logits)
            code = settings.choose(logits, d, None if uniforms is None else uniforms[:, d])
            if known_mask is not None:
                code = torch.where(known_mask[:, d].to(code.device), known_codes[:, d].to(code.device), code)
            codes.append(code)
            vector = self.codebook(code[:, None], first_depth=d)[:, 0]  # (N, n_z), e(k)
            quantized = vector if d == 0 else quantized + vector  # z-hat^(d+1)
        return torch.stack(codes, dim=-1), quantized, is_finite

    def draw_in_blocks(
        self, context: torch.Tensor, settings: RQGenerationConfig, uniforms: torch.Tensor, **known: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs [`draw`] block by block, so that not all logits are held at once: codes `(N, D)`, and whether all
        logits were finite `()`."""
        groups, drawn = context.view(-1, len(uniforms), context.shape[-1]), []  # (1 or 2, N, n_e)
        for block in row_blocks(len(uniforms), self.head.linear.out_features, LOGIT_BLOCK_ELEMENTS):
            given = {name: values[block] for name, values in {"uniforms": uniforms, **known}.items()}
            drawn.append(self.draw(groups[:, block].flatten(0, 1), settings, **given))
        codes, _, is_finite = zip(*drawn, strict=True)
        return torch.cat(codes), torch.stack(is_finite).all()


def for_all_rows(values: torch.Tensor, num_rows: int) -> torch.Tensor:
    """`values` for the conditional rows, and again for the null rows of guidance."""
    return values if len(values) == num_rows else values.repeat(num_rows // len(values), *[1] * (values.ndim - 1))
