# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Tries hostile and broken inputs: `python research/hostile_inputs.py [WORD IN A KIND OR THE NAME OF AN INPUT]`.

Each input runs in its own process, in an empty folder, with a limit of time and memory. It must be refused by one
short line that names the argument or the file; a few must work. All else is a defect, is printed, and makes the exit
code 1: SILENT (accepted), OBSCURE (another error), HANG (no end), LEFTOVER (files stay behind).
"""

import contextlib
import functools
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
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

TEMPORARY = tempfile.TemporaryDirectory(prefix="hostile-")
PLACE = Path(TEMPORARY.name)
os.environ |= {"HF_HOME": str(PLACE / "cache"), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}

import datasets  # noqa: E402  this and others read the environment
import numpy as np  # noqa: E402
import torch  # noqa: E402
from huggingface_hub.errors import OfflineModeIsEnabled, StrictDataclassError  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save  # noqa: E402

import rq_hf  # noqa: E402
from rq_hf import cli, conversion, hub, images, training  # noqa: E402

SECONDS, MEMORY = 30, 2**32  # of one input
NAN, INF = float("nan"), float("inf")
Case = tuple[str, Callable[[], Any]]  # a name, which ends in "works" if the input must work, and what is tried
# fmt: off
# What a message names: an argument, a flag, a path, a file, a field of a configuration, or what was typed.
NAMES = re.compile(r"`[^`]+`|--\w|/|\w\.(json|safetensors|yaml|pt|png|md)\b|[Ff]ield '|Repo id|argument|stage|COMM|"
                   "Column|typo|interrupted|File too large")
RQVAE = {"image_size": 16, "base_channels": 8, "channel_multiplier": [1, 2, 2], "attention_levels": [2],
         "latent_channels": 8, "norm_num_groups": 4, "codebook_size": 32, "codebook_dim": 8, "code_depth": 3}
TRANSFORMER = {"hidden_size": 32, "num_spatial_layers": 2, "num_depth_layers": 1, "num_attention_heads": 4}
CAPTIONS = ["a red heart", "green apple"] * 2
PICTURE = Image.fromarray(np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8))


def make_pipeline(**condition: Any) -> rq_hf.RQImageGenerationPipeline:
    rqvae = rq_hf.RQVAEModel(rq_hf.RQVAEConfig(**RQVAE)).eval()
    config = rq_hf.RQTransformerConfig.from_rqvae_config(rqvae.config, **TRANSFORMER, **condition)
    transformer = rq_hf.RQTransformerForImageGeneration(config).eval()
    transformer.set_codebook(rqvae.codebook)
    tokenizer = rq_hf.train_caption_tokenizer(CAPTIONS, 80, 6) if config.condition_length > 1 else None
    return rq_hf.RQImageGenerationPipeline(rqvae, transformer, tokenizer)


def each(name: str, call: Callable, good: dict[str, Any], bad: dict[str, list]) -> Iterator[Case]:
    """One case for each bad value of each argument; the other arguments are good."""
    for argument, value in ((argument, value) for argument, values in bad.items() for value in values):
        shown = tuple(value.shape) if isinstance(value, torch.Tensor | np.ndarray) else value
        yield f"{name}({argument}={shown!r:.50})", functools.partial(call, **good | {argument: value})


def commands(line: str, endings: str = "", about: str = "", change: Callable = list) -> Iterator[Case]:
    """A command line with each of its endings, which `|` separates. `change` is called before the command."""
    for ending in endings.split("|"):
        words = shlex.split(f"{line} {ending}")
        shown = " ".join(Path(word).name for word in words).encode(errors="replace").decode()
        yield f"rq-hf {shown}{about}", lambda words=words: (change(), cli.main(words))


def folder_with(files: dict[str, Any], saved: Path | None = None) -> Path:
    """A new folder with these files (`None` is a named pipe, a dictionary JSON), or a saved one where they differ."""
    folder = Path(tempfile.mkdtemp(dir=PLACE)) / "model"
    if saved is not None:
        shutil.copytree(saved, folder)
    for path, content in ((folder / name, content) for name, content in files.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            os.mkfifo(path)
        elif isinstance(content, dict):
            path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | content))
        else:
            path.write_bytes(content)
    return folder


PIPE, BY_CLASS = make_pipeline(vocab_size=80, condition_length=6), make_pipeline(vocab_size=3, condition_length=1)
SAVED, SAVED_BY_CLASS, DATA = PLACE / "saved", PLACE / "by_class", folder_with({"train.parquet": b""})
PICTURE.save(PLACE / "0.png")
SPLIT = f"--dataset_name {DATA} --split train"
SAMPLES = f"evaluate samples {SAVED} {SPLIT} --caption_column text --output o.json --feature_extractor pixels"


def calls() -> Iterator[Case]:
    codes, mask, ids = torch.zeros(1, 4, 4, 3).long(), torch.ones(4, 4) > 0, torch.zeros(1, 6).long()
    bad_codes = [codes[0], codes - 1, codes + 32, codes.float(), codes.to(torch.complex64), codes.tolist(), codes[:0]]
    bad_ids = [None, ids.tolist(), ids.float(), ids[0], ids[:, :5], ids - 1, ids + 80, ids[:0], ids > 0]
    sampling = {"temperature": [0, -1, NAN, "hot", [1, 1], [1, 1, -1], True], "top_k": [0, 2.5, "8", [1, 2], NAN],
                "top_p": [0, 1.1, -0.5, NAN, [0.5] * 2, "x"], "guidance_scale": [-1, NAN, INF, "2", [2.0], 3.0],
                "known_codes": bad_codes, "known_mask": [mask, mask.float(), mask[:2], [[True]]]}
    prompts = {"prompt": [None, [], 7, b"a heart", ["a", None], "\udcff", {"a": 1}], "negative_prompt": [5, ["a"] * 3],
               "num_images_per_prompt": [0, -1, 1.5, "2", True, None, 10**9, NAN], "num_candidates": [4],
               "generator": ["seed", 7, [torch.Generator()] * 5, [3]], "output_type": ["jpg", None, 3],
               "class_labels": [1], "classifier": ["x"], "ranker": ["likelihood"], "acceptance_rate": [0.5],
               "callback_on_step_end_tensor_inputs": [["latents"], "codes"]}
    array, white = np.zeros((1, 16, 16, 3), np.float32), Image.new("L", PICTURE.size, 255)
    bad = [None, [], "picture.png", 7, b"", [PICTURE, "x"], Image.new("F", (16, 16)), array + 2, array + NAN,
           array.astype(np.uint8), array[0, 0], array[..., :2], torch.zeros(1, 4, 16, 16)]
    masks = [None, 1, [], torch.ones(3, 3), array[..., 0] - 1, Image.new("L", PICTURE.size), white.convert("F")]
    edited = {"image": [*bad[:8], torch.rand(1, 3, 2048, 2048)], "mask_image": masks, "padding_mask_crop": [-1, "1"]}
    contents = [b"", b"x" * 999, (PLACE / "0.png").read_bytes()[:500], b"%!PS-Adobe-3.0 EPSF", 7, "typo.png", PLACE]
    good, depths = {"image": PICTURE, "prompt": "a heart"}, [0, 4, -1, 1.5, "1"]
    for name, call, right, wrong in (
        ("pipe", PIPE, {"prompt": "a heart"}, sampling | prompts),
        ("by class", BY_CLASS, {}, {"class_labels": [None, [], "cats", -1, 3, 1.5, [0, None], "x" * 10**6]}),
        ("generate", PIPE.transformer.generate, {"input_ids": ids}, sampling | {"input_ids": bad_ids}),
        ("log_likelihood", PIPE.transformer.log_likelihood, {"input_ids": ids, "codes": codes},
         {"codes": bad_codes, "depth": [True, None, *depths]}),
        ("decode", PIPE.rqvae.decode, {}, {"codes": bad_codes}),
        ("pipeline", rq_hf.RQImageGenerationPipeline, {"rqvae": PIPE.rqvae, "transformer": PIPE.transformer},
         {"rqvae": ["x", PIPE.transformer], "transformer": [7], "tokenizer": ["x"], "sampling": [{"a": 1}]}),
        ("inpaint", rq_hf.RQInpaintPipeline(**PIPE.components), good | {"mask_image": white}, edited),
        ("vary", PIPE.vary, good, {"image": edited["image"][-1:], "keep_depths": depths}),
        ("reconstruct", PIPE.reconstruct, {"image": PICTURE}, {"image": bad, "depth": depths}),
        ("decode_image", images.decode_image, {}, {"image": contents}),
    ):
        yield from each(name, call, right, wrong)
    for cls in (rq_hf.RQVAEConfig, training.RQVAETrainingArguments, training.DataArguments, rq_hf.RQTransformerConfig,
                training.RQTransformerTrainingArguments, training.CodeDataArguments):  # every declared range is left
        ranges, wrong = {field.name: field.metadata["range"] for field in fields(cls) if "range" in field.metadata}, {}
        for name, allowed in ranges.items():
            numbers = [NAN, allowed.low if allowed.brackets[0] == "(" else allowed.low - 1]
            numbers += [] if allowed.high == INF else [allowed.high + (allowed.brackets[1] == "]")]
            wrong[name] = [[number] for number in numbers] if name == "channel_multiplier" else numbers
        yield from each(cls.__name__, cls, {}, wrong)
    bias = PIPE.rqvae.decoder.conv_out.bias
    yield "NaN in a weight", lambda: (bias.data.fill_(NAN), PIPE("a heart"))
    yield "a long prompt works", lambda: PIPE("x " * 10**5)


def folders() -> Iterator[Case]:
    """Pipelines and official checkpoints. What is pushed works as far as the Hub, which cannot be reached."""
    def push(folder: Path) -> None:
        with contextlib.suppress(OfflineModeIsEnabled):
            hub.push_folder(folder, "me/x")

    load, weights = rq_hf.RQImageGenerationPipeline.from_pretrained, (SAVED / "rqvae/model.safetensors").read_bytes()
    broken = [b"", b"{", b"[]", b"null", b"\xff"]
    for file, values in {
        "model_index.json": [*broken, {"rqvae": ["rq_hf", "X"]}, {"transformer": None}, {"sampling": {"temp": 1}}],
        "rqvae/config.json": [*broken, {"model_type": "bert"}, {"num_res_blocks": 10**9}, {"image_size": "16"}],
        "transformer/config.json": [*broken, {"hidden_size": 36}, {"num_spatial_layers": 10**9}],
        "tokenizer/tokenizer.json": broken, "tokenizer/tokenizer_config.json": broken[1:4],
        "transformer/model.safetensors": [b"", weights],
        "rqvae/model.safetensors": [b"", weights[:-9], weights[:999], b"\xff" * 8 + weights, b"\x80\x04N."]}.items():
        for value in values:
            place = folder_with({file: value}, SAVED)
            yield f"load with {file}: {value!r:.30}", functools.partial(load, place)
            if value in broken[:2] and "tokenizer" not in file:
                yield f"push with {file}: {value!r:.30}", functools.partial(push, place)
    (linked := folder_with({}, SAVED) / "rqvae/secret.txt").symlink_to("/etc/hostname")
    whole = folder_with({"x.PT": b"x", "README.md": b"[" * 10**5, "a.json": None, "model-2.safetensors": None}, SAVED)
    (whole / "linked").symlink_to(PLACE)
    yield "push with named pipes, pickles and a linked folder works", lambda: push(whole)
    arch = (b"arch: {ddconfig: {resolution: 16, in_channels: 3, ch: 8, ch_mult: [1], num_res_blocks: 1, z_channels: 8,"
            b"attn_resolutions: []}, hparams: {n_embed: 8, embed_dim: 8, code_shape: [4, 4, 3], shared_codebook: 1}}")
    texts = [b"", b"[]", b"arch: {}", b"\x00", b"a: !!python/object/apply:os.system [ls]", b"[" * 9000, b"x" * 10**6]
    pairs = [(text, b"") for text in texts] + [(arch, model) for model in (b"", b"\x80\x04N.", b"x" * 99, weights)]
    official = [folder_with({"stage1/config.yaml": text, "stage1/model.pt": model}) for text, model in pairs]
    unread = folder_with({"README.md": b"\xff"}, SAVED)
    yield from each("push", push, {}, {"folder": [linked.parents[1], unread, PLACE / "typo"]})
    yield from each("load", load, {}, {"pretrained_model_name_or_path": [PLACE / "typo", "a/b/c", "", "x" * 300]})
    yield from each("convert", conversion.convert_checkpoint, {"output": "new"}, {"checkpoint": official})


def command_lines() -> Iterator[Case]:
    broken = folder_with({"rqvae/model.safetensors": b"x" * 99}, SAVED)
    for line, endings in {
        f"generate {SAVED} x": "--top_p 2|--device tpu|--device meta|--num_images 0|--num_images 1000000000|--seed -1|"
        "--seed 9999999999999999999999|--output o.xyz|--output no/o|--temperature a|--class_labels 1|--ranker typo/x|"
        "--num_candidates 1000000000 --ranker likelihood|--ranker typo/x --num_candidates 8|--output /dev/null/o.png",
        "generate": f"|{SAVED}|{SAVED} \udcff|{broken} x|typo x|./typo x|typo/a/b x",
        f"reconstruct --model {SAVED}": f"|typo.png|{SAVED}/model_index.json|{PLACE}/0.png --output o.txt",
        f"reconstruct {PLACE}/0.png --model": f"|typo|{broken}",
        f"{SAMPLES} --num_pictures": f"0|-1|x|2 --dataset_name typo|2 --caption_column x|2 --top_p 2|2 --batch_size 0|"
        f"2 --reference typo|2 --feature_extractor {PLACE}/0.png|2 --clip_model typo|2 --precision_recall",
        "evaluate": f"|rqvae {broken} {SPLIT}|likelihood {SAVED} {SPLIT}x",
        f"evaluate rqvae {SAVED} {SPLIT}": "--filter x=1|--filter x|--image_column x|--transform x",
        f"evaluate likelihood {SAVED_BY_CLASS} {SPLIT}": "|--caption_column x|--label_column typo",
        "convert": f"|--checkpoint typo --output o|--checkpoint {SAVED} --output o", "push": "|typo --repo_id me/x",
        "": f"|draw|app typo --port 99999999|train-tokenizer --dataset_name {DATA} --output_dir {DATA}/train.parquet",
    }.items():
        yield from commands(line, endings)
    for files in ({"broken/0.png": b"x"}, {"tar/0.tar": b"x" * 999}, {"code.py": b"x = 1"}, {"a.parquet": b"PAR1x"},
                  {"pipe/1.png": b"x", "pipe/0.png": None}, "/", "''", "typo"):
        folder = files if isinstance(files, str) else folder_with(files)
        for line in (f"evaluate rqvae {SAVED} --split train --output o.json", "train-tokenizer --output_dir o",
                     f"train-rqt small-rqt-64 --use_cpu --caption_column text --rqvae_name_or_path {SAVED}"):
            yield from commands(line, f"--dataset_name {folder}", f" ({list(files)})")
    for key, tensor in (("features", torch.full((9, 768), NAN)), ("typo", torch.ones(9, 768)),
                        ("features", torch.ones(9, 7)), ("features", torch.ones(1, 768))):
        path = folder_with({"real.safetensors": save({key: tensor})}) / "real.safetensors"
        yield from commands(f"{SAMPLES} --num_pictures 2 --reference_features {path}", about=f" {key} {tensor.shape}")
    yield from commands(f"generate {SAVED} 'a heart' --output new/o.png", about=" works")


def interruptions() -> Iterator[Case]:
    """Interrupted commands tell so, and those on a full disk; no file stays unfinished."""
    steps = {"max_steps": 10**6, "perceptual_weight": 0, "adversarial_weight": 0, "save_steps": 9, "use_cpu": True}
    recipe = folder_with({"r.json": {"model": RQVAE, "data": {"dataset_name": str(DATA)}, "training": steps}})
    lines = (f"train-rqvae {recipe}/r.json|generate {SAVED} x --num_images 1000 --output o.png|"
             f"{SAMPLES} --num_pictures 4 --num_candidates 5000 --ranker likelihood")
    for number, time in ((number, time) for number in (signal.SIGINT, signal.SIGTERM) for time in (0.3, 1, 3)):
        start = lambda n=number, s=time: threading.Timer(s, os.kill, (os.getpid(), n)).start()  # noqa: E731
        yield from commands("", lines, f" ({number.name} after {time} s)", start)
    lines = (f"generate {SAVED} x --output n/o.png|reconstruct {PLACE}/0.png --model {SAVED} --output o.png|{SAMPLES} "
             f"--num_pictures 2|push {SAVED} --repo_id me/x|train-tokenizer --dataset_name {DATA} --output_dir n/o")
    for size in (0, 100):  # no file may grow beyond so many bytes
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        yield from commands("", lines, f" with {size} bytes", limit)
# fmt: on


def attempt(call: Callable, folder: Path, answer: Any) -> None:
    """Runs a case in a process of its own."""
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
        message = ended.code if isinstance(ended.code, str) else printed.getvalue().strip().rpartition("\n")[2]
        verdict = "refused" if message.startswith("error: ") and "\n" not in message else "OBSCURE"
    except BaseException as error:  # also MemoryError
        message = f"{type(error).__name__}: {error}"
        verdict = "refused" if isinstance(error, (ValueError, TypeError, OSError, StrictDataclassError)) else "OBSCURE"
    if len(message) > 600 or message and not NAMES.search(message):
        verdict = "OBSCURE"
    answer.send((verdict, message))


def judge(name: str, call: Callable) -> tuple[str, str]:
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
        # An interrupted command may keep whole pictures and checkpoints.
        left = [path.name for path in Path(folder).rglob("*") if "SIG" not in name or path.name.startswith(".")]
    if verdict != "worked" and left:
        verdict, message = "LEFTOVER", f"{left[:9]} {message}"
    if verdict == ("refused" if name.endswith("works") else "worked"):
        verdict = "OBSCURE" if verdict == "refused" else "SILENT"
    return verdict, " ".join(message.split())


def run(word: str = "") -> int:
    torch.set_num_threads(1)
    PIPE.save_pretrained(SAVED)
    BY_CLASS.save_pretrained(SAVED_BY_CLASS)
    columns = {"text": CAPTIONS, "label": [0, 1] * 2, "concept": ["a", "b"] * 2, "style": ["x"] * 4}
    columns["image"] = [PICTURE.rotate(90 * number) for number in range(4)]
    datasets.Dataset.from_dict(columns).to_parquet(DATA / "train.parquet")
    counts = Counter()
    for kind in (calls, folders, command_lines, interruptions):
        for name, call in kind():
            if word in f"{kind.__name__} {name}":
                verdict, message = judge(name, call)
                counts[verdict] += 1
                if verdict.isupper() or word:
                    print(f"  {verdict:8} {name:.90}: {message[:200]}", flush=True)
    print(f"{counts.total()} inputs: {dict(counts)}")
    return int(any(verdict.isupper() for verdict in counts))


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:2]))
