# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Configuration of the RQ-Transformer."""

from huggingface_hub.dataclasses import strict
from transformers.utils.type_validators import activation_fn_key, interval, probability

from .base import RQConfig
from .configuration_rqvae import RQVAEConfig

# Fields that a transformer shares with the RQ-VAE whose codes it predicts.
CODE_FIELDS = ("code_shape", "codebook_size", "codebook_dim", "shared_codebook")


@strict
class RQTransformerConfig(RQConfig):
    r"""
    Configuration of an [`RQTransformerForImageGeneration`] (section 3.2). The defaults are the CC-3M model, 654M
    parameters; it has 26 spatial layers where Table 5 says 24, since only 26 give the 654M stated there.

    A condition is a row of `condition_length` ids: caption tokens, one class id, or one start id (0) for unconditional
    generation. With `condition_dim` it is a row of vectors of a text encoder.

    Args:
        vocab_size (`int`, defaults to 16384): Number of condition ids: caption vocabulary, number of classes, or 1.
        condition_length (`int`, defaults to 32): Length S of a condition.
        condition_dim (`int`, *optional*):
            Width of a text encoder's vectors. Conditions are then `prompt_embeds`, and `vocab_size` is not used.
        code_shape (`list[int]`, defaults to `(8, 8, 4)`): (H, W, D) of the code map.
        codebook_size, codebook_dim, shared_codebook (*optional*): Those of the [`RQVAEConfig`].
        hidden_size (`int`, defaults to 1280): Width n_e of both transformers.
        num_spatial_layers (`int`, defaults to 26): Blocks of the spatial transformer.
        num_depth_layers (`int`, defaults to 4): Blocks of the depth transformer, 0 only for codes of depth 1.
        num_attention_heads (`int`, defaults to 20): Attention heads of every block; must divide `hidden_size`.
        intermediate_size (`int`, *optional*): Width of the MLPs; `None` is `4 * hidden_size`.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the MLPs, a name that transformers knows.
        dropout (`float`, defaults to 0.1): Dropout after each attention and MLP, in [0, 1).
        attention_dropout (`float`, defaults to 0.0): Dropout of attention probabilities, in [0, 1).
        embedding_dropout (`float`, defaults to 0.0): Dropout of the inputs of the spatial transformer, in [0, 1).
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of layer normalizations.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the initial weights.
        text_loss_weight (`float`, defaults to 0.1):
            Weight w of the caption loss, in [0, 1]: loss = (1 - w) image loss + w text loss. See `has_text_head`.
        pad_token_id (`int`, *optional*): Id that the text loss ignores; the official code ignores none.
        null_condition_ids (`list[int]`, *optional*):
            `condition_length` ids of "no condition", which guidance needs. Training with condition dropout sets them.
        id2label (`dict[int, str]`, *optional*): Names of the classes, for class-conditional models only.

    Example:

    ```python
    >>> from rq_hf import RQTransformerConfig, RQVAEConfig
    >>> config = RQTransformerConfig.from_rqvae_config(RQVAEConfig(), vocab_size=1000, condition_length=1)
    >>> config.code_shape
    (8, 8, 4)
    ```
    """

    model_type = "rq_transformer"
    attribute_map = {"num_hidden_layers": "num_spatial_layers"}

    vocab_size: int = interval(min=1)(default=16384)
    condition_length: int = interval(min=1)(default=32)
    condition_dim: int | None = None
    code_shape: list[int] | tuple[int, ...] = (8, 8, 4)
    codebook_size: int = interval(min=1)(default=16384)
    codebook_dim: int = interval(min=1)(default=256)
    shared_codebook: bool = True
    hidden_size: int = interval(min=1)(default=1280)
    num_spatial_layers: int = interval(min=1, max=500)(default=26)
    num_depth_layers: int = interval(min=0, max=500)(default=4)
    num_attention_heads: int = interval(min=1)(default=20)
    intermediate_size: int | None = None
    hidden_act: str = activation_fn_key(default="gelu")
    dropout: float | int = interval(min=0, max=1, exclude_max=True)(default=0.1)
    attention_dropout: float | int = interval(min=0, max=1, exclude_max=True)(default=0.0)
    embedding_dropout: float | int = interval(min=0, max=1, exclude_max=True)(default=0.0)
    layer_norm_eps: float | int = interval(min=0, exclude_min=True)(default=1e-5)
    initializer_range: float | int = interval(min=0)(default=0.02)
    text_loss_weight: float | int = probability(default=0.1)
    pad_token_id: int | None = None
    null_condition_ids: list[int] | tuple[int, ...] | None = None
    id2label: dict[int, str] | dict[str, str] | None = None

    def __post_init__(self, **kwargs):
        self.code_shape = tuple(self.code_shape)
        if self.null_condition_ids is not None:
            self.null_condition_ids = tuple(self.null_condition_ids)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        is_shape = len(self.code_shape) == 3 and min(self.code_shape) >= 1
        self._require(is_shape, "code_shape", "three integers (H, W, D) of at least 1")
        for name in ("condition_dim", "intermediate_size"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "at least 1, or None")
        has_layers = self.num_depth_layers >= 1 or self.code_shape[2] == 1
        self._require(has_layers, "num_depth_layers", "at least 1 for codes of more than one depth")
        heads = self.num_attention_heads
        self._require(self.hidden_size % heads == 0, "hidden_size", f"a multiple of `num_attention_heads` = {heads}")

        def are_ids(values) -> bool:
            return all(0 <= int(value) < self.vocab_size for value in values)

        ids = f"in [0, {self.vocab_size})"
        self._require(self.pad_token_id is None or are_ids([self.pad_token_id]), "pad_token_id", ids)
        null, length = self.null_condition_ids, self.condition_length
        fits = null is None or len(null) == length and are_ids(null)
        self._require(fits, "null_condition_ids", f"{length} ids {ids}")
        self._require(are_ids(self.id2label or ()), "id2label", f"names of condition ids {ids}")

    @property
    def num_positions(self) -> int:
        """T = H * W."""
        return self.code_shape[0] * self.code_shape[1]

    @property
    def condition_width(self) -> int:
        """Width of a condition's vectors: a text encoder's, or that of the model's own embedding of ids."""
        return self.condition_dim or self.hidden_size

    @property
    def has_text_head(self) -> bool:
        """Whether the caption is predicted, too: conditions are several ids, and the caption loss has a weight."""
        return self.condition_length > 1 and self.condition_dim is None and self.text_loss_weight > 0

    @property
    def condition_name(self) -> str | None:
        """The argument by which a pipeline takes conditions: "prompt", "class_labels", or `None` without any."""
        if self.condition_length > 1 or self.condition_dim is not None:
            return "prompt"
        return "class_labels" if self.vocab_size > 1 else None

    @property
    def class_ids(self) -> list[int]:
        """Ids of the classes of a class-conditional model, without the id of "no condition"."""
        ids = range(self.vocab_size) if self.id2label is None else sorted(self.id2label)
        return [index for index in ids if self.null_condition_ids != (index,)]

    @property
    def num_classes(self) -> int:
        """The number of `class_ids`."""
        return len(self.class_ids)

    @classmethod
    def from_rqvae_config(cls, rqvae_config: RQVAEConfig, **kwargs) -> "RQTransformerConfig":
        """Configuration of a transformer over the codes of an RQ-VAE, which gives `code_shape`, `codebook_size`,
        `codebook_dim` and `shared_codebook`.

        Raises:
            `ValueError`: one of these is given in `kwargs` and contradicts the RQ-VAE.
        """
        for name in CODE_FIELDS:
            value = getattr(rqvae_config, name)
            given = kwargs.get(name, value)
            if (tuple(given) if name == "code_shape" else given) != value:
                raise ValueError(f"`{name}` must be the RQ-VAE's, {value}, got {given}.")
            kwargs[name] = value
        return cls(**kwargs)
