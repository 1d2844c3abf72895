# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tries hostile and broken inputs: `python research/hostile_inputs.py [WORD IN A KIND OR THE NAME OF AN INPUT]`.

Each input runs in its own process, in an empty folder, with a limit of time and memory. It must be refused by one
short line that names the argument or the file; a few inputs must work. All else is a defect, is printed, and makes the
exit code 1: SILENT (accepted), OBSCURE (another error), HANG (no end), LEFTOVER (files stay behind).
"""

import contextlib
import io
import itertools
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

PLACE = Path(tempfile.mkdtemp(prefix="hostile-"))
os.environ |= {"HF_HOME": str(PLACE / "cache"), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}

import datasets  # noqa: E402  this and others read the environment
import numpy as np  # noqa: E402
import torch  # noqa: E402
from huggingface_hub.errors import OfflineModeIsEnabled, StrictDataclassError  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import rq_hf  # noqa: E402
from rq_hf import cli, conversion, hub, images, training  # noqa: E402

SECONDS, MEMORY = 30, 2**32  # of one input
CLEAR_ERRORS = (ValueError, TypeError, OSError, StrictDataclassError)
# What a message names: an argument, a flag, a path, a file, a field of a configuration, or what was typed.
NAMES = re.compile(
    r"`[^`]+`|--\w|/|\w\.(json|safetensors|yaml|pt|png|md)\b|[Ff]ield '|Repo id|argument|stage|COMM|Column|typo|"
    "interrupted|File too large"
)
NAN, INF, STAGES = float("nan"), float("inf"), ("stage1", "stage2")
Case = tuple[str, Callable[[], Any]]  # a name, which ends in "works" if the input must work, and what is tried
RQVAE = {
    "image_size": 16, "base_channels": 8, "channel_multiplier": [1, 2, 2], "attention_levels": [2],
    "latent_channels": 8, "norm_num_groups": 4, "codebook_size": 32, "codebook_dim": 8, "code_depth": 3,
}  # fmt: skip
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


def each(name: str, call: Callable, arguments: dict[str, list], **good: Any) -> Iterator[Case]:
    """One case for each value of each argument; the other arguments are good."""
    for argument, values in arguments.items():
        for value in values:
            shown = tuple(value.shape) if isinstance(value, torch.Tensor | np.ndarray) else value
            yield f"{name}({argument}={shown!r:.50})", lambda v=value, a=argument: call(**good | {a: v})


def command(line: str, about: str = "") -> Case:
    """A command line as a case, named by its words without folders."""
    words = shlex.split(line)
    shown = " ".join(Path(word).name for word in words).encode(errors="replace").decode()
    return f"rq-hf {shown}{about}", lambda: cli.main(words)


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
    picture.save(buffer := io.BytesIO(), format)
    return buffer.getvalue()


def data_set(spoilt: dict[str, Any] | None = None, order: int = 1, feature: Any = None) -> Path:
    """A data set of four rows, in the order of 1 or -1, and before them one whose other parts are `spoilt`."""
    turned = [{"bytes": picture_file(PICTURE.rotate(90 * number)), "path": None} for number in range(4)]
    columns = {"image": turned, "text": CAPTIONS, "label": [0, 1] * 2, "concept": ["a", "b"] * 2, "style": ["x"] * 4}
    columns = {name: values[::order] for name, values in columns.items()}
    if spoilt is not None:
        columns = {name: [spoilt.get(name, values[0]), *values] for name, values in columns.items()}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image(decode=False))
    rows = rows if feature is None else rows.cast_column("label", feature)
    folder = Path(tempfile.mkdtemp(dir=PLACE))
    rows.to_parquet(folder / "train.parquet")
    return folder


PIPE, BY_CLASS = make_pipeline(vocab_size=80, condition_length=6), make_pipeline(vocab_size=3, condition_length=1)
SAVED, SAVED_BY_CLASS, DATA = PLACE / "saved", PLACE / "by_class", data_set()
SPLIT = f"--dataset_name {DATA} --split train"


# fmt: off
def calls() -> Iterator[Case]:
    codes, mask, ids = torch.zeros(1, 4, 4, 3).long(), torch.ones(4, 4) > 0, torch.zeros(1, 6).long()
    bad_codes = [codes[0], codes - 1, codes + 32, codes.float(), codes.to(torch.complex64), codes.tolist(), codes[:0]]
    bad_ids = [None, ids.tolist(), ids.float(), ids[0], ids[:, :5], ids - 1, ids + 80, ids[:0], ids > 0]
    sampling = {"temperature": [0, -1, NAN, "hot", [1, 1], [1, 1, -1], True], "top_k": [0, 2.5, "8", [1, 2], NAN],
                "top_p": [0, 1.1, -0.5, NAN, [0.5] * 2, "x"], "guidance_scale": [-1, NAN, INF, "2", [2.0], 3.0],
                "known_codes": bad_codes, "known_mask": [mask, mask.float(), mask[:2], [[True]]]}
    yield from each("pipe", PIPE, sampling | {
        "prompt": [None, [], 7, b"a heart", ["a", None], "\udcff", {"a": 1}], "class_labels": [1], "classifier": ["x"],
        "negative_prompt": ["a cat", 5, ["a"] * 3], "num_candidates": [4], "acceptance_rate": [0.5],
        "num_images_per_prompt": [0, -1, 1.5, "2", True, None, 10**9, NAN], "output_type": ["jpg", None, 3],
        "generator": ["seed", 7, [torch.Generator()] * 5, [3]], "ranker": ["likelihood"],
        "callback_on_step_end_tensor_inputs": [["latents"], "codes"]}, prompt="a heart")
    yield from each("by_class", BY_CLASS, {"class_labels": [None, [], "cats", -1, 3, 1.5, [0, None], "x" * 10**6]})
    yield from each("generate", PIPE.transformer.generate, sampling | {"input_ids": bad_ids}, input_ids=ids)
    depths = {"codes": bad_codes, "depth": [0, 4, 1.5, True, None, "1"]}
    yield from each("log_likelihood", PIPE.transformer.log_likelihood, depths, input_ids=ids, codes=codes)
    yield from each("decode", PIPE.rqvae.decode, {"codes": bad_codes})
    for weight in (PIPE.rqvae.decoder.conv_out.bias, PIPE.transformer.depth_decoder.projection.weight):
        drawn = lambda weight=weight, **options: (weight.data.fill_(NAN), PIPE("a heart", **options))  # noqa: E731
        yield from each(f"NaN in {tuple(weight.shape)}", drawn, {"output_type": ["pil", "np", "pt"]})
    parts = {"rqvae": ["x", PIPE.transformer], "transformer": [7], "tokenizer": ["x"], "sampling": [{"a": 1}]}
    yield from each("pipeline", rq_hf.RQImageGenerationPipeline, parts, rqvae=PIPE.rqvae, transformer=PIPE.transformer)
    yield "a long prompt works", lambda: PIPE("x " * 10**5)


def pictures() -> Iterator[Case]:
    array, large = np.zeros((1, 16, 16, 3), np.float32), torch.rand(1, 3, 2048, 2048)
    white, inpaint = Image.new("L", PICTURE.size, 255), rq_hf.RQInpaintPipeline(**PIPE.components)
    bad = [None, [], "picture.png", 7, b"", [PICTURE, "x"], Image.new("F", (16, 16)), array + 2, array + NAN,
           array.astype(np.uint8), array[0, 0], array[..., :2], torch.zeros(1, 4, 16, 16)]
    masks = [None, 1, [], torch.ones(3, 3), array[..., 0] - 1, Image.new("L", PICTURE.size), white.convert("F")]
    good, depths = {"image": PICTURE, "prompt": "a heart"}, [0, 4, -1, 1.5, "1"]
    edited = {"image": [*bad[:8], large], "mask_image": masks, "padding_mask_crop": [-1, "1"]}
    yield from each("inpaint", inpaint, edited, mask_image=white, **good)
    yield from each("vary", PIPE.vary, {"image": [large], "keep_depths": depths}, **good)
    yield from each("reconstruct", PIPE.reconstruct, {"image": bad, "depth": depths}, image=PICTURE)
    contents = [b"", b"x" * 999, picture_file(PICTURE, "EPS"), picture_file(PICTURE)[:500], 7, "typo.png", PLACE]
    yield from each("decode_picture", images.decode_picture, {"image": contents})


def model_folders() -> Iterator[Case]:
    """Loaded and pushed; what is pushed works as far as the Hub, which cannot be reached."""
    def push(folder: Path, **options: Any) -> None:
        with contextlib.suppress(OfflineModeIsEnabled):
            hub.push_folder(folder, "me/x", **options)

    load, weights = rq_hf.RQImageGenerationPipeline.from_pretrained, (SAVED / "rqvae/model.safetensors").read_bytes()
    broken: list[bytes | dict] = [b"", b"{", b"[]", b"null", b"\xff"]
    for file, values in {
        "model_index.json": [*broken, {"rqvae": ["rq_hf", "X"]}, {"transformer": None}, {"sampling": {"temp": 1}}],
        "rqvae/config.json": [*broken, {"model_type": "bert"}, {"num_res_blocks": 10**9}, {"image_size": "16"}],
        "transformer/config.json": [*broken, {"hidden_size": 36}, {"num_spatial_layers": 10**9}],
        "tokenizer/tokenizer.json": broken, "tokenizer/tokenizer_config.json": [b"{", b"[]", b"null"],
        "rqvae/model.safetensors": [b"", weights[:-9], weights[:999], b"\xff" * 8 + weights, b"\x80\x04N."],
        "transformer/model.safetensors": [b"", weights]}.items():
        for number, value in enumerate(values):
            if isinstance(value, dict):
                value = json.dumps(json.loads((SAVED / file).read_bytes()) | value).encode()
            place = folder_with({file: value}, SAVED)
            yield f"load with {file} {number}", lambda p=place: load(p)
            if number < 2 and "tokenizer" not in file and value != weights:
                yield f"push with {file} {number}", lambda p=place: push(p)
    places = {"pretrained_model_name_or_path": [PLACE / "typo", "a/b/c", "", "x" * 300, SAVED / "transformer"]}
    yield from each("load", load, places)
    whole = folder_with({"codes.npy": b"x", "optimizer.PT": b"x", "README.md": b"[" * 10**5}, SAVED)
    for name in ("pipe.json", "rqvae/model-2.safetensors", "pipe.png"):
        os.mkfifo(whole / name)
    (whole / "linked").symlink_to(PLACE)
    yield "push with named pipes, pickles and a linked folder works", lambda: push(whole)
    linked = folder_with({}, SAVED)
    (linked / "rqvae/secret.txt").symlink_to("/etc/hostname")
    yield from each("push", push, {"folder": [linked, folder_with({"README.md": b"\xff"}, SAVED), PLACE / "typo"]})


def conversions() -> Iterator[Case]:
    arch = ("arch: {ddconfig: {resolution: 16, in_channels: 3, ch: 8, ch_mult: %s, num_res_blocks: %s, z_channels: 8, "
            "attn_resolutions: []}, hparams: {n_embed: 8, embed_dim: 8, code_shape: [4, 4, 3], shared_codebook: 1}}")
    texts = ["", "[]", "arch: {}", "\x00", "a: !!python/object/apply:os.system [ls]", "[" * 9000, "x" * 10**6,
             "a: &a [x]\n" + arch % ("*a", 1), arch % ([1, 2], "x"), arch % ([1], 10**9)]
    torch.save({"state_dict": {"x": torch.zeros(1)}}, buffer := io.BytesIO())
    contents = [(text.encode(), buffer.getvalue()) for text in texts]
    contents += [(b"arch: {}", pickled) for pickled in (b"", b"\x80\x04N.", b"x" * 99, buffer.getvalue()[:300])]
    for text, pickled in contents:
        sources = [folder_with({f"{stage}/config.yaml": text, f"{stage}/model.pt": pickled}) for stage in STAGES]
        yield from each(f"convert {text[:20]}", conversion.convert_checkpoint, {"checkpoint": sources}, output="new")


def commands() -> Iterator[Case]:
    broken = folder_with({"rqvae/model.safetensors": b"x" * 99, "a.png": picture_file(PICTURE)}, SAVED)
    wordless = folder_with({"tokenizer/tokenizer.json": b"{"}, SAVED)
    samples = f"evaluate samples {SAVED} --output o.json --feature_extractor pixels --num_pictures"
    for line, endings in {
        f"generate {SAVED} x": "--top_p 2|--device tpu|--device meta|--num_images 0|--num_images 1000000000|--seed -1|"
        "--seed 9999999999999999999999|--output o.xyz|--output no/o|--temperature a|--class_labels 1|--ranker typo/x|"
        "--num_candidates 1000000000 --ranker likelihood|--ranker typo/x --num_candidates 8|--output /dev/null/o.png",
        "generate": f"|{SAVED}|{SAVED} \udcff|{broken} x|{wordless} x|typo x|./typo x|typo/a/b x",
        f"reconstruct --model {SAVED}": f"|typo.png|{SAVED}/model_index.json|{broken}/a.png --output o.txt",
        f"reconstruct {broken}/a.png --model": f"|typo|{broken}",
        samples: f"0|-1|x|2|2 {SPLIT}|2 --dataset_name {DATA}|2 --dataset_name typo --split train",
        f"{samples} 2 {SPLIT} --caption_column": "x|text --top_p 2|text --reference typo|text --batch_size 0|"
        f"text --feature_extractor {broken}/a.png|text --clip_model typo|text --precision_recall",
        "evaluate": f"|prompts {SAVED} {SPLIT}|rqvae {broken} {SPLIT}|likelihood {SAVED} {SPLIT}x",
        f"evaluate rqvae {SAVED} {SPLIT}": "--filter x=1|--filter x|--image_column x|--transform x",
        f"evaluate likelihood {SAVED} {SPLIT}": "|--caption_column x",
        f"evaluate likelihood {SAVED_BY_CLASS} {SPLIT} --label_column": "image|typo|concept",
        "convert": f"|--checkpoint typo --output o.json|--checkpoint {SAVED} --output o/p",
        "push": f"|typo --repo_id me/x|{broken} --repo_id me/x|{SAVED} --repo_id ''",
        "": f"|draw|app typo --port 99999999|train-tokenizer --dataset_name {DATA} --output_dir {DATA}/train.parquet",
    }.items():
        yield from (command(f"{line} {ending}") for ending in endings.split("|"))
    yield command(f"generate {SAVED} 'a heart' --output new/o.png", " works")


def ranges() -> Iterator[Case]:
    """Every declared range is left in Python, by a recipe and by a flag, and so are some types and choices."""
    data = {"dataset_name": str(DATA), "rqvae_name_or_path": str(SAVED), "tokenizer_name_or_path": str(SAVED)}
    others = {"max_steps": [2.7], "learning_rate": ["x"], "save_dtype": ["float8"], "filter": [5], "transform": ["x"],
              "attention_levels": [[9]], "norm_num_groups": [5], "null_condition_ids": [[1]], "typo": [1]}
    for word, classes in {
        "train-rqvae": (rq_hf.RQVAEConfig, training.RQVAETrainingArguments, training.DataArguments),
        "train-rqt": (rq_hf.RQTransformerConfig, training.RQTransformerTrainingArguments, training.CodeDataArguments),
    }.items():
        base = {"model": RQVAE if word == "train-rqvae" else TRANSFORMER, "training": {"use_cpu": True}}
        known = [{field.name: field for field in fields(each)} for each in classes]
        base["data"] = {name: value for name, value in data.items() if name in known[2]}
        for section, cls, declared in zip(base, classes, known, strict=True):
            wrong = {name: others[name] for name in others if name in declared}
            for name, allowed in ((name, each.metadata.get("range")) for name, each in declared.items()):
                if allowed is not None:
                    numbers = [NAN, allowed.low if allowed.brackets[0] == "(" else allowed.low - 1]
                    numbers += [] if allowed.high == INF else [allowed.high + (allowed.brackets[1] == "]")]
                    wrong[name] = [[number] for number in numbers] if name == "channel_multiplier" else numbers
            yield from each(cls.__name__, cls, wrong)
            for name, value in [(name, value) for name, values in wrong.items() for value in values]:
                recipe = base | {section: base[section] | {name: value}}
                paths = [folder_with({"r.json": json.dumps(each).encode()}) / "r.json" for each in (recipe, base)]
                yield command(f"{word} {paths[0]}", f" with {section}.{name} {value!r}")
                flag = value if isinstance(value, str) else json.dumps(value)
                yield command(f"{word} {paths[1]} --{name}={shlex.quote(flag)}")


def data_sets() -> Iterator[Case]:
    """Spoilt rows and other orders leave all figures as they are; folders of other things are refused."""
    def same_figures(line: str, *folders: Path) -> None:
        for number, folder in enumerate(folders):
            cli.main(shlex.split(f"evaluate {line} --split train --dataset_name {folder} --output {number}.json"))
        first, second = (json.loads(Path(f"{number}.json").read_text())["metrics"] for number in (0, 1))
        assert all(np.isclose(first[name], second[name], rtol=1e-5) for name in first), (first, second)

    pixels, rows = "--feature_extractor pixels", {"image": {"bytes": b"x" * 99, "path": None}, "text": None}
    for what, flags in {"rqvae": pixels, "likelihood": "--caption_column text", "prompts": f"{pixels} --num_prompts 2",
                        "samples": f"{pixels} --caption_column text --num_pictures 2"}.items():
        for part in ("image", "text")[: 1 if what == "rqvae" else 2]:
            yield (f"evaluate {what} with a row without its {part} works",
                   lambda li=f"{what} {SAVED} {flags}", p=part: same_figures(li, DATA, data_set({p: rows[p]})))
    line, names = f"likelihood {SAVED_BY_CLASS} --label_column label", datasets.ClassLabel(names=["dog", "cat"])
    for feature in (None, names):
        call = lambda f=feature: same_figures(line, data_set(feature=f), data_set(order=-1, feature=f))  # noqa: E731
        yield f"evaluate likelihood with labels in another order {feature} works", call
    folders = {"root": "/", "nothing": "''", "typo": "typo", "broken": folder_with({"train/0.png": b"x"}),
               "tar": folder_with({"train/0.tar": b"x" * 999}), "code": folder_with({"model.py": b"x = 1"}),
               "table": folder_with({"train.parquet": b"PAR1x"}), "named pipe": folder_with({"train/1.png": b"x"})}
    os.mkfifo(folders["named pipe"] / "train" / "0.png")
    for name, folder in folders.items():
        for line in (f"evaluate rqvae {SAVED} --split train --output o.json", "train-tokenizer --output_dir o",
                     f"train-rqt small-rqt-64 --use_cpu --caption_column text --rqvae_name_or_path {SAVED}"):
            yield command(f"{line} --dataset_name {folder}", f" ({name})")


def features() -> Iterator[Case]:
    line = f"evaluate samples {SAVED} --num_pictures 2 --caption_column text {SPLIT} --feature_extractor pixels"
    for name, tensors in {"NaN": {"features": torch.full((9, 768), NAN)}, "no key": {"x": torch.ones(9, 768)},
                          "narrow": {"features": torch.ones(9, 7)}, "one": {"features": torch.ones(1, 768)}}.items():
        save_file(tensors, path := folder_with({"x": b""}) / "real.safetensors")
        yield command(f"{line} --reference_features {path} --output o.json", f" ({name})")


def signals() -> Iterator[Case]:
    """Interrupted commands tell so, and leave no unfinished file."""
    def interrupted(call: Callable, number: int, seconds: float) -> None:
        threading.Timer(seconds, os.kill, (os.getpid(), number)).start()
        call()

    recipe = {"model": RQVAE, "data": {"dataset_name": str(DATA)}, "training": {
        "use_cpu": True, "max_steps": 10**6, "perceptual_weight": 0, "adversarial_weight": 0, "save_steps": 9}}
    for line in (f"train-rqvae {folder_with({'recipe.json': json.dumps(recipe).encode()}) / 'recipe.json'}",
                 f"generate {SAVED} x --num_images 1000 --output o.png",
                 f"evaluate samples {SAVED} --num_pictures 4 --caption_column text {SPLIT} --output o.json "
                 "--feature_extractor pixels --num_candidates 5000 --ranker likelihood"):
        name, call = command(line)
        for number, seconds in itertools.product((signal.SIGINT, signal.SIGTERM), (0.3, 1, 3)):
            title = f"{number.name} after {seconds} s: {name}"
            yield title, lambda c=call, n=number, s=seconds: interrupted(c, n, s)


def full_disks() -> Iterator[Case]:
    """No file may grow beyond some bytes."""
    def limited(call: Callable, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        call()

    picture = folder_with({"0.png": picture_file(PICTURE)}) / "0.png"
    for line in (f"generate {SAVED} x --output new/o.png", f"reconstruct {picture} --model {SAVED} --output o.png",
                 f"evaluate rqvae {SAVED} {SPLIT} --output o.json", f"push {SAVED} --repo_id me/x",
                 f"evaluate samples {SAVED} {SPLIT} --output o.json --feature_extractor pixels --num_pictures 2 "
                 "--caption_column text", f"train-tokenizer --dataset_name {DATA} --output_dir new/o"):
        name, call = command(line)
        yield from ((f"{name} with {size} bytes", lambda c=call, s=size: limited(c, s)) for size in (0, 100))
# fmt: on


KINDS = (calls, pictures, model_folders, conversions, commands, ranges, data_sets, features, signals, full_disks)


def attempt(kind: str, call: Callable, folder: Path, answer: Any) -> None:
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
        message = ended.code if isinstance(ended.code, str) else printed.getvalue().strip().rpartition("\n")[2]
        verdict = "refused" if message.startswith("error: ") and "\n" not in message else "OBSCURE"
    except BaseException as error:  # also MemoryError
        message = f"{type(error).__name__}: {error}"
        verdict = "refused" if isinstance(error, CLEAR_ERRORS) else "OBSCURE"
    if len(message) > 600 or message and not NAMES.search(message):
        verdict = "OBSCURE"
    # An interrupted command may keep whole pictures and checkpoints.
    left = [path.name for path in folder.rglob("*") if kind != "signals" or path.name.startswith(".")]
    if verdict != "worked" and left:
        verdict, message = "LEFTOVER", f"{left[:9]} {message}"
    answer.send((verdict, message))


def judge(kind: str, name: str, call: Callable) -> tuple[str, str]:
    """The verdict on one input, and the message."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        process = multiprocessing.get_context("fork").Process(target=attempt, args=(kind, call, Path(folder), sender))
        process.start()
        sender.close()
        try:
            verdict, message = receiver.recv()
        except EOFError:  # killed by its alarm, or for its memory
            verdict, message = "HANG", "no answer"
        process.join()
    if verdict == ("refused" if name.endswith("works") else "worked"):
        verdict = "OBSCURE" if verdict == "refused" else "SILENT"
    return verdict, " ".join(message.split())


def run(word: str = "") -> int:
    torch.set_num_threads(1)
    PIPE.save_pretrained(SAVED)
    BY_CLASS.save_pretrained(SAVED_BY_CLASS)
    total = Counter()
    for kind in KINDS:
        counts = Counter()
        for name, call in kind():
            if word in f"{kind.__name__} {name}":
                verdict, message = judge(kind.__name__, name, call)
                counts[verdict] += 1
                if verdict.isupper() or word:
                    print(f"  {verdict:8} {name:.90}: {message[:200]}", flush=True)
        print(f"{kind.__name__}: {dict(counts)}", flush=True)
        total += counts
    print(f"{total.total()} inputs: {dict(total)}")
    return int(any(verdict.isupper() for verdict in total))


if __name__ == "__main__":
    try:
        sys.exit(run(*sys.argv[1:2]))
    finally:
        shutil.rmtree(PLACE)
