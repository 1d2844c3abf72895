# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What is too slow for the tests of `rq_hf.language`: 10,000 samples, 16,384 tokens, `torch.compile`, all on a CPU.

`PYTHONPATH=tests python research/language/checks.py` prints one line per check.
"""

import tempfile
import time

import torch
from test_language import SIZES, generate, make_model, make_rqvae, make_tokenizer
from transformers import AutoTokenizer

from rq_hf import ImageTokens


def sampled_ids_keep_to_the_grammar(shared: bool) -> str:
    image_tokens = ImageTokens(make_rqvae(shared_codebook=shared), make_tokenizer())
    model = make_model()
    image_tokens.extend(model, pad_to_multiple_of=64)
    model.generation_config.eos_token_id = None  # rows go on to their full length
    inputs = image_tokens.tokenizer(["a", "a<image>"], padding=True, padding_side="left", return_tensors="pt")
    torch.manual_seed(0)
    settings = dict(do_sample=True, top_k=0, temperature=100.0, sequence_bias={(image_tokens.begin_id,): 400.0})
    output = generate(model, image_tokens, inputs, **settings, max_new_tokens=200, num_return_sequences=100)
    drawn = pictures = 0
    for row in output.tolist():
        start = len(row) - row[::-1].index(image_tokens.begin_id) - 1
        complete = row if image_tokens.end_id in row[start:] else row[:start]
        pictures += len(image_tokens.decode(complete, output_type="latent"))
        drawn += len(row) - inputs.input_ids.shape[1]
    return f"{drawn} ids, {pictures} pictures, all in the grammar"


def a_large_codebook_is_quick() -> str:
    times = {}
    rqvae = make_rqvae(codebook_size=16384)
    started = time.perf_counter()
    image_tokens = ImageTokens(rqvae, make_tokenizer())
    times["add"] = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        image_tokens.save_pretrained(folder)
        times["save"] = time.perf_counter() - started
        started = time.perf_counter()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        times["load tokenizer"] = time.perf_counter() - started
    text = tokenizer.decode(image_tokens.encode(torch.zeros(1, 2, 2, 3, dtype=torch.long))[0])
    started = time.perf_counter()
    tokenizer([text + "a red heart"] * 100)
    times["tokenize 100 captioned pictures"] = time.perf_counter() - started
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())


def compiled_models_draw_the_same(family: str) -> str:
    image_tokens = ImageTokens(make_rqvae(), make_tokenizer(family))
    model = make_model(family)
    image_tokens.extend(model)
    prompts = ["a cat<image>", "a red heart, a blue star<image>"]
    inputs = image_tokens.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    expected = generate(model, image_tokens, inputs)
    model.forward = torch.compile(model.forward)
    same = torch.equal(generate(model, image_tokens, inputs, cache_implementation="static"), expected)
    return f"equal to eager: {same}"


def main() -> None:
    for shared in (True, False):
        print(f"sampling, {'shared' if shared else 'separate'} codebooks:", sampled_ids_keep_to_the_grammar(shared))
    print("16,384 codes:", a_large_codebook_is_quick())
    for family in SIZES:
        print(f"torch.compile and StaticCache, {family}:", compiled_models_draw_the_same(family), flush=True)


if __name__ == "__main__":
    main()
