# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of the transformer, with the methods that the pipelines of diffusers have."""

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import get_adapter_name
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file


class LoraMixin(LoraBaseMixin):
    """Loads and saves adapters. `set_adapters`, `disable_lora`, `unload_lora_weights` and others are inherited."""

    _lora_loadable_modules = ["transformer"]  # pipelines of diffusers name such components like this

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        weight_name: str = "adapter_model.safetensors",
        **kwargs: Any,
    ) -> None:
        """Adds an adapter to the transformer and activates it alone; `set_adapters` activates and weighs several.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `Path` or `dict[str, torch.Tensor]`):
                Folder or Hub id with `adapter_config.json` and weights, or weights, which are scaled as in diffusers:
                by `alpha / rank` with an entry `MODULE.alpha`, else by 1.
            adapter_name (`str`, *optional*): Name in this pipeline. By default `default_0`, then `default_1`...
            weight_name (`str`, *optional*): File of the weights.
            kwargs: Of `hf_hub_download`, such as `revision`, `subfolder` and `token`.

        Raises:
            `ValueError`: The name is taken, the adapter does not fit the transformer, or weights are offloaded.
        """
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict  # PEFT is optional

        source, name = pretrained_model_name_or_path_or_dict, adapter_name or get_adapter_name(self.transformer)
        if name in self.get_list_adapters().get("transformer", []):
            raise ValueError(f"`adapter_name` must be new, got {name!r}; see `delete_adapters`.")
        if any(parameter.is_meta for parameter in self.transformer.parameters()):
            raise ValueError("`load_lora_weights` must be called before `enable_sequential_cpu_offload`.")
        config, weights = None, source
        if not isinstance(source, dict):
            config = LoraConfig.from_pretrained(Path(cached_file(source, "adapter_config.json", **kwargs)).parent)
            weights = load_file(cached_file(source, weight_name, **kwargs))
        for prefix in ("base_model.model.", "transformer."):  # of names by PEFT and by diffusers
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        if config is None:
            ending = ".lora_A.weight"
            ranks = {key.removesuffix(ending): len(value) for key, value in weights.items() if key.endswith(ending)}
            alphas = {module: float(weights.pop(f"{module}.alpha", rank)) for module, rank in ranks.items()}
            config = LoraConfig(target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=alphas)
        try:
            inject_adapter_in_model(config, self.transformer, name)
            result = set_peft_model_state_dict(self.transformer, weights, name)
            if wrong := result.unexpected_keys + [key for key in result.missing_keys if f".{name}." in key]:
                raise RuntimeError(f"weights {wrong[:2]} are missing or unknown")
        except (ValueError, RuntimeError) as error:
            self.delete_adapters(name)
            raise ValueError(f"The adapter {name!r} must fit the transformer; {error}") from error
        self.set_adapters(name)

    def save_lora_weights(self, save_directory: str | Path, adapter_name: str | None = None) -> None:
        """Saves an adapter as PEFT does. `adapter_name` is that of the active adapter by default."""
        from peft import get_peft_model_state_dict

        known = self.get_list_adapters().get("transformer", [])
        names = [adapter_name] if adapter_name else self.get_active_adapters()
        if len(names) != 1 or names[0] not in known:
            raise ValueError(f"`adapter_name` must be one of the loaded adapters {known}, got {adapter_name!r}.")
        weights = get_peft_model_state_dict(self.transformer, adapter_name=names[0])
        weights = {f"base_model.model.{key}": value.contiguous().cpu() for key, value in weights.items()}
        self.transformer.peft_config[names[0]].save_pretrained(str(save_directory))
        save_file(weights, Path(save_directory, "adapter_model.safetensors"), {"format": "pt"})

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
