# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How the pipeline comes from the Hub and gets there."""

import sys

from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

from .hub_cache import PUSH_OPTIONS, check_generation_config, check_whole, checked_downloads


class HubPipelineMixin:
    """For a pipeline that is loaded from safetensors alone, after a check of what was downloaded, and shared with a
    card. It is no `DiffusionPipeline` itself: in a file of code diffusers wants just one."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in the base class; pickled weights are not loaded unless `use_safetensors=False` is given, and a file
        that arrives corrupt from the Hub is an `OSError` and does not stay in the cache.

        Raises:
            `ValueError`: files of a model that lack weights, which were drawn at random.
        """
        kwargs.setdefault("use_safetensors", True)
        with checked_downloads(pretrained_model_name_or_path, kwargs):
            pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        for name in ("rqvae", "transformer"):
            if name not in kwargs and (component := getattr(pipe, name)) is not None:
                check_whole(component, getattr(component, "missing_weights", ()), pretrained_model_name_or_path)
        return pipe

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """As in the base class; where a repository brings code for those who have not this library, the library's own
        classes stand for it."""
        index = super()._dict_from_json_file(json_file)
        library = cls.__module__.split(".")[0]
        if library not in LOADABLE_CLASSES or "_class_name" not in index:  # this is the code that was brought along
            return index
        if isinstance(index["_class_name"], list):
            index["_class_name"] = index["_class_name"][-1]
        for component in ("rqvae", "transformer"):
            if component in index and hasattr(sys.modules[library], str(index[component][1])):
                index[component][0] = library
        return index

    @classmethod
    def download(cls, pretrained_model_name, **kwargs):
        """As in the base class, with the check of [`from_pretrained`]."""
        with checked_downloads(pretrained_model_name, kwargs):
            return super().download(pretrained_model_name, **kwargs)

    def save_pretrained(
        self,
        save_directory,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ):
        """As in the base class; `push_to_hub=True` shares the folder as [`~rq_hf.sharing.push_folder`] does, to
        `repo_id` or a repository of the folder's name.

        Raises:
            `ValueError`: a component with an adapter, of which the adapter alone would be written, or with sampling
                settings that cannot be saved.
        """
        for name in ("rqvae", "transformer"):
            component = getattr(self, name)
            component = getattr(component, "_orig_mod", component)  # of a compiled one
            if component is None:
                continue
            has_layers = any(hasattr(module, "base_layer") for module in component.modules())
            if has_layers or getattr(component, "_hf_peft_config_loaded", False):
                raise ValueError(
                    f"`{name}` must have no adapter to be saved in a pipeline, got one: load the pipeline anew and "
                    f"merge the adapter, `pipe.{name} = PeftModel.from_pretrained(pipe.{name}, ...)"
                    ".merge_and_unload()`, or share the adapter alone."
                )
            check_generation_config(component)
        pushes = push_to_hub and hasattr(self, "_push_saved")  # which code that a repository brings along lacks
        options = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs} if pushes else {}
        super().save_pretrained(
            save_directory, safe_serialization, variant, max_shard_size, push_to_hub and not pushes, **kwargs
        )
        if pushes:
            self._push_saved(save_directory, options)

    def _push_saved(self, folder, options) -> None:
        from .sharing import push_saved

        push_saved(self, folder, **options)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        *,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **options,
    ):
        """Uploads all components, and where the repository has no card yet a card, in one commit.

        Args:
            repo_id (`str`): repository, made if it is missing.
            commit_message (`str`, *optional*): of the commit.
            variant (`str`, *optional*): such as `"fp16"`, put into the names of the weights' files.
            max_shard_size (`int` or `str`, *optional*): of a file of weights.
            options: `private`, `revision`, `with_code` and others of [`~rq_hf.sharing.push_folder`].

        Returns:
            `huggingface_hub.CommitInfo`
        """
        from .sharing import save_and_push

        options["commit_message"] = commit_message
        return save_and_push(self, repo_id, variant=variant, max_shard_size=max_shard_size, **options)
