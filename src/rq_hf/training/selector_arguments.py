# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training arguments of what selects or judges pictures, classifiers and rankers."""

from dataclasses import dataclass, field

from .data import DataArguments
from .trainer import RQTrainingArguments


def check_data(data: DataArguments, column: str) -> None:
    """Refuses data of which not all captions or labels can be read first.

    Args:
        data ([`DataArguments`]): of the command line.
        column (`str`): the argument that names their column.

    Raises:
        `ValueError`: no column, or a stream.
    """
    if getattr(data, column) is None:
        raise ValueError(f"`{column}` must be given, got None.")
    if data.streaming:
        raise ValueError(f"`streaming` must be false here, got true: all of `{column}` is read first.")


@dataclass
class SelectorTrainingArguments(RQTrainingArguments):
    """[`RQTrainingArguments`] for new models that stay on the disk."""

    ddp_broadcast_buffers: bool | None = field(
        default=True, metadata={"help": "Batch normalization has the statistics of the first process everywhere."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.model_name_or_path is not None:
            raise ValueError(
                f"`model_name_or_path` must be None, got {self.model_name_or_path!r}: these models are trained anew."
            )
        if self.push_to_hub:
            raise ValueError(
                "`push_to_hub` must be False, got True: push these models by their own `push_to_hub`, as any of "
                "transformers."
            )
