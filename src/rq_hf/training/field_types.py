# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Types of arguments: the command line converts and checks its texts, a configuration or a caller's values nobody."""

import inspect
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np

# By the type of a field: what its values are, and what an error calls them.
TAKEN = {
    bool: ((bool, np.bool_), "True or False"),
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    str: (str, "text"),
}


def check_field_types(arguments: Any, base: type | None = None) -> None:
    """Refuses values of another type than their field has, defaults excepted; lists and types of other libraries are
    not looked at.

    Args:
        arguments: of a dataclass.
        base (`type`, *optional*): a dataclass whose fields are left to it.

    Raises:
        `ValueError`: naming the field.
    """
    inherited = {each.name for each in fields(base)} if base is not None else set()
    annotations: dict[str, Any] = {}  # `HfArgumentParser` changes the types of the fields themselves
    for one in reversed(type(arguments).__mro__):
        annotations |= inspect.get_annotations(one)
    for each in fields(arguments):
        annotation, value = annotations[each.name], getattr(arguments, each.name)
        alternatives = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        types = [one for one in alternatives if one is not NoneType]
        if each.name in inherited or not all(one in TAKEN for one in types):
            continue
        if value is each.default or (value is None and NoneType in alternatives):
            continue
        is_taken = any(isinstance(value, TAKEN[one][0]) for one in types)
        if not is_taken or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(TAKEN[one][1] for one in types)
            raise ValueError(f"`{each.name}` must be {expected}, got {value!r}.")
