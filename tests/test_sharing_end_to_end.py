# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From training scripts over the Hub to other processes, one of them without this library; slow.

The second environment is a virtual one with diffusers, transformers, torch and what these require, and with nothing
else. Its packages are links to those of this environment: the same versions, hence the same pictures.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from packaging.requirements import Requirement
from test_readme import FENCE, README
from test_scripts import ENVIRONMENT, FIXTURE, SHORT, SMALL_RQVAE, run

from rq_hf.cards import code_section

PROMPT, SEED = "a red heart, twemoji style", 3
PIPELINE, RQVAE, TRANSFORMER = "me/pictures", "me/rqvae", "me/transformer"
WITH_CODE = "me/pictures-with-code"
# Each prints what it loaded, and writes the picture of one prompt and seed.
DRAW = f"""
import numpy, torch
pipe.set_progress_bar_config(disable=True)
picture = pipe({PROMPT!r}, generator=torch.Generator().manual_seed({SEED}), output_type="np").images[0]
numpy.save(output, picture)
print(type(pipe).__module__, type(pipe.rqvae).__module__, type(pipe.transformer).__module__)
"""
# A model is the pipeline's own, too: the pictures have to agree.
PARTS = f"""
from transformers import AutoModel
for repo_id, folder, name in (
    ({RQVAE!r}, "", "rqvae"), ({TRANSFORMER!r}, "", "transformer"), ({WITH_CODE!r}, "rqvae", "rqvae"),
    ({WITH_CODE!r}, "transformer", "transformer"),
):
    model = AutoModel.from_pretrained(repo_id, subfolder=folder, trust_remote_code=trust)
    own = getattr(pipe, name).state_dict()
    assert model.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items()), name
"""
WITH_THE_LIBRARY = "import sys; output = sys.argv[1]; trust = False\nimport rq_hf\n"
WITHOUT_THE_LIBRARY = """
import sys; output = sys.argv[1]; trust = True
import importlib.metadata, importlib.util
assert importlib.util.find_spec("rq_hf") is None, "rq_hf can be imported"
assert not [one for one in importlib.metadata.distributions() if one.name.replace("-", "_") == "rq_hf"]
"""


