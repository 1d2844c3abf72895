# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""transformers' own model tests pass on all models.

Only the source distribution of transformers holds its tests. pip downloads it for the installed version, and the two
files are kept under `~/.cache/rq_hf` (or `$XDG_CACHE_HOME/rq_hf`).
"""

import fnmatch
import importlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
import warnings
from pathlib import Path

import pytest
import torch
import transformers

from rq_hf import (
    ContextualRQTransformerForImageGeneration,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
)

PACKAGE = "transformers_tests"
FILES = ("test_modeling_common.py", "test_configuration_common.py")
# Tests that pass with transformers 5.24, less a few that other versions may lack.
LEAST_PASSED = {RQVAEModel: 62, RQTransformerForImageGeneration: 93}
# Tests that do not fit our models, by name or pattern. test_modeling_*.py tests the same claims.
RANDOM_CODEBOOK = "wants equal buffers from two seeds, but code vectors are random at first"
OWN_CHECKPOINTING = "looks for transformers' checkpointing layer, but the towers are diffusers', which has its own"
SKIPS = {
    RQVAEModel: {
        "test_gradient_checkpointing_enable_disable": OWN_CHECKPOINTING,
        "test_init_weights_can_init_buffers": RANDOM_CODEBOOK,
        "test_model_get_set_embeddings": "wants an `nn.Embedding` of tokens, but the input is pixels",
        "test_training_gradient_checkpointing*": OWN_CHECKPOINTING,
    },
    RQTransformerForImageGeneration: {
        "test_init_weights_can_init_buffers": RANDOM_CODEBOOK,
        "test_model_base_model_prefix": "wants a base model under a head, but the model is one whole",
    },
}
SKIPS[ContextualRQTransformerForImageGeneration] = SKIPS[RQTransformerForImageGeneration]
LEAST_PASSED[ContextualRQTransformerForImageGeneration] = LEAST_PASSED[RQTransformerForImageGeneration]
# A value other than the default for each attribute that every configuration has.
COMMON_CONFIG_VALUES = {
    "architectures": ["SomeModel"], "chunk_size_feed_forward": 2, "dtype": "float16", "id2label": {0: "only"},
    "label2id": {"only": 0}, "output_attentions": True, "output_hidden_states": True, "problem_type": "regression",
    "return_dict": False,
}  # fmt: skip


def fetch_tests() -> Path:
    """The folder that holds transformers' test files as a package, downloaded once."""
    version = transformers.__version__
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rq_hf"
    folder = root / f"transformers-{version}"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--dest", temporary]
        options = "--no-deps --no-binary transformers --quiet --no-input --retries 1 --timeout 20".split()
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        archives = list(Path(temporary).glob("*.tar.gz"))
        if done.returncode or not archives:
            pytest.fail(f"pip could not fetch transformers {version}, needed once: {done.stderr}", pytrace=False)
        package = Path(temporary) / "unpacked" / PACKAGE
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        with tarfile.open(archives[0]) as archive:
            for name in FILES:
                (package / name).write_bytes(archive.extractfile(f"transformers-{version}/tests/{name}").read())
        package.parent.rename(folder)
    return folder


def import_tests(folder: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """Imports their two modules. Stand-ins replace imports of test files that the source distribution lacks."""
    os.environ.setdefault("TRANSFORMERS_TEST_DEVICE", "cpu")  # their helpers read it at import
    sys.path.insert(0, str(folder))
    stand_ins = {
        "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "utils.test_configuration_utils": {"config_common_kwargs": COMMON_CONFIG_VALUES},
    }
    for name, contents in stand_ins.items():
        module = types.ModuleType(f"{PACKAGE}.{name}")
        module.__dict__.update(contents)
        sys.modules[module.__name__] = module
    return tuple(importlib.import_module(f"{PACKAGE}.{Path(name).stem}") for name in FILES)


class RQVAETester:
    """Config and inputs of a tiny RQ-VAE, with the names that their tests use."""

    is_training = True
    batch_size = 4
    seq_length = hidden_size = 16  # height and width of the first feature map
    num_hidden_layers = 2
    expected_num_hidden_layers = 4  # after the first convolution, both levels and the middle block
    common_properties = []
    config_values = {
        "image_size": 16, "base_channels": 8, "channel_multiplier": [1, 2], "num_res_blocks": 1,
        "attention_levels": [1], "latent_channels": 16, "norm_num_groups": 4, "codebook_size": 16, "codebook_dim": 8,
        "code_depth": 3,
    }  # fmt: skip

    def get_config(self) -> RQVAEConfig:
        return RQVAEConfig(**self.config_values)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, 16, 16) * 2 - 1}


