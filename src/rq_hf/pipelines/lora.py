# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of the transformer, with the methods that the pipelines of diffusers have."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file


class LoraMixin(LoraBaseMixin):
    """Loads adapters. `set_adapters`, `get_active_adapters`, `disable_lora`, `enable_lora`, `unload_lora_weights` and
    others are those of diffusers."""

    _lora_loadable_modules = ["transformer"]  # pipelines of diffusers name such components like this

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, torch.Tensor],
        adapter_name: str = "default",
        weight_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds an adapter to the transformer and activates it alone; `set_adapters` activates and weighs several.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `Path` or `dict[str, torch.Tensor]`):
                Folder or Hub id with PEFT's two files, a file of weights, or the weights.
            adapter_name (`str`, defaults to `"default"`): Name of the adapter in this pipeline.
            weight_name (`str`, *optional*):
                Another file than `adapter_model.safetensors`; then `adapter_config.json` may be missing. Weights
                without it are scaled as in diffusers: by `alpha / rank` with an entry `MODULE.alpha`, else by 1.
            kwargs: Of `hf_hub_download`, such as `revision`, `subfolder` and `token`.

        Raises:
            `OSError`: A file is missing.
            `ValueError`: The name is taken, the adapter does not fit the transformer, or weights are offloaded.
            `ImportError`: PEFT is not installed.
        """
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict  # PEFT is optional

        if adapter_name in self.get_list_adapters().get("transformer", []):
            raise ValueError(f"`adapter_name` must be new, got {adapter_name!r}; see `delete_adapters`.")
        if any(parameter.is_meta for parameter in self.transformer.parameters()):
            raise ValueError("`load_lora_weights` must be called before `enable_sequential_cpu_offload`.")
        source, config = pretrained_model_name_or_path_or_dict, None
        if not isinstance(source, dict) and Path(source).is_file():
            source, weight_name = Path(source).parent, Path(source).name
        if isinstance(source, dict):
            weights = source
        else:
            weights = load_file(cached_file(source, weight_name or "adapter_model.safetensors", **kwargs))
            try:
                config = LoraConfig.from_pretrained(Path(cached_file(source, "adapter_config.json", **kwargs)).parent)
            except OSError:
                if weight_name is None:
                    raise
        for prefix in ("base_model.model.", "transformer."):  # of names by PEFT and by diffusers
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
        config = LoraConfig(**config_fields(weights)) if config is None else config
        weights = {name: value for name, value in weights.items() if not name.endswith(".alpha")}
        try:
            inject_adapter_in_model(config, self.transformer, adapter_name)
            result = set_peft_model_state_dict(self.transformer, weights, adapter_name)
            if wrong := result.unexpected_keys + [name for name in result.missing_keys if f".{adapter_name}." in name]:
                raise RuntimeError(f"weights {wrong[:2]} are missing or unknown")
        except (ValueError, RuntimeError) as error:
            self.delete_adapters(adapter_name)
            raise ValueError(f"The adapter {adapter_name!r} must fit the transformer; {error}") from error
        self.set_adapters(adapter_name)

    def save_lora_weights(
        self,
        save_directory: str | Path,
        weight_name: str = "adapter_model.safetensors",
        adapter_name: str | None = None,
    ) -> None:
        """Saves an adapter of the transformer as PEFT does, for [`load_lora_weights`] and `PeftModel.from_pretrained`.

        Args:
            save_directory (`str` or `Path`): Folder for `adapter_config.json` and the weights.
            weight_name (`str`, *optional*): File of the weights.
            adapter_name (`str`, *optional*): The adapter; the active one by default.

        Raises:
            `ValueError`: No such adapter, or several active ones and no name.
        """
        from peft import get_peft_model_state_dict

        known = self.get_list_adapters().get("transformer", [])
        names = [adapter_name] if adapter_name else self.get_active_adapters() if known else []
        if len(names) != 1 or names[0] not in known:
            raise ValueError(f"`adapter_name` must be one of the loaded adapters {known}, got {adapter_name!r}.")
        weights = get_peft_model_state_dict(self.transformer, adapter_name=names[0])
        weights = {f"base_model.model.{name}": value.contiguous().cpu() for name, value in weights.items()}
        self.transformer.peft_config[names[0]].save_pretrained(str(save_directory))
        save_file(weights, Path(save_directory) / weight_name, {"format": "pt"})

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Removes adapters by name; the others stay."""
        super().delete_adapters(adapter_names)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            getattr(self.transformer, "peft_config", {}).pop(name, None)

    def fuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Adds the active adapters to the transformer's weights; arguments as in diffusers."""
        super().fuse_lora(components or self._lora_loadable_modules, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Subtracts fused adapters from the transformer's weights."""
        super().unfuse_lora(components or self._lora_loadable_modules, **kwargs)

    def _scaled_lora(self, attention_kwargs: dict[str, Any] | None) -> AbstractContextManager[None]:
        """A context in which all adapters count `attention_kwargs["scale"]` times as much."""
        if not attention_kwargs:
            return nullcontext()
        if set(attention_kwargs) != {"scale"} or not self.get_list_adapters():
            raise ValueError(f"`attention_kwargs` must be {{'scale': s}}, with an adapter, got {attention_kwargs!r}.")
        from peft.helpers import rescale_adapter_scale

        return rescale_adapter_scale(self.transformer, attention_kwargs["scale"])


def config_fields(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Fields of the `LoraConfig` of weights that come without one."""
    ending = ".lora_A.weight"
    ranks = {name.removesuffix(ending): len(value) for name, value in weights.items() if name.endswith(ending)}
    alphas = {module: float(weights.get(f"{module}.alpha", rank)) for module, rank in ranks.items()}
    return {"target_modules": list(ranks), "rank_pattern": ranks, "alpha_pattern": alphas}
