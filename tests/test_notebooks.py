# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The notebooks run from top to bottom."""

import base64
import io
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from huggingface_hub import ModelCard
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_quickstart_draws_paints_fine_tunes_and_pushes_where_asked(hub, monkeypatch, tmp_path):
    for name, value in hub.environment.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    notebook = nbformat.read(tmp_path / "notebooks" / "quickstart.ipynb", as_version=4)
    notebook.cells[-1].source = notebook.cells[-1].source.replace('repository = ""', 'repository = "my-emoji"')
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path / "notebooks"}}).execute()
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [data["image/png"] for data in outputs if "image/png" in data]
    assert len(pictures) == 6
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(pictures[-1]))).convert("RGB"))
    colorful = sheet[sheet.max(-1) - sheet.min(-1) > 100]
    assert set(colorful.argmax(-1)) == {0, 1, 2}  # the fine-tuned model draws red, green and blue shapes
    (repo_id,) = hub.repositories
    assert "pipeline.py" in hub.files(repo_id)
    card = ModelCard.load(repo_id)
    assert (
        "PSNR" not in card.text and card.data.eval_results is None
    )  # figures of the demo are not those of this model
