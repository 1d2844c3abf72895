# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Lets mkdocstrings show docstrings in the form of Hugging Face."""

import ast
import re

import griffe

ARGUMENT = re.compile(r"^( +[\w*, ]+) \((.+)\):", re.MULTILINE)  # "    depth (`int`, *optional*): ..."
DEFAULT = re.compile(r"(, )?optional|, defaults to [^,]+$")  # the signature tells it
ERROR = re.compile(r"^( +)`(\w+)`:", re.MULTILINE)  # "    `ValueError`: ..."
REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?!\[|\()")  # "[`RQVAEModel`]"


def plain_type(argument: re.Match) -> str:
    """An argument whose type has no Markdown and no default."""
    name, kind = argument.groups()
    kind = DEFAULT.sub("", re.sub("[`*]", "", kind)).strip(", ")
    return f"{name} ({kind}):" if kind else f"{name}:"


class HuggingFaceForm(griffe.Extension):
    """Takes Markdown out of types, brackets from references, and the help of training arguments as their docstring."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.is_alias:
            return
        if obj.docstring:
            text = REFERENCE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = ERROR.sub(r"\1\2:", ARGUMENT.sub(plain_type, text))
        if obj.is_attribute and str(obj.value).startswith("HfArg("):
            options = {option.arg: option.value for option in ast.parse(str(obj.value)).body[0].value.keywords}
            obj.docstring = griffe.Docstring(ast.literal_eval(options["help"]), parent=obj)
            obj.value = ast.unparse(options["default"]) if "default" in options else None
