# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Official checkpoints that cannot be converted: each is refused by name, and nothing half written is left."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from official_fixture import changed, configs, state_dicts, write_archive, write_checkpoint, write_stage

from rq_hf import RQTransformerConfig
from rq_hf.conversion import convert_checkpoint

SCRIPT = Path(__file__).parents[1] / "scripts" / "convert_original_checkpoint.py"
# Transformers that differ from the RQ-VAE beside them in one thing.
MISFITS = {
    "code_shape": {"arch.block_size": [4, 4, 3]},
    "codebook_size": {"dataset.vocab_size": 63},
    "codebook_dim": {"arch.input_embed_dim": 15},
}


@pytest.fixture
def broken(tmp_path) -> Path:
    """A checkpoint for a test to spoil."""
    return write_checkpoint(tmp_path / "source" / "church", "church")


def assert_refused(checkpoint: Path, output: Path, message: str, **arguments) -> None:
    """The conversion fails with this message and leaves nothing beside `output`."""
    output.parent.mkdir(exist_ok=True)
    before = set(output.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(checkpoint, output, **arguments)
    assert set(output.parent.iterdir()) == before


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_truncated_file_is_refused(stage, broken, tmp_path):
    path = broken / stage / "model.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_refused(broken, tmp_path / "out", rf"{stage}/model.pt .* truncated")


def test_a_file_with_a_hole_is_refused(broken, tmp_path):
    path = broken / "stage2" / "model.pt"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    assert torch.load(path)  # without a word
    assert_refused(broken, tmp_path / "out", r"stage2/model.pt is damaged: the checksum of '.*/data/\d+' in it")


def test_a_truncated_archive_is_refused(broken, tmp_path):
    archive = write_archive(broken, tmp_path / "church.tar.gz")
    content = archive.read_bytes()
    for kept in (len(content) // 2, 100):
        archive.write_bytes(content[:kept])
        assert_refused(archive, tmp_path / "out", "church.tar.gz cannot be read, it is truncated")


@pytest.mark.parametrize("kind", ["xz", "bz2", "gz"])
def test_an_archive_of_any_compression_that_is_damaged_is_refused(kind, broken, tmp_path):
    archive = tmp_path / f"church.tar.{kind}"
    with tarfile.open(archive, f"w:{kind}") as file:
        file.add(broken, "church")
    whole = archive.read_bytes()
    for start in range(len(whole) // 4, len(whole), len(whole) // 8):
        content = bytearray(whole)
        content[start : start + 20] = bytes(byte ^ 0x55 for byte in content[start : start + 20])
        archive.write_bytes(content)
        assert_refused(archive, tmp_path / "out", f"church.tar.{kind} cannot be read")


def test_an_archive_whose_checksum_alone_tells_of_damage_is_refused(broken, tmp_path):
    archive = write_archive(broken, tmp_path / "church.tar.gz")
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1  # of the CRC of all that was compressed, which is itself as it was
    archive.write_bytes(content)
    assert_refused(archive, tmp_path / "out", "church.tar.gz cannot be read.*CRC check failed")


@pytest.mark.parametrize("file", ["config.yaml", "model.pt"])
def test_a_missing_file_is_refused(file, broken, tmp_path):
    (broken / "stage2" / file).unlink()
    assert_refused(broken, tmp_path / "out", r"stage2 must hold model.pt and config.yaml, but has only \['\w+\.\w+'\]")
    archive = write_archive(broken, tmp_path / "church.tar.gz")
    assert_refused(archive, tmp_path / "out", r"church.tar.gz:church/stage2 must hold model.pt and config.yaml")


def test_the_wrong_stage_in_a_folder_is_refused(broken, tmp_path):
    shutil.rmtree(broken / "stage1")
    shutil.copytree(broken / "stage2", broken / "stage1")
    assert_refused(broken, tmp_path / "out", "stage1/config.yaml must have `arch.type` 'rq-vae', got 'rq-transformer'")


def test_weights_of_the_wrong_stage_are_refused(broken, tmp_path):
    shutil.copy(broken / "stage1" / "model.pt", broken / "stage2" / "model.pt")
    assert_refused(broken, tmp_path / "out", "stage2/model.pt .*missing: .*'pos_emb_hw'.*unknown: .*'quant_conv.bias'")


class Opens:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_executes_code_is_refused_and_executes_nothing(broken, tmp_path):
    marker = tmp_path / "executed"
    config, weights = configs("church")[1], state_dicts("church")[1]
    write_stage(broken / "stage2", config, weights, scheduler=Opens(marker))
    assert_refused(broken, tmp_path / "out", r"stage2/model.pt holds more than tensors .*open.* execute code")
    assert not marker.exists()
    convert_checkpoint(broken, tmp_path / "out", allow_pickle=True)
    assert marker.exists() and (tmp_path / "out" / "model_index.json").exists()


def test_code_that_is_missing_is_named(broken, tmp_path, monkeypatch):
    module = types.ModuleType("settings_of_the_training")
    module.Settings = type("Settings", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config, weights = configs("church")[1], state_dicts("church")[1]
    write_stage(broken / "stage2", config, weights, scheduler=module.Settings())
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(ValueError, match="stage2/model.pt holds objects whose code must be .*settings_of_the"):
        convert_checkpoint(broken, tmp_path / "out", allow_pickle=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("field", MISFITS)
def test_a_pair_that_does_not_belong_together_is_refused(field, broken, tmp_path):
    write_stage(broken / "stage2", changed(configs("church")[1], MISFITS[field]), state_dicts("church")[1])
    assert_refused(broken, tmp_path / "out", f"stage2/config.yaml must fit the RQ-VAE of stage1, but `{field}` is")


def spoil(broken: Path, stage: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    index = int(stage[-1]) - 1
    weights = state_dicts("church")[index]
    change(weights)
    write_stage(broken / stage, configs("church")[index], weights)


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        (lambda weights: weights.pop("input_mlp.bias"), r"missing: \['input_mlp.bias'\]; unknown: \[\]"),
        (lambda weights: weights.update(more=torch.zeros(1)), r"missing: \[\]; unknown: \['more'\]"),
        (
            lambda weights: weights.update(more=weights.pop("input_mlp.bias")),
            r"missing: \['input_mlp.bias'\]; unknown: \['more'\]",
        ),
    ],
    ids=["missing", "unknown", "both"],
)
def test_missing_and_unknown_weights_are_listed(change, listed, broken, tmp_path):
    spoil(broken, "stage2", change)
    assert_refused(broken, tmp_path / "out", listed)


def test_weights_of_other_shapes_are_listed(broken, tmp_path):
    name = "body_transformer.blocks.1.attn.key.weight"
    spoil(broken, "stage2", lambda weights: weights.update({name: weights[name][:-1]}))
    assert_refused(broken, tmp_path / "out", rf"stage2/model.pt .*{name}.*\(31, 32\).*of \(96, 32\)")


@pytest.mark.parametrize("buffer", ["weight", "cluster_size_ema", "embed_ema"])
def test_unequal_copies_of_the_codebook_are_refused(buffer, broken, tmp_path):
    name = f"quantizer.codebooks.2.{buffer}"
    spoil(broken, "stage1", lambda weights: weights.update({name: weights[name] + 1e-3}))
    assert_refused(broken, tmp_path / "out", rf"stage1/model.pt .*equal copies .*\['{name}'\] differ")


def test_weights_that_are_no_floats_are_refused(broken, tmp_path):
    spoil(broken, "stage2", lambda weights: weights.update({"input_mlp.bias": weights["input_mlp.bias"].long()}))
    assert_refused(broken, tmp_path / "out", r"stage2/model.pt must hold tensors of floats .*\['input_mlp.bias'\]")


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("stage1", {"arch.hparams.loss_type": "l1"}, "`arch.hparams.loss_type` 'mse', .*got 'l1'"),
        ("stage1", {"arch.hparams.latent_shape": [8, 8, 16]}, "`arch.hparams.latent_shape`"),
        ("stage1", {"arch.hparams.code_shape": [2, 2, 4]}, "`arch.hparams.code_shape`"),
        ("stage1", {"arch.hparams.n_embed": [64, 64, 32, 32]}, "one value of arch.hparams.n_embed"),
        ("stage1", {"arch.ddconfig": {"double_z": False}}, "must have a key `arch.ddconfig.\\w+`"),
        ("stage1", {"arch.ddconfig.double_z": True}, "`arch.ddconfig.double_z` False"),
        ("stage1", {"arch.ddconfig.ch": 40}, "describes no model: .*`norm_num_groups`"),
        ("stage2", {"arch.body.block.gelu": "v2"}, "one value of arch.body.block.gelu and arch.head.block.gelu"),
        (
            "stage2",
            {"arch.body.block.gelu": "v3", "arch.head.block.gelu": "v3"},
            r"`gelu` of its blocks in \['v1', 'v2'\], got 'v3'",
        ),
        ("stage2", {"arch.shared_cls_emb": False}, "`arch.shared_cls_emb` True"),
        ("stage2", {"arch.input_emb_vqvae": False}, "`arch.input_emb_vqvae` True"),
        ("stage2", {"arch.head.block.n_head": 8}, r"one value of arch.body.block.n_head and .*, got \[4, 8\]"),
        ("stage2", {"arch.rotary": True}, r"no keys that the official code does not know, got \['arch.rotary'\]"),
        ("stage2", {"dataset": {}}, "must have a key `dataset.vocab_size`"),
        ("stage2", {"arch": None}, "must have a section `arch`"),
        ("stage1", {"arch.ddconfig.attn_resolutions": 8}, "a list of integers as `.*attn_resolutions`, got 8"),
        ("stage1", {"arch.ddconfig.ch_mult": 2}, "a list of integers as `.*ch_mult`, got 2"),
        ("stage1", {"arch.ddconfig.resolution": "16"}, "an integer as `.*resolution`, got '16'"),
        ("stage1", {"arch.hparams.code_shape": []}, r"a list of three integers as `.*code_shape`, got \[\]"),
        ("stage2", {"arch.block_size": 4}, "a list of three integers as `arch.block_size`, got 4"),
        ("stage2", {"arch.body": None}, "a section as `arch.body`, got None"),
        ("stage2", {"arch.vocab_size_cond": "1"}, "an integer as `arch.vocab_size_cond`, got '1'"),
        ("stage2", {"arch.body.block.gelu": ["v1"], "arch.head.block.gelu": ["v1"]}, "`gelu` of its blocks"),
        ("stage2", {"sampling": 5}, "a section as `sampling`, got 5"),
        ("stage2", {"sampling": {"top_k": 0}}, "sampling in range: `top_k` must be an integer of at least 1"),
        ("stage2", {"sampling": {"top_k": "all"}}, "sampling in range: `top_k`"),
        ("stage2", {"sampling": {"temp": 0}}, "sampling in range: `temperature` must be greater than 0"),
        ("stage2", {"sampling": {"top_p": [0.9, 0.8]}}, "sampling in range: `top_p`"),
    ],
)
def test_a_configuration_that_these_models_cannot_have_is_refused(stage, change, message, broken, tmp_path):
    index = int(stage[-1]) - 1
    write_stage(broken / stage, changed(configs("church")[index], change), state_dicts("church")[index])
    assert_refused(broken, tmp_path / "out", f"(?s){stage}/config.yaml .*{message}")


@pytest.mark.parametrize(
    ("text", "wanted"), [("1e-1", 0.1), ("2E-1", 0.2), ("0.25", 0.25), ("2.5e-1", 0.25), ("1.e-1", 0.1)]
)
def test_numbers_are_those_of_the_official_reader(text, wanted, tmp_path):
    stage = write_checkpoint(tmp_path / "cc3m", "cc3m") / "stage2"
    path = stage / "config.yaml"
    lines = [
        f"  txt_weight: {text}" if "txt_weight" in line else line
        for line in path.read_text().splitlines()
        if "img_weight" not in line
    ]
    path.write_text("\n".join(lines))
    convert_checkpoint(tmp_path / "cc3m", tmp_path / "out")
    config = RQTransformerConfig.from_pretrained(tmp_path / "out" / "transformer")
    assert config.text_loss_weight == pytest.approx(wanted)


def test_weights_of_losses_that_add_to_nothing_are_refused(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "cc3m", "cc3m")
    path = checkpoint / "stage2" / "config.yaml"
    path.write_text(path.read_text().replace("0.2\n", "0\n").replace("0.8\n", "0\n"))
    assert_refused(checkpoint, tmp_path / "out", "must have weights of losses of at least 0, not both 0, got 0 of 0")


def test_a_configuration_that_is_no_plain_yaml_is_refused(broken, tmp_path):
    (broken / "stage1" / "config.yaml").write_text("arch: !!python/object/apply:os.system ['true']")
    assert_refused(broken, tmp_path / "out", "stage1/config.yaml must be plain YAML")


@pytest.mark.parametrize(
    ("name", "link"),
    [("/church/stage1/model.pt", ""), ("../stage1/model.pt", ""), ("church/stage1/model.pt", "/etc/hostname")],
)
def test_an_archive_with_links_or_paths_that_lead_out_is_refused(name, link, tmp_path):
    member = tarfile.TarInfo(name)
    if link:
        member.type, member.linkname = tarfile.SYMTYPE, link
    with tarfile.open(tmp_path / "church.tar.gz", "w:gz") as file:
        file.addfile(member)
    message = f"church.tar.gz must hold plain files in its own folder, got '{name}'"
    assert_refused(tmp_path / "church.tar.gz", tmp_path / "out", message)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar.gz").write_text("no archive")
    assert_refused(tmp_path / "missing", tmp_path / "out", "there is no .*missing")
    assert_refused(tmp_path / "empty", tmp_path / "out", "stage1/ or stage2/.*and .*empty is not")
    assert_refused(tmp_path / "text.tar.gz", tmp_path / "out", "text.tar.gz cannot be read")


def test_an_output_that_exists_is_refused_before_anything_is_read(broken, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    (broken / "stage1" / "model.pt").unlink()
    assert_refused(broken, tmp_path / "out", "`output` must be a new or empty folder")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def write_tokenizer(folder: Path, more_tokens: int) -> dict[str, Path]:
    """Files of a tokenizer of 7 tokens and others, as arguments of the conversion."""
    tokens = ["[PAD]", "[UNK]", "a", "b", "a</w>", "b</w>", "ab</w>", *map(chr, range(200, 200 + more_tokens))]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("a b</w>\n")
    return {"vocab_file": folder / "vocab.json", "merges_file": folder / "merges.txt"}


def test_a_tokenizer_that_does_not_fit_is_refused(broken, tmp_path):
    files = write_tokenizer(tmp_path, more_tokens=40)
    assert_refused(broken, tmp_path / "out", "stage2 is not conditioned on text", **files)
    shutil.rmtree(broken / "stage2")
    assert_refused(broken, tmp_path / "out", "church has no transformer", **files)
    text = write_checkpoint(tmp_path / "text", "cc3m")
    assert_refused(
        text,
        tmp_path / "out",
        "`vocab_file` must be bpe-16k-vocab.json, for a model of 40 tokens, got a vocabulary of 47",
        **files,
    )
    assert_refused(text, tmp_path / "out", "must be given together", vocab_file=files["vocab_file"])
    config = changed(configs("cc3m")[1], {"dataset.txt_tok_name": "simple"})
    write_stage(text / "stage2", config, state_dicts("cc3m")[1])
    assert_refused(text, tmp_path / "out", "stage2/config.yaml names the tokenizer 'simple'", **files)


def test_averaged_weights_that_are_not_there_are_refused(broken, tmp_path):
    message = r"stage2/model.pt must hold a dictionary `state_dict_ema`, got \['epoch', 'optimizer', 'sch"
    assert_refused(broken, tmp_path / "out", message, ema=True)


def test_published_figures_without_their_paper_are_refused(broken, tmp_path):
    cards = {"transformer": {"published": {"fid": 1.0}}}
    assert_refused(
        broken, tmp_path / "out", "`cards` must name the `paper` of figures that are `published`", cards=cards
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_killed_conversion_leaves_no_output(sent, tmp_path):
    os.mkfifo(tmp_path / "church.tar.gz")  # it never ends: the conversion waits for its first byte
    arguments = ["--checkpoint", tmp_path / "church.tar.gz", "--output", tmp_path / "out" / "church"]
    process = subprocess.Popen([sys.executable, SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out").glob(".church-*/result")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0].decode()
        time.sleep(0.02)
    process.send_signal(sent)
    assert process.wait(timeout=60) != 0
    process.stdout.close()
    assert not (tmp_path / "out" / "church").exists()
    if sent == signal.SIGTERM:
        assert list((tmp_path / "out").iterdir()) == []


def test_the_script_ends_with_one_line_for_an_error(tmp_path, monkeypatch):
    arguments = ["--checkpoint", str(tmp_path / "none.tar.gz"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="^ValueError: `checkpoint` must be a folder or .*none.tar.gz.$"):
            runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, handler)
