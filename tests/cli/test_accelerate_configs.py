# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The files of docs/accelerate for `accelerate launch --config_file`."""

from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from rq_hf import RQTransformerForImageGeneration

YAMLS = sorted((Path(__file__).parents[2] / "docs" / "accelerate").glob("*.yaml"))


def test_each_file_launches_its_strategy():
    assert [path.stem for path in YAMLS] == ["ddp", "deepspeed-zero3", "fsdp2"]
    parse = launch_command_parser().parse_args
    parsed = [parse(["--config_file", str(path), "train.py"]) for path in YAMLS]
    ddp, zero3, fsdp2 = (_validate_launch_command(arguments)[0] for arguments in parsed)
    assert ddp.multi_gpu and not ddp.use_fsdp and not ddp.use_deepspeed
    assert zero3.use_deepspeed and str(zero3.zero_stage) == "3"
    assert fsdp2.use_fsdp and str(fsdp2.fsdp_version) == "2"
    assert {arguments.mixed_precision for arguments in (ddp, zero3, fsdp2)} == {"bf16"}
    wrapped = fsdp2.fsdp_transformer_layer_cls_to_wrap.split(",")
    assert set(wrapped) == set(RQTransformerForImageGeneration._no_split_modules)
