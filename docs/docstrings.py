# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Lets mkdocstrings show docstrings in the form of Hugging Face."""

import re

import griffe

ARGUMENT = re.compile(r"^( +[\w*, ]+) \((.+)\):", re.MULTILINE)  # "    depth (`int`, *optional*): ..."
REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?!\[|\()")  # "[`RQVAEModel`]"


class HuggingFaceForm(griffe.Extension):
    """Takes the Markdown out of types and the brackets from references."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if not obj.is_alias and obj.docstring:
            text = REFERENCE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = ARGUMENT.sub(lambda match: f"{match[1]} ({re.sub('[`*]', '', match[2])}):", text)
