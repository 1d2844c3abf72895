# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""LoRA adapters of the transformer, with the methods that the pipelines of diffusers have."""

from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LoraBaseMixin
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # of the names in the file of a `PeftModel`


class LoraMixin(LoraBaseMixin):
    """Loads adapters. `set_adapters`, `get_active_adapters`, `disable_lora`, `enable_lora`, `unload_lora_weights` and
    others are those of diffusers."""

    _lora_loadable_modules = ["transformer"]  # pipelines of diffusers name such components like this

    def load_lora_weights(
        self, pretrained_model_name_or_path: str | Path, adapter_name: str = "default", **kwargs: Any
    ) -> None:
        """Adds an adapter to the transformer and activates it alone. `set_adapters` activates and weighs several.

        Args:
            pretrained_model_name_or_path (`str` or `Path`):
                Folder or Hub id with the files of PEFT, `adapter_config.json` and `adapter_model.safetensors`.
            adapter_name (`str`, defaults to `"default"`): Name of the adapter in this pipeline.
            kwargs: Of `hf_hub_download`, such as `revision`, `subfolder` and `token`.

        Raises:
            `ValueError`: The name is taken, the adapter does not fit the transformer, or weights are offloaded.
            `ImportError`: PEFT is not installed.
        """
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict  # PEFT is optional

        if adapter_name in self.get_list_adapters().get("transformer", []):
            raise ValueError(f"`adapter_name` must be new, got {adapter_name!r}; see `delete_adapters`.")
        if any(parameter.is_meta for parameter in self.transformer.parameters()):
            raise ValueError("`load_lora_weights` must be called before `enable_sequential_cpu_offload`.")
        source = str(pretrained_model_name_or_path)
        config = LoraConfig.from_pretrained(source, **kwargs)
        file = Path(source, kwargs.get("subfolder") or "", ADAPTER_WEIGHTS)
        if not Path(source).is_dir():
            file = hf_hub_download(source, ADAPTER_WEIGHTS, **kwargs)
        weights = {name.removeprefix(PEFT_PREFIX): value for name, value in load_file(file).items()}
        try:
            inject_adapter_in_model(config, self.transformer, adapter_name)
            result = set_peft_model_state_dict(self.transformer, weights, adapter_name)
            if wrong := result.unexpected_keys + [name for name in result.missing_keys if f".{adapter_name}." in name]:
                raise RuntimeError(f"weights {wrong[:2]} are missing or unknown")
        except (ValueError, RuntimeError) as error:
            self.delete_adapters(adapter_name)
            raise ValueError(f"The adapter {source!r} must fit the transformer; {error}") from error
        self.set_adapters(adapter_name)

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
