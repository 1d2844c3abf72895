# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The command `rq-hf`: its dispatch, its errors, and the commands that draw."""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import seeded
from huggingface_hub import get_session
from picture_files import FIXTURE
from PIL import Image
from transformers import BertConfig, BertForMaskedLM

from rq_hf import RQImageGenerationPipeline, __version__
from rq_hf.cli import in_one_line, main
from rq_hf.evaluation.reconstruction import coarse_to_fine_sheet
from rq_hf.images import decode_image, image_grid


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


def test_the_command_alone_names_its_commands_and_tells_versions_and_device(capsys):
    assert "COMMAND" in ends_with(capsys, 2)
    assert "'train-rqvae'" in ends_with(capsys, 2, "draw")
    with pytest.raises(SystemExit):
        run("--version")
    assert capsys.readouterr().out == f"rq_hf {__version__}\n"
    run("env")
    told = dict(line.removeprefix("- ").split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert told["rq_hf"] == __version__ and told["torch"] == torch.__version__ and told["device"]


def test_every_error_is_one_line_and_a_traceback_comes_with_debug_only(tmp_path, capsys):
    assert ends_with(capsys, 1, "push", tmp_path, "--repo_id", "me/x").startswith("error: `folder` must hold ")
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(SystemExit, match="error: `folder` must hold "):
        run("--debug", "push", tmp_path, "--repo_id", "me/x")
    assert capsys.readouterr().err.startswith("Traceback")
    assert in_one_line(TypeError("a\nb")) == "TypeError: a b; `rq-hf --debug COMMAND` shows its traceback"
    of_a_worker = "Caught ReadError in worker process 0.\nOriginal Traceback:\n  File a.py\nReadError: bad header\n"
    assert in_one_line(OSError(of_a_worker)) == "ReadError: bad header"
    with pytest.raises(Exception) as unreachable:
        get_session().get("http://127.0.0.1:9")
    assert in_one_line(unreachable.value).startswith("the Hub cannot be reached, check the network: [Errno")


def test_a_missing_module_is_named_with_its_extra(monkeypatch, capsys):
    for command, *words in (["train-tokenizer", "--dataset_name", "mine"], ["train-rqt"]):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "datasets", None)
            importers = ("rq_hf.cli.train_rqt", "rq_hf.cli.parsing", "rq_hf.training")
            for name in [name for name in sys.modules if name.startswith(importers)]:
                patch.delitem(sys.modules, name)
            expected = '; in a clone of rq_hf it comes with `pip install ".[train]"`'
            assert expected in ends_with(capsys, 1, command, *words)


