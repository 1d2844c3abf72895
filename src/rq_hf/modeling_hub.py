# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How both models come from the Hub and get there."""

import functools
import operator
from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import cached_file

from .configuration_common import write_sampling
from .hub_cache import PUSH_OPTIONS, check_generation_config, checked_downloads, download_options

# In the names of weights of a module that `torch.compile` has wrapped.
COMPILED = "_orig_mod"


def _delete_older_weights(folder: Path, variant: str | None) -> None:
    """Weights of an earlier save in one file would be loaded instead of new ones in several; the base class deletes
    what it can take for parts of the new ones alone."""
    stem, index = ("model", "json") if variant is None else (f"model.{variant}", f"{variant}.json")
    has_parts = any(folder.glob(f"{stem}-[0-9]*-of-[0-9]*.safetensors"))
    older = f"{stem}.safetensors" if has_parts else f"model.safetensors.index.{index}"
    (folder / older).unlink(missing_ok=True)


class HubModel(PreTrainedModel):
    """A model that is loaded from safetensors alone, after a check of what was downloaded, and shared with a card.

    Attributes:
        missing_weights (`list[str]`): those that its files did not have when it was loaded.
    """

    missing_weights: list[str] = []

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in the base class; pickled weights are not loaded unless `use_safetensors=False` is given, and a file
        that arrives corrupt from the Hub is an `OSError` and does not stay in the cache."""
        if kwargs.get("use_safetensors") is None:  # diffusers' base class hands a None on
            kwargs["use_safetensors"] = True
        told = kwargs.pop("output_loading_info", False)
        with checked_downloads(pretrained_model_name_or_path, kwargs):
            model, loaded = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        model.missing_weights = sorted(loaded["missing_keys"])  # drawn at random, which a pipeline does not take
        return (model, loaded) if told else model

    @functools.wraps(PreTrainedModel.save_pretrained)  # diffusers looks up which arguments it takes
    def save_pretrained(
        self, save_directory, is_main_process: bool = True, state_dict=None, push_to_hub: bool = False, **kwargs
    ):
        check_generation_config(self)
        pushes = push_to_hub and hasattr(self, "_push_saved")  # which code that a repository brings along lacks
        options = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs} if pushes else {}
        if state_dict is None and any(name.endswith(COMPILED) for name, _ in self.named_modules()):
            state_dict = self.state_dict()
        if state_dict is not None:
            state_dict = {name.replace(f"{COMPILED}.", ""): value for name, value in state_dict.items()}
        super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub and not pushes, **kwargs)
        if is_main_process:
            _delete_older_weights(Path(save_directory), kwargs.get("variant"))
            write_sampling(save_directory)
        if is_main_process and pushes:
            self._push_saved(save_directory, options)

    def _push_saved(self, folder, options) -> None:
        from .sharing import push_saved

        push_saved(self, folder, **options)

    def load_adapter(self, peft_model_id: str | None = None, *args, **kwargs):
        """As in the base class, but for adapters that are pickled: they are an `OSError`."""
        if peft_model_id is None:
            return super().load_adapter(None, *args, **kwargs)
        nested = [kwargs.get(name) or {} for name in ("download_kwargs", "adapter_kwargs")]
        options = download_options(functools.reduce(operator.or_, nested, kwargs), "subfolder")
        with checked_downloads(peft_model_id, options):
            cached_file(peft_model_id, "adapter_model.safetensors", **options)
            return super().load_adapter(peft_model_id, *args, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        variant: str | None = None,
        max_shard_size: int | str = "5GB",
        **options,
    ):
        """Uploads weights, configuration and, where the repository has no card yet, a card, in one commit.

        Args:
            repo_id (`str`): repository, made if it is missing.
            variant (`str`, *optional*): such as `"fp16"`, put into the names of the weights' files.
            max_shard_size (`int` or `str`, defaults to `"5GB"`): of a file of weights.
            options: `private`, `revision`, `with_code` and others of [`~rq_hf.sharing.push_folder`].

        Returns:
            `huggingface_hub.CommitInfo`
        """
        from .sharing import save_and_push

        return save_and_push(self, repo_id, variant=variant, max_shard_size=max_shard_size, **options)