class RQTransformerTester:
    """Config and inputs of a tiny RQ-Transformer with captions, with the names that their tests use."""

    is_training = True
    batch_size = 4
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    common_properties = ["hidden_size", "num_attention_heads", "vocab_size"]
    config_values = {
        "vocab_size": 40, "condition_length": 7, "code_shape": [2, 3, 4], "codebook_size": 32, "codebook_dim": 8,
        "hidden_size": 32, "num_spatial_layers": 2, "num_depth_layers": 2, "num_attention_heads": 4,
    }  # fmt: skip

    def __init__(self, model_class: type):
        self.config_class = model_class.config_class
        self.seq_length = 12 if model_class.is_causal else 13  # condition and positions, without the last if causal

    def get_config(self) -> RQTransformerConfig:
        return self.config_class(**self.config_values)

    def prepare_config_and_inputs_for_common(self):
        input_ids = torch.randint(40, (self.batch_size, 7))
        return self.get_config(), {"input_ids": input_ids, "codes": torch.randint(32, (self.batch_size, 2, 3, 4))}


TRANSFORMERS = (RQTransformerForImageGeneration, ContextualRQTransformerForImageGeneration)
TESTERS = {RQVAEModel: RQVAETester(), **{each: RQTransformerTester(each) for each in TRANSFORMERS}}


def build_test_case(model_class: type, modeling_tests, configuration_tests) -> type[unittest.TestCase]:
    """All tests of `ModelTesterMixin` and `ConfigTester` for one of our models."""
    tester = TESTERS[model_class]

    class ModelTest(modeling_tests.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (model_class,)
        # Their generation tests, which the source distribution lacks, are about rows of tokens, not code maps.
        all_generative_model_classes = ()
        has_attentions = test_resize_embeddings = model_class in TRANSFORMERS

        def setUp(self):
            self.model_tester = tester

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            if model_class in TRANSFORMERS:  # a test of attention gives `input_ids` alone
                inputs.setdefault("codes", torch.randint(32, (len(inputs["input_ids"]), 2, 3, 4)))
                inputs |= {"labels": inputs["codes"]} if return_labels else {}
            return inputs

        def test_config(self):
            common = {"has_text_modality": False, "common_properties": tester.common_properties}
            configuration_tests.ConfigTester(
                self, config_class=model_class.config_class, **common, **tester.config_values
            ).run_common_tests()

    for pattern, reason in SKIPS[model_class].items():
        for name in fnmatch.filter(dir(ModelTest), pattern):
            setattr(ModelTest, name, unittest.skip(reason)(lambda self: None))
    return ModelTest


@pytest.mark.slow  # downloads from the package registry
@pytest.mark.parametrize("model_class", TESTERS, ids=lambda model_class: model_class.__name__)
def test_transformers_own_tests_pass(model_class, pytestconfig):
    folder = fetch_tests()
    for marker in re.findall(r"mark\.(\w+)", "".join(path.read_text() for path in folder.glob("*/test_*.py"))):
        pytestconfig.addinivalue_line("markers", marker)
    test_case = build_test_case(model_class, *import_tests(folder))
    suite, result = unittest.defaultTestLoader.loadTestsFromTestCase(test_case), unittest.TestResult()
    result.buffer = True
    with warnings.catch_warnings(action="ignore"):
        suite.run(result)
    failed = "\n".join(f"{test.id()}: {text}" for test, text in result.errors + result.failures)
    assert not failed, failed
    assert result.testsRun - len(result.skipped) >= LEAST_PASSED[model_class]