def test_generate_writes_a_sheet_and_overwrites_none(pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run("generate", pipeline_folder, "a heart", "--num_images", 2, "--seed", 5, "a cat")
    printed = capsys.readouterr().out.split()
    assert printed == ["out/a-heart.png", "out/a-heart-1.png"]
    first, second = (Image.open(path) for path in printed)
    assert first.tobytes() == second.tobytes()
    assert first.width > 2 * 256 and first.height > 2 * 256


def test_generate_takes_class_ids_and_names_and_the_passes_of_a_contextual_transformer(make_pipeline, tmp_path):
    pipe = make_pipeline("class", contextual=True)
    pipe.transformer.config.id2label[2] = "3"  # a name that looks like another id
    pipe.save_pretrained(tmp_path / "pipeline")
    labels = ["0", "goose", "3"]
    flags = ["--num_draft_steps", 3, "--num_revise_rounds", 0, "--num_images", 1]
    run("generate", tmp_path / "pipeline", "--class_labels", *labels, *flags, "--output", tmp_path / "sheet.png")
    options = {"generator": seeded(0, 1, 2), "num_draft_steps": 3, "num_revise_rounds": 0}
    images = pipe(class_labels=[0, 1, 2], **options).images
    assert Image.open(tmp_path / "sheet.png").tobytes() == image_grid(images, labels, 1, tile_size=256).tobytes()


def test_generate_draws_the_white_part_of_a_mask_anew_and_keeps_all_other_pixels(pipeline_folder, tmp_path, capsys):
    picture, mask = Image.effect_noise((30, 20), 90).convert("RGB"), Image.new("L", (30, 20))
    mask.paste(255, (8, 4, 20, 15))
    picture.save(tmp_path / "picture.png")
    mask.save(tmp_path / "mask.png")
    words = ["generate", pipeline_folder, "a heart", "--image", tmp_path / "picture.png", "--num_images", 2]
    run(*words, "--mask_image", tmp_path / "mask.png", "--output", tmp_path / "new.png")
    paths = capsys.readouterr().out.split()
    assert [Path(path).name for path in paths] == ["new.png", "new-1.png"]
    for path in paths:
        is_changed = (np.asarray(Image.open(path)) != np.asarray(picture)).any(-1)
        assert is_changed.any() and not is_changed[np.asarray(mask) == 0].any()
    assert "`--image` and `--mask_image` go together" in ends_with(capsys, 1, *words)


def test_generate_tells_what_a_prompt_was_read_as_unless_told_not_to_rewrite(make_pipeline, tmp_path, capsys, caplog):
    pipe = make_pipeline("text")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    rewriter = BertForMaskedLM(BertConfig(vocab_size=pipe.transformer.config.vocab_size, **sizes)).eval()
    pipe = RQImageGenerationPipeline(**pipe.components | {"prompt_rewriter": rewriter})
    pipe.save_pretrained(tmp_path / "pipeline")
    words = ["generate", tmp_path / "pipeline", "a heart", "--num_images", 1, "--output", tmp_path / "new.png"]
    run(*words)
    told = f"'a heart' is read as {pipe.rewrite('a heart')!r}\n"
    assert told in capsys.readouterr().err
    run(*words, "--no_rewrite")
    assert "is read as" not in capsys.readouterr().err and "was cut" not in caplog.text
    run(*words, "a red heart, twemoji style of cheese")
    assert caplog.text.count("The prompt was cut to 6 tokens") == 1


def test_refused_models_and_options_are_one_line_and_leave_nothing(pipeline_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    picture = next(FIXTURE.rglob("*.png"))
    assert str(tmp_path / "typo") in ends_with(capsys, 1, "generate", tmp_path / "typo", "a heart")
    assert str(tmp_path / "typo") in ends_with(capsys, 1, "reconstruct", tmp_path / "typo", picture)
    options = {
        "`prompt`": [],
        "--output: must end in .png": ["a heart", "--output", "sheet.xyz"],
        "--num_images: must be an integer from 1 to 1000": ["a heart", "--num_images", 10**9],
        "`rq-hf --debug COMMAND` shows its traceback": ["a heart", "--device", "meta"],
        "`top_p`": ["a heart", "--top_p", 2],
    }
    for expected, words in options.items():
        code = 2 if expected.startswith("--") else 1
        assert expected in ends_with(capsys, code, "generate", pipeline_folder, *words)
    for name in ("tokenizer/tokenizer.json", "rqvae/model.safetensors"):
        (pipeline_folder / name).write_bytes(b"{")
        assert ends_with(capsys, 1, "generate", pipeline_folder, "a heart")
    assert ends_with(capsys, 1, "reconstruct", pipeline_folder, picture)
    assert not any(Path.cwd().iterdir())


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may have more than 100 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_neither_a_picture_nor_a_tokenizer(pipeline_folder, data, tmp_path, capsys):
    train = ["train-tokenizer", "--dataset_name", data, "--caption_column", "txt", "--output_dir"]
    run(*train, tmp_path / "first")  # `datasets` writes to its cache
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    (tmp_path / "old.png").write_text("kept")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    draw = ["generate", pipeline_folder, "a heart", "--output"]
    for command in ([*draw, tmp_path / "new" / "a.png"], [*draw, tmp_path / "old.png"], [*train, tmp_path / "empty"]):
        with full_disk():
            assert "File too large" in ends_with(capsys, 1, *command)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "old.png").read_text() == "kept"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_ends_in_one_line_and_leaves_nothing(pipeline_folder, tmp_path, capsys, number, status):
    def interrupt_writing() -> None:
        while not any(tmp_path.glob(".unfinished-*/*.png")):
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    before, handler = sorted(tmp_path.rglob("*")), signal.getsignal(signal.SIGTERM)
    threading.Thread(target=interrupt_writing).start()
    output = ["--output", tmp_path / "sheet.png", "--num_images", 400]  # it takes a while to compress them
    assert ends_with(capsys, status, "generate", pipeline_folder, "a heart", *output) == "error: interrupted"
    assert sorted(tmp_path.rglob("*")) == before and signal.getsignal(signal.SIGTERM) == handler


def test_a_folder_to_write_must_be_new_or_empty(tmp_path, monkeypatch, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder/file"):
        (tmp_path / name).write_text("kept")
    monkeypatch.chdir(tmp_path)
    for output in ("file", "folder", ""):
        for words in ("train-tokenizer --dataset_name x --output_dir", "convert --checkpoint x --output"):
            assert "must be a new or empty folder, got" in ends_with(capsys, 1, *words.split(), output)
    assert len(list(tmp_path.rglob("*"))) == 3 and (tmp_path / "file").read_text() == "kept"


def test_reconstruct_shows_original_and_every_depth(make_pipeline, tmp_path, capsys):
    picture, pipe = next(FIXTURE.rglob("*.png")), make_pipeline()
    pipe.save_pretrained(tmp_path / "pipeline")
    pipe.rqvae.save_pretrained(tmp_path / "rqvae")
    square = decode_image(picture).resize((16, 16), Image.Resampling.BICUBIC)
    expected = np.asarray(coarse_to_fine_sheet(pipe.rqvae, pipe.image_processor.preprocess(square)), int)
    for model in ("pipeline", "rqvae"):
        output = tmp_path / f"{model}.png"
        run("reconstruct", tmp_path / model, picture, "--output", output)
        assert np.abs(np.asarray(Image.open(output), int) - expected).max() <= 1
    (tmp_path / "broken.png").write_bytes(b"x" * 99)
    for name in ("broken.png", "typo.png"):
        assert name in ends_with(capsys, 1, "reconstruct", tmp_path / "rqvae", tmp_path / name)