def requirements(*names: str) -> dict[str, importlib.metadata.Distribution]:
    """Distributions of this environment that these require, and theirs, without any extra."""
    found, waiting = {}, list(names)
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        if found.setdefault(distribution.name, distribution) is not distribution:
            continue
        for line in distribution.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def other_python(tmp_path_factory) -> Path:
    """The interpreter of a virtual environment without this library."""
    folder = tmp_path_factory.mktemp("other") / "environment"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    distributions = requirements("torch", "diffusers", "transformers")
    assert not {"rq_hf", "rq-hf", "datasets", "gradio"} & set(distributions)
    for distribution in distributions.values():
        for file in distribution.files:
            top = file.parts[0]
            source = Path(distribution.locate_file(top))
            if top not in ("..", "__pycache__") and source.exists() and not (site / top).is_symlink():
                (site / top).symlink_to(source)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the runs `rqvae` and `pictures`, pushed by the scripts that trained them."""
    from hub_server import HUB

    HUB.reset()
    folder = tmp_path_factory.mktemp("trained")
    run(
        "train_caption_tokenizer.py", "--dataset_name", FIXTURE, "--caption_column", "captions", "--vocab_size", 300,
        "--max_length", 8, "--output_dir", folder / "words", "--push_to_hub", "--hub_model_id", "me/words",
        folder=folder,
    )  # fmt: skip
    pushing = ["--push_to_hub", "true", "--hub_model_id"]
    run("train_rqvae.py", *SHORT, *SMALL_RQVAE, "--output_dir", folder / "rqvae", *pushing, RQVAE, folder=folder)
    small = ["--hidden_size", 32, "--num_attention_heads", 2, "--hub_private_repo", "true"]
    models = ["--rqvae_name_or_path", RQVAE, "--tokenizer_name_or_path", "me/words"]
    run(
        "train_rqt.py", *SHORT, *models, *small, "--output_dir", folder / "pictures", *pushing, PIPELINE, folder=folder
    )
    for name, repo_id in (("rqvae", RQVAE), ("pictures/transformer", TRANSFORMER), ("pictures", WITH_CODE)):
        run("push_to_hub.py", folder / name, "--repo_id", repo_id, "--with_code", folder=folder)
    return folder


def loaded_and_drawn(python: str | Path, program: str, folder: Path) -> tuple[np.ndarray, str]:
    """What a program that loads from the Hub draws and prints, in a new process with an empty cache."""
    from hub_server import HUB

    shutil.rmtree(HUB.cache, ignore_errors=True)
    folder.mkdir()
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(folder / "modules")  # transformers' and diffusers' copies of code
    finished = subprocess.run(
        [str(python), "-c", program, str(folder / "picture.npy")],
        cwd=folder, env=environment, text=True, capture_output=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert any(HUB.cache.rglob("*.safetensors"))
    return np.load(folder / "picture.npy"), finished.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def expected(trained, tmp_path_factory) -> np.ndarray:
    """What the pipeline in the folder of the training draws."""
    from rq_hf import RQImageGenerationPipeline

    pipe = RQImageGenerationPipeline.from_pretrained(trained / "pictures")
    variables = {"pipe": pipe, "output": tmp_path_factory.mktemp("expected") / "picture.npy"}
    exec(DRAW, variables)
    return variables["picture"]


@pytest.mark.slow
def test_what_the_scripts_trained_and_pushed_draws_the_same_in_a_new_process(trained, expected, tmp_path):
    from hub_server import HUB

    assert HUB.repository(PIPELINE).private and not HUB.repository(RQVAE).private
    assert "model-index" in (trained / "pictures" / "README.md").read_text()
    for repo_id in (PIPELINE, WITH_CODE, RQVAE, TRANSFORMER, "me/words"):
        assert {Path(path).suffix for path in HUB.files(repo_id)} <= {".json", ".safetensors", ".md", ".png", ".py"}
        assert ModelCard.load(repo_id).data.library_name
    loads = {
        "own": f"from rq_hf import RQImageGenerationPipeline as Own\npipe = Own.from_pretrained({PIPELINE!r})",
        "with code": f"from rq_hf import RQImageGenerationPipeline as Own\npipe = Own.from_pretrained({WITH_CODE!r})",
        "base": f"from diffusers import DiffusionPipeline\npipe = DiffusionPipeline.from_pretrained({PIPELINE!r})",
    }
    for name, load in loads.items():
        program = WITH_THE_LIBRARY + load + DRAW + PARTS
        picture, modules = loaded_and_drawn(sys.executable, program, tmp_path / name)
        assert np.array_equal(picture, expected)
        assert modules.split() and all(module.startswith("rq_hf.") for module in modules.split())


@pytest.mark.slow
def test_an_environment_without_the_library_draws_the_same(other_python, trained, expected, tmp_path):
    (_, card_call) = code_section("pipeline", WITH_CODE).split("```python\n")
    (readme_call,) = [text for _, language, text in FENCE.findall(README) if "trust_remote_code=True" in text]
    assert "you/your-model" in readme_call
    loads = {
        "README": readme_call.replace("you/your-model", WITH_CODE),
        "card": card_call.split("```")[0],
        "custom pipeline": (
            "from diffusers import DiffusionPipeline\n"
            f"pipe = DiffusionPipeline.from_pretrained({WITH_CODE!r}, custom_pipeline={WITH_CODE!r}, "
            "trust_remote_code=True)"
        ),
    }
    again = f"\npipe = type(pipe).from_pretrained({WITH_CODE!r}, trust_remote_code=True)"
    loads["its class"] = loads["custom pipeline"] + again
    for name, load in loads.items():
        program = WITHOUT_THE_LIBRARY + load + DRAW + PARTS
        picture, modules = loaded_and_drawn(other_python, program, tmp_path / name)
        assert np.array_equal(picture, expected)
        assert not any(module.startswith("rq_hf") for module in modules.split())
        # Nothing of the other environment's was taken from here.
        assert str(other_python.parents[1]) in subprocess.check_output(
            [str(other_python), "-c", "import diffusers; print(diffusers.__file__)"], text=True, cwd=tmp_path
        )


@pytest.mark.slow
def test_an_environment_without_the_library_runs_no_code_that_it_does_not_trust(other_python, trained, tmp_path):
    for options in ("", ", trust_remote_code=False"):
        for loader in (
            f"from diffusers import DiffusionPipeline as Loader\nrepo_id = {WITH_CODE!r}",
            f"from transformers import AutoModel as Loader\nrepo_id = {RQVAE!r}",
        ):
            finished = subprocess.run(
                [str(other_python), "-c", f"{loader}\nLoader.from_pretrained(repo_id{options})"],
                cwd=tmp_path, env=dict(os.environ) | {"HF_MODULES_CACHE": str(tmp_path / "modules")}, text=True,
                capture_output=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert finished.returncode != 0 and "trust_remote_code" in finished.stderr, finished.stderr[-2000:]
    assert list((tmp_path / "modules").rglob("pipeline.py")) == []
