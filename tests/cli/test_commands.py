# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `rq-hf`: its dispatch, its errors, and the commands that draw."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import FIXTURE
from PIL import Image

from rq_hf import __version__
from rq_hf.cli import COMMANDS, main
from rq_hf.evaluation.reconstruction import coarse_to_fine_sheet
from rq_hf.images import decode_picture, image_grid


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def ends_with(capsys, code: int, *arguments: object) -> str:
    """The one line on stderr with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    is_text = isinstance(ended.value.code, str)  # which Python prints at the end, with exit code 1
    assert code == (1 if is_text else ended.value.code)
    lines = [ended.value.code] if is_text else capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in "".join(lines)
    return lines[-1]


@pytest.fixture
def pipeline_folder(make_pipeline, tmp_path) -> Path:
    make_pipeline("text").save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rq-hf {command} ")


def test_the_command_alone_names_its_commands(capsys):
    assert "COMMAND" in ends_with(capsys, 2)
    assert "'train-rqvae'" in ends_with(capsys, 2, "draw")
    with pytest.raises(SystemExit):
        run("--version")
    assert capsys.readouterr().out == f"rq_hf {__version__}\n"


def test_generate_writes_a_sheet_and_overwrites_none(pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run("generate", pipeline_folder, "a heart", "--num_images", 2, "--seed", 5, "a cat")
    printed = capsys.readouterr().out.split()
    assert printed == ["out/a-heart.png", "out/a-heart-1.png"]
    first, second = (Image.open(path) for path in printed)
    assert first.tobytes() == second.tobytes()
    assert first.width > 2 * 256 and first.height > 2 * 256


def test_generate_takes_class_ids_and_names(make_pipeline, tmp_path):
    pipe = make_pipeline("class")
    pipe.transformer.config.id2label[2] = "3"  # a name that looks like another id
    pipe.save_pretrained(tmp_path / "pipeline")
    labels, output = ["0", "goose", "3"], tmp_path / "sheet.png"
    run("generate", tmp_path / "pipeline", "--class_labels", *labels, "--num_images", 1, "--output", output)
    images = pipe(class_labels=[0, 1, 2], generator=[torch.Generator().manual_seed(seed) for seed in range(3)]).images
    assert Image.open(output).tobytes() == image_grid(images, labels, 1, tile_size=256).tobytes()


@pytest.mark.parametrize(
    "name, content",
    [
        ("rqvae/model.safetensors", b"x" * 99),
        ("rqvae/config.json", b"[]"),
        ("transformer/config.json", b'{"model_type": "rq_transformer", "num_attention_heads": 7}'),
        ("tokenizer/tokenizer.json", b"{"),
        ("tokenizer/tokenizer_config.json", b"{"),
        ("model_index.json", b"null"),
        (None, None),
    ],
)
def test_damaged_models_are_one_line_and_leave_nothing(pipeline_folder, tmp_path, monkeypatch, capsys, name, content):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    if name is None:
        pipeline_folder = tmp_path / "typo"
    else:
        (pipeline_folder / name).write_bytes(content)
    assert str(pipeline_folder) in ends_with(capsys, 1, "generate", pipeline_folder, "a heart")
    if name is None or name.startswith("rqvae"):
        picture = next(FIXTURE.rglob("*.png"))
        assert str(pipeline_folder) in ends_with(capsys, 1, "reconstruct", picture, "--model", pipeline_folder)
    assert not any(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "`prompt`"),
        (["a heart", "--output", "sheet.xyz"], "--output: must end in .png"),
        (["a heart", "--num_images", 10**9], "--num_images: must be an integer from 1 to 1000"),
        (["a heart", "--seed", 10**30], "--seed: must be an integer from 0 to"),
        (["a heart", "--device", "tpu"], "--device: 'tpu' cannot be used"),
        (["a heart", "--top_p", 2], "`top_p`"),
        (["a heart", "--ranker", "likelihood"], "`num_candidates`"),
    ],
)
def test_a_refused_option_leaves_nothing(pipeline_folder, tmp_path, monkeypatch, capsys, words, expected):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code = 2 if expected.startswith("--") else 1
    assert expected in ends_with(capsys, code, "generate", pipeline_folder, *words)
    assert not any(Path.cwd().iterdir())
    run("generate", pipeline_folder, "a heart", "--num_images", 1)
    assert [path.name for path in Path.cwd().rglob("*.png")] == ["a-heart.png"]


def test_a_full_disk_leaves_no_picture(pipeline_folder, tmp_path, capsys):
    output = tmp_path / "sheets" / "sheet.png"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # no file may be larger
    try:
        assert "File too large" in ends_with(capsys, 1, "generate", pipeline_folder, "a heart", "--output", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(output.parent.iterdir())


def test_reconstruct_shows_original_and_every_depth(make_pipeline, tmp_path, capsys):
    picture, pipe = next(FIXTURE.rglob("*.png")), make_pipeline()
    pipe.save_pretrained(tmp_path / "pipeline")
    pipe.rqvae.save_pretrained(tmp_path / "rqvae")
    square = decode_picture(picture).resize((16, 16), Image.Resampling.BICUBIC)
    expected = np.asarray(coarse_to_fine_sheet(pipe.rqvae, pipe.image_processor.preprocess(square)), int)
    for model in ("pipeline", "rqvae"):
        output = tmp_path / f"{model}.png"
        run("reconstruct", picture, "--model", tmp_path / model, "--output", output)
        assert np.abs(np.asarray(Image.open(output), int) - expected).max() <= 1
    (tmp_path / "broken.png").write_bytes(b"x" * 99)
    for name in ("broken.png", "typo.png"):
        assert name in ends_with(capsys, 1, "reconstruct", tmp_path / name, "--model", tmp_path / "rqvae")
