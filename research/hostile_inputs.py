# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tries hostile and broken inputs: `python research/hostile_inputs.py [WORD IN THE NAMES OF THE INPUTS]`.

Each input runs in its own process, in an empty folder, with a limit of time and memory. It must be refused by a short
error that names the argument or the file; a few inputs must work. All else is a defect and makes the exit code 1:
SILENT (accepted), OBSCURE (another error), HANG (no end), LEFTOVER (files stay behind).
"""

import contextlib
import io
import json
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PLACE = Path(tempfile.mkdtemp(prefix="hostile-"))
os.environ |= {"HF_HOME": str(PLACE / "cache"), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}

import diffusers  # noqa: E402  this and others read the environment
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from huggingface_hub.errors import StrictDataclassError  # noqa: E402
from PIL import Image  # noqa: E402

import rq_hf  # noqa: E402
from rq_hf import cli, conversion, hub, images  # noqa: E402

SECONDS, MEMORY = 30, 2**32  # of one input
CLEAR_ERRORS = (ValueError, TypeError, OSError, StrictDataclassError)
# What a message names: an argument, a flag, a path, a file, a field of a configuration, or what was typed.
NAMES = re.compile(
    r"`[^`]+`|--\w|/|\b\w+\.(json|safetensors|yaml|pt|png)\b|[Ff]ield '|Repo id|argument|stage|COMM|typo"
)
NAN, INF = float("nan"), float("inf")
Case = tuple[str, Callable[[], Any]]  # a name, which ends in "works" if the input must work, and what is tried


def make_pipeline(**condition: Any) -> rq_hf.RQImageGenerationPipeline:
    sizes = {"image_size": 16, "base_channels": 8, "channel_multiplier": [1, 2, 2], "attention_levels": [2]}
    codes = {"latent_channels": 8, "norm_num_groups": 4, "codebook_size": 32, "codebook_dim": 8, "code_depth": 3}
    rqvae = rq_hf.RQVAEModel(rq_hf.RQVAEConfig(**sizes, **codes)).eval()
    sizes = {"hidden_size": 32, "num_spatial_layers": 2, "num_depth_layers": 1, "num_attention_heads": 4}
    config = rq_hf.RQTransformerConfig.from_rqvae_config(rqvae.config, **sizes, **condition)
    transformer = rq_hf.RQTransformerForImageGeneration(config).eval()
    transformer.set_codebook(rqvae.codebook)
    is_text = config.condition_length > 1
    tokenizer = rq_hf.train_caption_tokenizer(["a red heart", "green apple"], 80, 6) if is_text else None
    return rq_hf.RQImageGenerationPipeline(rqvae, transformer, tokenizer)


def each(name: str, call: Callable, arguments: dict[str, list], **good: Any) -> Iterator[Case]:
    """One case for each value of each argument; the other arguments are good."""
    for argument, values in arguments.items():
        for value in values:
            shown = tuple(value.shape) if isinstance(value, torch.Tensor | np.ndarray) else value
            yield f"{name}({argument}={shown!r:.50})", lambda v=value, a=argument: call(**good | {a: v})


def folder_with(files: dict[str, bytes], saved: Path | None = None) -> Path:
    """A new folder with these files, and else those of a saved pipeline."""
    folder = Path(tempfile.mkdtemp(dir=PLACE)) / "model"
    if saved is not None:
        shutil.copytree(saved, folder)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def picture_file(picture: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


# fmt: off
def calls(pipe: rq_hf.RQImageGenerationPipeline, by_class: rq_hf.RQImageGenerationPipeline) -> Iterator[Case]:
    codes, mask, ids = torch.zeros(1, 4, 4, 3).long(), torch.ones(4, 4) > 0, torch.zeros(1, 6).long()
    bad_codes = [codes[0], codes - 1, codes + 32, codes.float(), codes.to(torch.complex64), codes.tolist(), codes[:0]]
    bad_ids = [None, ids.tolist(), ids.float(), ids[0], ids[:, :5], ids - 1, ids + 80, ids[:0], ids > 0]
    sampling = {
        "temperature": [0, -1, NAN, "hot", [1, 1], [1, 1, -1], True, {}], "top_k": [0, -3, 2.5, "8", [1, 2], NAN],
        "top_p": [0, 1.1, -0.5, NAN, [0.5] * 2, "x"], "guidance_scale": [-1, NAN, INF, "2", [2.0], 3.0],
        "known_codes": bad_codes, "known_mask": [mask, mask.float(), mask[:2], [[True]]]}
    yield from each("pipe", pipe, sampling | {
        "prompt": [None, [], 7, b"a heart", ["a", None], "\udcff", {"a": 1}], "class_labels": [1], "classifier": ["x"],
        "negative_prompt": ["a cat", 5, ["a"] * 3], "num_candidates": [4], "acceptance_rate": [0.5],
        "num_images_per_prompt": [0, -1, 1.5, "2", True, None, 10**9, NAN], "output_type": ["jpg", None, 3],
        "generator": ["seed", 7, [torch.Generator()] * 5, [3]], "ranker": ["likelihood"],
        "callback_on_step_end_tensor_inputs": [["latents"], "codes"]}, prompt="a heart")
    yield from each("pipe", pipe, {"num_candidates": [0, -1, 2.5, "4", 10**9]}, prompt="a heart", ranker="likelihood")
    yield from each("pipe", pipe, {"num_images_per_prompt": [50_000]}, prompt=["a heart"] * 3)
    yield from each("by_class", by_class, {"class_labels": [None, [], "cats", -1, 3, 1.5, [0, None], "x" * 10**6]})
    yield from each("generate", pipe.transformer.generate, sampling | {"input_ids": bad_ids}, input_ids=ids)
    arguments = {"input_ids": bad_ids, "codes": [*bad_codes, None], "depth": [0, 4, 1.5, True, None, "1"]}
    yield from each("log_likelihood", pipe.transformer.log_likelihood, arguments, input_ids=ids, codes=codes)
    pixels, latents = torch.zeros(1, 3, 16, 16), torch.zeros(1, 4, 4, 8)
    yield from each("encode", pipe.rqvae.encode, {"pixel_values": [
        None, "x", pixels.tolist(), pixels[0], pixels[:, :2], pixels[..., :15], pixels[:0], pixels + 2, pixels + NAN,
        pixels + INF, pixels.byte(), pixels > 0, pixels.to(torch.complex64)]})
    bad_codes += [None, torch.cat([codes] * 2, 3), codes[..., :0]]
    yield from each("decode", pipe.rqvae.decode, {"codes": bad_codes})
    bad_latents = [None, "x", latents[..., :7], latents[:0], latents + NAN, latents - INF, torch.tensor(0.0)]
    for model in (pipe.rqvae, rq_hf.ResidualQuantizer(32, 8, 3)):
        arguments = {"latents": bad_latents, "temperature": [-1, NAN, [1], "x"]}
        yield from each(f"{type(model).__name__}.quantize", model.quantize, arguments, latents=latents)
    for weight in (pipe.rqvae.decoder.conv_out.bias, pipe.transformer.depth_projection.weight):
        drawn = lambda weight=weight, **options: (weight.data.fill_(NAN), pipe("a heart", **options))  # noqa: E731
        yield from each(f"NaN in {tuple(weight.shape)}", drawn, {"output_type": ["pil", "np", "pt"]})


def pictures(pipe: rq_hf.RQImageGenerationPipeline) -> Iterator[Case]:
    picture, array, mask = Image.new("RGB", (16, 16)), np.zeros((1, 16, 16, 3), np.float32), torch.ones(4, 4) > 0
    bad = [None, [], "picture.png", 7, b"", [picture, "x"], [picture, None],
           array + 2, array - 1, array + NAN, array.astype(np.uint8), array[0, 0], array[..., :2], torch.zeros(16, 16),
           torch.zeros(1, 4, 16, 16), Image.new("F", (16, 16)), Image.new("RGB", (0, 0))]
    good, unequal = {"image": picture, "prompt": "a heart"}, [[picture, picture.resize((8, 8))]]
    large = [np.zeros((1, 16, 24, 3), np.float32), torch.rand(1, 3, 2048, 2048)]
    masks = [None, 1, mask.float() / 2, mask[:2], mask.numpy()[None]]
    yield from each("complete", pipe.complete, {"image": bad + large, "mask": masks}, mask=mask, **good)
    yield from each("vary", pipe.vary, {"image": large, "keep_depths": [0, 4, 1.5, None, "1"]}, **good)
    arguments = {"image": bad + unequal, "depth": [0, 4, -1, 1.5, "1"], "output_type": ["x"]}
    yield from each("reconstruct", pipe.reconstruct, arguments, image=picture)
    wide, noise = picture_file(Image.new("I;16", (13300, 13300))), picture_file(Image.effect_noise((64, 64), 9))
    contents = [b"", b"x" * 999, wide[:99], picture_file(picture, "EPS"), noise[:900], None, 7, "typo.png", PLACE]
    yield from each("decode_picture", images.decode_picture, {"image": contents})
    yield from each("decode_picture", images.decode_picture, {"image": [wide]}, max_pixels=2**25)
    yield "a long caption works", lambda: images.image_grid([picture] * 9, ["x" * 10**5] * 9)
    yield "a long prompt works", lambda: pipe("x " * 10**5)


def files(pipe: rq_hf.RQImageGenerationPipeline, saved: Path) -> Iterator[Case]:
    weights, config = (saved / "rqvae/model.safetensors").read_bytes(), (saved / "rqvae/config.json").read_bytes()
    contents: dict[str, list[bytes | dict]] = {
        "model_index.json": [b"", b"{", b"[]", b"null", b"{}", b"\xff", {"rqvae": ["rq_hf", "X"]},
                             {"transformer": None}, {"sampling": {"temprature": 1}}, {"sampling": "x"}],
        "rqvae/config.json": [b"", b"{", b"[]", b"null", b"{}", {"model_type": "bert"}, {"codebook_size": 31},
                              {"num_res_blocks": 10**9}, {"image_size": "16"}, {"code_depth": 0}],
        "transformer/config.json": [b"", b"[]", config, {"hidden_size": 36}, {"num_spatial_layers": 10**9}],
        "tokenizer/tokenizer.json": [b"", b"{", b"[]", b"null", b"{}", b"\xff"],
        "tokenizer/tokenizer_config.json": [b"{", b"[]", b"null"],
        "rqvae/model.safetensors": [b"", b"x" * 99, weights[:-9], weights[:999], b"\xff" * 8 + weights, b"\x80\x04N."],
        "transformer/model.safetensors": [b"", weights, weights[:999]]}
    own, base = rq_hf.RQImageGenerationPipeline.from_pretrained, diffusers.DiffusionPipeline.from_pretrained
    for file, values in contents.items():
        for number, value in enumerate(values):
            if isinstance(value, dict):
                value = json.dumps(json.loads((saved / file).read_bytes()) | value).encode()
            place = folder_with({file: value}, saved)
            yield f"pipeline with {file} {number}", lambda p=place: own(p)
            if "safetensors" in file:
                yield f"DiffusionPipeline with {file} {number}", lambda p=place: base(p)
            if number < 4 and "tokenizer" not in file:
                yield f"push with {file} {number}", lambda p=place: hub.push_folder(p, "me/x")
    alone = [rq_hf.RQVAEModel.from_pretrained, transformers.AutoModel.from_pretrained]
    for name in ("/dev/zero", "../x.safetensors", "weights.pt", "a/b.safetensors", 7, ["x"], None):
        index = json.dumps({"weight_map": {"encoder.conv_in.weight": name}} if name else name).encode()
        folder = folder_with({"rqvae/model.safetensors.index.json": index}, saved)
        (folder / "rqvae/model.safetensors").unlink()
        for load, place in [(own, folder), (base, folder), *((load, folder / "rqvae") for load in alone)]:
            yield f"{load.__qualname__}: index {name!r}", lambda ld=load, p=place: ld(p)
    places = {"pretrained_model_name_or_path": [PLACE / "typo", "a/b/c", "", "x" * 300, saved / "transformer"]}
    yield from each("from_pretrained", own, places)
    yield from each("RQVAEModel.from_pretrained", rq_hf.RQVAEModel.from_pretrained, places)
    parts = {"rqvae": ["x", pipe.transformer], "transformer": [7], "tokenizer": ["x"], "sampling": [{"a": 1}]}
    yield from each("pipeline", rq_hf.RQImageGenerationPipeline, parts, rqvae=pipe.rqvae, transformer=pipe.transformer)
    yield from each("RQVAEConfig", rq_hf.RQVAEConfig, {
        "image_size": [0, 1.5, "8", None, NAN, 100], "channel_multiplier": [[], [0], 3, "12"], "image_sise": [8],
        "codebook_decay": [1, "x"], "codebook_epsilon": [INF], "attention_levels": [[9]], "num_res_blocks": [10**9]})
    yield from each("RQTransformerConfig", rq_hf.RQTransformerConfig, {
        "hidden_size": [-1, 7], "code_shape": [[4, 4], [0, 4, 4], 4], "initializer_range": [INF], "dropout": [NAN],
        "pad_token_id": [-1, 10**6], "null_condition_ids": [[1], [-1] * 32], "id2label": [{10**6: "x"}, ["cat"]]})
    yield from each("train_caption_tokenizer", rq_hf.train_caption_tokenizer, {
        "captions": ["a heart", [], [7]], "vocab_size": [0, 3], "max_length": [0, "8"]}, captions=["a heart"])


def conversions() -> Iterator[Case]:
    laughs = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    arch = ("arch: {ddconfig: {resolution: 16, in_channels: 3, ch: 8, ch_mult: %s, num_res_blocks: %s, z_channels: 8, "
            "attn_resolutions: []}, hparams: {n_embed: 8, embed_dim: 8, code_shape: [4, 4, 3], shared_codebook: true, "
            "restart_unused_codes: true}}")
    texts = ["", "[]", "arch:", "arch: {}", "\x00", "a: !!python/object/apply:os.system [ls]", "[" * 9000, "x" * 10**6,
             laughs, laughs + arch % ("*a11", 1), arch % ([1, 2], "x"), arch % ([1], 10**9), arch % ("y" * 9999, 1)]
    buffer = io.BytesIO()
    torch.save({"state_dict": {"x": torch.zeros(1)}}, buffer)
    contents = [(text.encode(), buffer.getvalue()) for text in texts]
    contents += [(b"arch: {}", pickled) for pickled in (b"", b"\x80\x04N.", b"x" * 99, buffer.getvalue()[:300])]
    sources = {"a typo": PLACE / "typo", "an empty folder": folder_with({"x": b""})} | {
        f"{stage} {number}": folder_with({f"{stage}/config.yaml": text, f"{stage}/model.pt": pickled})
        for number, (text, pickled) in enumerate(contents) for stage in ("stage1", "stage2")}
    for name, size, count in (("stage1/large", 2**28, 1), ("stage1/many", 0, 5000), ("../outside", 0, 1)):
        sources[name] = PLACE / f"{Path(name).name}.tar.gz"
        with tarfile.open(sources[name], "w:gz") as archive, open("/dev/zero", "rb") as zeros:
            for number in range(count):
                member = tarfile.TarInfo(f"{name}{number}")
                member.size = size
                archive.addfile(member, zeros)
    for name, source in sources.items():
        yield f"convert {name}", lambda s=source: conversion.convert_checkpoint(s, Path("new", "out"))


def commands(saved: Path) -> Iterator[Case]:
    broken = folder_with({"rqvae/model.safetensors": b"x" * 99}, saved)
    wordless = folder_with({"tokenizer/tokenizer.json": b"{"}, saved)
    table = b'{"file_name": "0.png", "text": "a heart"}\n'
    data = folder_with({"train/0.png": picture_file(Image.new("RGB", (16, 16))), "train/metadata.jsonl": table})
    split, output = f"--dataset_name {data} --split train", "--output o.json"
    samples = f"evaluate samples {saved} {output} --feature_extractor pixels --num_pictures"
    for command, endings in {
        f"generate {saved} x": "--top_p 2|--device tpu|--device cuda|--num_images 0|--num_images 1000000000|--seed -1|"
        "--seed 9999999999999999999999|--output o.xyz|--output no/o|--temperature a|--class_labels 1|--ranker typo/x|"
        "--num_candidates 1000000000 --ranker likelihood|--ranker typo/x --num_candidates 8|--output /dev/null/o.png",
        "generate": f"|{saved}|{saved} \udcff|{broken} x|{wordless} x|typo x|./typo x|typo/a/b x",
        f"reconstruct --model {saved}": f"|typo.png|{saved}/model_index.json|{data}/train/0.png --output o.txt",
        f"reconstruct {data}/train/0.png --model": f"|typo|{broken}",
        samples: f"0|-1|x|2|2 {split}|2 --dataset_name {data}|2 --dataset_name typo --split train",
        f"{samples} 2 {split} --caption_column": "x|text --top_p 2|text --reference typo|text --batch_size 0|"
        "text --feature_extractor x|text --clip_model typo",
        "evaluate": f"|prompts {saved} {split} {output}|rqvae {broken} {split}|likelihood {saved} {split}x",
        f"evaluate rqvae {saved} {split}": "--filter x=1|--filter x|--image_column x|--transform x",
        f"evaluate likelihood {saved} {split}": "|--caption_column x",
        "convert": f"|--checkpoint typo {output}|--checkpoint {saved} --output o/p",
        "push": f"|typo --repo_id me/x|{broken} --repo_id me/x|{saved} --repo_id ''",
        "": "|draw|app typo",
    }.items():
        for ending in endings.split("|"):
            words = shlex.split(f"{command} {ending}")
            shown = " ".join(Path(word).name for word in words).encode(errors="replace").decode()
            yield f"rq-hf {shown}", lambda w=words: cli.main(w)
    yield "rq-hf generate works", lambda: cli.main(["generate", str(saved), "a heart", "--output", "new/o.png"])
# fmt: on


def attempt(call: Callable, folder: Path, answer: Any) -> None:
    """Runs in a process of its own and sends the verdict and a message."""
    signal.alarm(SECONDS)
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    printed, verdict, message = io.StringIO(), "worked", ""
    try:
        with contextlib.redirect_stderr(printed):
            call()
    except SystemExit as ended:
        message = ended.code if isinstance(ended.code, str) else printed.getvalue().rstrip("\n")
        verdict = "refused" if message.startswith("error: ") and "\n" not in message else "OBSCURE"
    except BaseException as error:  # also MemoryError
        message = f"{type(error).__name__}: {error}"
        verdict = "refused" if isinstance(error, CLEAR_ERRORS) else "OBSCURE"
    if len(message) > 600 or message and not NAMES.search(message):
        verdict = "OBSCURE"
    if verdict != "worked" and any(folder.iterdir()):
        verdict, message = "LEFTOVER", f"{[path.name for path in folder.iterdir()]} {message}"
    answer.send((verdict, message))


def run(word: str = "") -> int:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pipe, by_class = make_pipeline(vocab_size=80, condition_length=6), make_pipeline(vocab_size=3, condition_length=1)
    pipe.save_pretrained(PLACE / "saved")
    cases = [*calls(pipe, by_class), *pictures(pipe), *files(pipe, PLACE / "saved"), *conversions()]
    counts = Counter()
    for name, call in [*cases, *commands(PLACE / "saved")]:
        if word not in name:
            continue
        receiver, sender = multiprocessing.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(dir=PLACE) as folder:
            process = multiprocessing.get_context("fork").Process(target=attempt, args=(call, Path(folder), sender))
            process.start()
            sender.close()
            try:
                verdict, message = receiver.recv()
            except EOFError:  # killed by its alarm, or for its memory
                verdict, message = "HANG", "no answer"
            process.join()
        if verdict == ("refused" if name.endswith("works") else "worked"):
            verdict = "OBSCURE" if verdict == "refused" else "SILENT"
        counts[verdict] += 1
        print(f"{verdict:8} {name:.70}: {' '.join(message.split())[:200]}", flush=True)
    print(f"{counts.total()} inputs: {', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())}")
    return int(any(verdict.isupper() for verdict in counts))


if __name__ == "__main__":
    try:
        sys.exit(run(*sys.argv[1:2]))
    finally:
        shutil.rmtree(PLACE)
