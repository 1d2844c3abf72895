# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Runs transformers' own model tests on `RQVAEModel` and `RQTransformerForImageGeneration`.

Their test classes are not in the wheel of transformers but in its source distribution, which pip fetches for exactly
the installed version. The two files used are kept under `~/.cache/rq_hf` (or `$XDG_CACHE_HOME/rq_hf`), so only the
first run needs the package registry.

    python tests/transformers_suite.py report.json

It prints the failures and each reason to skip, and writes the outcome of each test as JSON.
"""

import fnmatch
import importlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
import warnings
from collections import Counter, defaultdict
from pathlib import Path

if __name__ == "__main__":  # both are read when transformers is imported: no test goes to the Hub or looks for a GPU
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_TEST_DEVICE", "cpu")

import torch
import transformers

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel

PACKAGE = "transformers_tests"
FILES = ("test_modeling_common.py", "test_configuration_common.py")

# Tests that assume what is not so for our models, by name or pattern. What they would show all the same is tested in
# test_modeling_*.py.
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

# A value other than the default for each attribute that every configuration has.
COMMON_CONFIG_VALUES = {
    "architectures": ["SomeModel"],
    "chunk_size_feed_forward": 2,
    "dtype": "float16",
    "id2label": {0: "only"},
    "label2id": {"only": 0},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}


def fetch_tests() -> Path:
    """Folder that holds transformers' test files as the package `transformers_tests`, fetched if it is not there yet;
    leaves the process where pip cannot fetch them."""
    version = transformers.__version__
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rq_hf"
    folder = root / f"transformers-{version}"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--dest", temporary]
        source_only = ["--no-deps", "--no-binary", "transformers"]
        quickly = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
        done = subprocess.run([*command, *source_only, *quickly], capture_output=True, text=True)
        archives = list(Path(temporary).glob("*.tar.gz"))
        if done.returncode or not archives:
            sys.exit(
                f"transformers' model tests need the source distribution of transformers {version} from the package "
                f"registry (only once: it is then kept in {folder}), and pip could not fetch it:\n"
                f"{(done.stderr or done.stdout).strip()}"
            )
        package = Path(temporary) / "unpacked" / PACKAGE
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        with tarfile.open(archives[0]) as archive:
            for name in FILES:
                (package / name).write_bytes(archive.extractfile(f"transformers-{version}/tests/{name}").read())
        try:
            package.parent.rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    return folder


def import_tests(folder: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """Their two modules; what they import from test files that the source distribution lacks is put in its place."""
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
    """Config and inputs of a tiny RQ-VAE, under the names by which their tests ask for them."""

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
    """Config and inputs of a tiny RQ-Transformer with captions, under the names by which their tests ask for them."""

    is_training = True
    batch_size = 4
    seq_length = 12  # condition and positions without the last
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    common_properties = ["hidden_size", "num_attention_heads", "vocab_size"]
    config_values = {
        "vocab_size": 40,
        "condition_length": 7,
        "code_shape": [2, 3, 4],
        "codebook_size": 32,
        "codebook_dim": 8,
        "hidden_size": 32,
        "num_spatial_layers": 2,
        "num_depth_layers": 2,
        "num_attention_heads": 4,
    }

    def get_config(self) -> RQTransformerConfig:
        return RQTransformerConfig(**self.config_values)

    def prepare_config_and_inputs_for_common(self):
        input_ids = torch.randint(40, (self.batch_size, 7))
        return self.get_config(), {"input_ids": input_ids, "codes": torch.randint(32, (self.batch_size, 2, 3, 4))}


TESTERS = {RQVAEModel: RQVAETester(), RQTransformerForImageGeneration: RQTransformerTester()}


def build_test_case(model_class: type, tester, modeling_tests, configuration_tests) -> type[unittest.TestCase]:
    """All tests of `ModelTesterMixin` and `ConfigTester` for one of our models."""

    class ModelTest(modeling_tests.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (model_class,)
        # Their generation tests, which the source distribution lacks, are about rows of tokens, not code maps.
        all_generative_model_classes = ()
        has_attentions = model_class is RQTransformerForImageGeneration
        test_resize_embeddings = model_class is RQTransformerForImageGeneration

        def setUp(self):
            self.model_tester = tester

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            if model_class is RQTransformerForImageGeneration:  # a test of attention gives `input_ids` alone
                inputs.setdefault("codes", torch.randint(32, (len(inputs["input_ids"]), 2, 3, 4)))
                inputs |= {"labels": inputs["codes"]} if return_labels else {}
            return inputs

        def test_config(self):
            configuration_tests.ConfigTester(
                self,
                config_class=model_class.config_class,
                has_text_modality=False,
                common_properties=tester.common_properties,
                **tester.config_values,
            ).run_common_tests()

    ModelTest.__name__ = ModelTest.__qualname__ = f"{model_class.__name__}Test"
    for pattern, reason in SKIPS[model_class].items():
        for name in fnmatch.filter(dir(ModelTest), pattern):
            setattr(ModelTest, name, unittest.skip(reason)(lambda self: None))
    return ModelTest


def run_tests(test_case: type[unittest.TestCase]) -> dict[str, str]:
    """Outcome of each test: "passed", "failed: <traceback>" or "skipped: <reason>"."""
    suite, result = unittest.defaultTestLoader.loadTestsFromTestCase(test_case), unittest.TestResult()
    names = [name_of(test) for test in suite]
    result.buffer = True
    with warnings.catch_warnings(action="ignore"):
        suite.run(result)
    skipped = {name_of(test): f"skipped: {reason}" for test, reason in result.skipped}
    failed = {name_of(test): f"failed: {text}" for test, text in result.errors + result.failures}
    return dict.fromkeys(names, "passed") | skipped | failed


def name_of(test: unittest.TestCase) -> str:
    return getattr(test, "test_case", test).id().rsplit(".", 1)[-1]  # a subtest counts for its test


def summary(outcomes: dict[str, dict[str, str]]) -> str:
    """Counts, failures and, reason by reason, skips of each model."""
    lines = []
    for model, tests in outcomes.items():
        counts = Counter(outcome.split(":")[0] for outcome in tests.values())
        lines.append(f"{model}: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped")))
        lines += [f"{name} {outcome}" for name, outcome in tests.items() if outcome.startswith("failed")]
        skipped = defaultdict(list)
        for name, outcome in tests.items():
            if outcome.startswith("skipped"):
                skipped[outcome.removeprefix("skipped: ")].append(name)
        for reason, names in skipped.items():
            shown = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]
            lines.append(f"  skipped {', '.join(shown)}: {reason}")
    return "\n".join(lines)


def main(report: str) -> None:
    transformers.logging.disable_progress_bar()
    transformers.logging.disable_default_handler()  # the tests that read warnings bring their own handler
    modules = import_tests(fetch_tests())
    outcomes = {
        model_class.__name__: run_tests(build_test_case(model_class, tester, *modules))
        for model_class, tester in TESTERS.items()
    }
    Path(report).write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
    print(summary(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
