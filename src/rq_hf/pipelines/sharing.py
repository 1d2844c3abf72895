# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pushes a pipeline, and loads repositories with code. Bundled code has `hub/bundled_sharing.py` instead."""

import tempfile
from typing import Any

from huggingface_hub import CommitInfo


class SharingMixin:
    """Pushes a pipeline. Loads the installed classes even from a repository with code."""

    def push_to_hub(self, repo_id: str, token: str | bool | None = None, **kwargs: Any) -> CommitInfo:
        """Uploads all components in one commit to a repository, which is made if it is missing.

        The repository keeps its card, without the figures of its older weights, or gets a new one. To push a folder
        with the card in it, call [`~rq_hf.hub.push_folder`], which also has the options: `private`, `license`...
        """
        from ..hub import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, token=token, **kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file, **kwargs):
        # A repository with code names its own modules in model_index.json, for which diffusers asks for
        # `trust_remote_code`. This puts the installed classes in their place. diffusers has no public hook here:
        # `download` and `from_pretrained` both read the file by this method.
        index = super()._dict_from_json_file(json_file, **kwargs)
        if isinstance(index.get("_class_name"), list):  # ["pipeline", "RQImageGenerationPipeline"]
            index["_class_name"] = index["_class_name"][1]
            for component in ("rqvae", "transformer"):
                index[component] = ["rq_hf", index[component][1]]
        return index
