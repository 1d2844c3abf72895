# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Codes as tokens of a language model: round trips, three families of models, grammar, and bad input."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Tokenizer, LlamaTokenizer, Qwen2Tokenizer

from rq_hf import ImageTokens, ImageTokensLogitsProcessor, RQVAEConfig, RQVAEModel

ROOT = Path(__file__).parents[1]
EMOJI = ROOT / "tests" / "fixtures" / "emoji" / "train" / "noto"
TEXT = "a red heart, a blue star"
LLAMA = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SIZES = {"llama": LLAMA, "gpt2": dict(n_embd=32, n_layer=2, n_head=2), "qwen2": LLAMA | dict(num_key_value_heads=2)}


def make_rqvae(seed: int = 0, **fields) -> RQVAEModel:
    torch.manual_seed(seed)
    sizes = dict(
        image_size=8, base_channels=8, channel_multiplier=(1, 1, 1), num_res_blocks=1, attention_levels=(),
        latent_channels=8, norm_num_groups=4, codebook_size=16, codebook_dim=8, code_depth=3,
    )  # fmt: skip
    return RQVAEModel(RQVAEConfig(**{**sizes, **fields})).eval()


def make_tokenizer(family: str = "llama"):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    if family == "llama":
        letters = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(97, 123))]
    vocab = {token: row for row, token in enumerate(["<pad>", "</s>", *letters])}
    kind = {"llama": LlamaTokenizer, "gpt2": GPT2Tokenizer, "qwen2": Qwen2Tokenizer}[family]
    return kind(vocab, [], bos_token="</s>", eos_token="</s>", unk_token="<pad>", pad_token="<pad>")


def make_model(family: str = "llama", **fields):
    """A model whose logits depend visibly on the ids, and that has more rows than its tokenizer has tokens."""
    torch.manual_seed(0)
    fields = dict(vocab_size=300, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=1) | fields
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES[family], **fields)).eval()


@pytest.fixture
def image_tokens() -> ImageTokens:
    return ImageTokens(make_rqvae(), make_tokenizer())


@pytest.fixture
def separate() -> ImageTokens:
    return ImageTokens(make_rqvae(shared_codebook=False), make_tokenizer())


def generate(model, image_tokens, inputs, **settings):
    settings = {"max_new_tokens": image_tokens.num_codes + 1, "do_sample": False} | settings
    return model.generate(**inputs, logits_processor=[ImageTokensLogitsProcessor(image_tokens)], **settings)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("depth", [1, 2, None])
def test_codes_and_text_come_back_from_a_row_of_ids(shared, depth):
    image_tokens = ImageTokens(make_rqvae(shared_codebook=shared), make_tokenizer(), depth=depth)
    assert len(image_tokens.ids) == 2 + 16 * (1 if shared else depth or 3)
    tokenizer, codes = image_tokens.tokenizer, torch.randint(16, (2, 2, 2, depth or 3))
    text, (one, two) = tokenizer(TEXT).input_ids, image_tokens.encode(codes).tolist()
    row = text + one + text + two + text
    assert torch.equal(image_tokens.decode(row, output_type="latent"), codes)
    assert tokenizer.decode(row, skip_special_tokens=True) == tokenizer.decode(text * 3)
    assert tokenizer(tokenizer.decode(one)).input_ids == one
    names = tokenizer.convert_ids_to_tokens(one[1 : 1 + (depth or 3)])  # the first position, coarse to fine
    assert [int(name.strip("<>").split("_")[-1]) for name in names] == codes[0, 0, 0].tolist()


def test_pictures_are_the_reconstruction_of_the_rqvae(image_tokens):
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    row, expected = image_tokens.encode(pixels).flatten(), image_tokens.rqvae(pixels).reconstruction
    torch.testing.assert_close(image_tokens.decode(row, output_type="pt"), (expected / 2 + 0.5).clamp(0, 1))
    image = Image.new("RGB", (8, 8), "gray")
    ids = image_tokens.encode([image, image.resize((20, 30))])
    assert ids.shape == (2, 14) and torch.equal(ids[0], image_tokens.encode(image)[0])
    assert [image.size for image in image_tokens.decode(ids.flatten())] == [(8, 8), (8, 8)]


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_extended_models_keep_their_logits_of_text_and_load_again(family, tied, tmp_path):
    tokenizer, model = make_tokenizer(family), make_model(family, tie_word_embeddings=tied)
    before = model(**tokenizer(TEXT, return_tensors="pt")).logits[..., : len(tokenizer)]
    image_tokens = ImageTokens(make_rqvae(), tokenizer)
    image_tokens.extend(model, pad_to_multiple_of=64)
    after = model(**tokenizer(TEXT, return_tensors="pt")).logits
    assert after.shape[-1] % 64 == 0
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    model.save_pretrained(tmp_path)
    image_tokens.save_pretrained(tmp_path)
    loaded, loaded_model = ImageTokens.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.ids == image_tokens.ids and loaded.code_shape == (2, 2, 3)
    torch.testing.assert_close(loaded_model(**loaded.tokenizer(TEXT, return_tensors="pt")).logits, after)
    with pytest.raises(ValueError, match="`model` must not have image tokens"):
        loaded.extend(loaded_model)


def test_new_rows_point_as_their_codes_do(image_tokens):
    model = make_model()
    image_tokens.extend(model)
    weight, vectors = model.get_input_embeddings().weight.detach(), image_tokens.rqvae.codebook[0]
    rows = weight[image_tokens.ids[2:]] - weight[: image_tokens.begin_id].mean(0)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(rows[:, None], rows, dim=-1), cosine(vectors[:, None], vectors, dim=-1))


def test_sampled_ids_keep_to_the_grammar(separate):
    model = make_model()
    separate.extend(model, pad_to_multiple_of=64)
    inputs = separate.tokenizer(["a" * 4, TEXT + "<image>"], padding=True, padding_side="left", return_tensors="pt")
    # Nearly uniform, but about every sixth id outside a picture starts one.
    settings = dict(do_sample=True, top_k=0, temperature=100.0, sequence_bias={(separate.begin_id,): 400.0})
    output, pictures = generate(model, separate, inputs, **settings, max_new_tokens=100, num_return_sequences=10), 0
    for row in output.tolist():
        start = len(row) - row[::-1].index(separate.begin_id) - 1  # the last picture may be incomplete
        row = row if separate.end_id in row[start:] else row[:start]
        pictures += len(separate.decode(row, output_type="latent"))
    assert pictures >= 60


def test_a_picture_has_exactly_its_codes_and_text_alone_has_none(separate):
    model, inputs = make_model(), separate.tokenizer(TEXT + "<image>", return_tensors="pt")
    separate.extend(model)
    output = generate(model, separate, inputs, max_new_tokens=50, eos_token_id=separate.end_id)
    assert output.shape[1] == inputs.input_ids.shape[1] + 13 and output[0, -1] == separate.end_id
    processor = ImageTokensLogitsProcessor(separate, allow_start=False)
    scores = processor(separate.tokenizer(TEXT, return_tensors="pt").input_ids, torch.zeros(1, 400))
    assert scores[0].isfinite().nonzero().flatten().tolist() == [*range(separate.begin_id)]


def test_a_tiny_model_learns_to_draw_captions_and_to_name_pictures(image_tokens):
    model, tokenizer = make_model(initializer_range=0.02), image_tokens.tokenizer
    image_tokens.extend(model)
    captions = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
    pictures = image_tokens.encode(torch.randint(16, (8, 2, 2, 3)))
    words = tokenizer(captions, return_tensors="pt").input_ids
    end = torch.full((8, 1), tokenizer.eos_token_id)
    rows = torch.cat([torch.cat([words, pictures, end], 1), torch.cat([pictures, words, end], 1)])
    rows = torch.cat([rows, rows.roll(1, 0)], 1)  # two captions and two pictures in one row
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(150):
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    prompts = tokenizer([f"{caption}<image>" for caption in captions], return_tensors="pt")
    assert torch.equal(generate(model, image_tokens, prompts)[:, -14:], pictures)
    question = {"input_ids": pictures, "attention_mask": torch.ones_like(pictures)}
    named = generate(model, image_tokens, question, max_new_tokens=words.shape[1])
    assert tokenizer.batch_decode(named, skip_special_tokens=True) == captions


@pytest.mark.parametrize("family", SIZES)
def test_batches_padded_on_the_left_beams_and_caches_draw_as_singles_do(family):
    image_tokens, model = ImageTokens(make_rqvae(), make_tokenizer(family)), make_model(family)
    image_tokens.extend(model)
    prompts = ["a cat<image>", TEXT + "<image>"]
    inputs = image_tokens.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    output = generate(model, image_tokens, inputs)
    for settings in ({"cache_implementation": "static"}, {"use_cache": False}):
        assert torch.equal(generate(model, image_tokens, inputs, **settings), output)
    for prompt, row in zip(prompts, output, strict=True):
        single = image_tokens.tokenizer(prompt, return_tensors="pt")
        assert torch.equal(generate(model, image_tokens, single)[0, -13:], row[-13:])
    beams = generate(model, image_tokens, inputs, num_beams=3, num_return_sequences=2)
    assert [len(image_tokens.decode(row, output_type="latent")) for row in beams] == [1] * 4


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_loads_on_a_model_extended_anew_and_gives_the_old_text_when_off(image_tokens, tied, tmp_path):
    peft = pytest.importorskip("peft")
    model, fresh = (make_model(tie_word_embeddings=tied) for _ in range(2))
    image_tokens.extend(model)
    image_tokens.extend(fresh)
    text = image_tokens.tokenizer(TEXT, return_tensors="pt")
    picture = image_tokens.encode(torch.ones(1, 2, 2, 3).long())
    before, head = model(**text).logits.detach(), model.get_output_embeddings().weight.detach().clone()
    ids = image_tokens.ids if tied else {"embed_tokens": image_tokens.ids, "lm_head": image_tokens.ids}
    lora = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=ids)
    model = peft.get_peft_model(model, lora)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    model(input_ids=picture, labels=picture).loss.backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path)
    loaded, after = peft.PeftModel.from_pretrained(fresh, tmp_path).eval(), model(**text).logits
    assert torch.equal(loaded(**text).logits, after) and not torch.equal(after, before)
    with loaded.disable_adapter():
        assert torch.equal(loaded(**text).logits, before)
    trained = model.merge_and_unload().get_output_embeddings().weight != head
    assert trained[image_tokens.ids].any() and not trained[: image_tokens.begin_id].any()


def test_wrong_ids_are_refused_with_their_place_and_wrong_codes(separate):
    begin, *codes, end = separate.encode(torch.zeros(1, 2, 2, 3, dtype=torch.long))[0].tolist()
    wrong = {
        "code 0 of 12 from codebook 0 at place 3": [5, 6, begin, codes[1], codes[0], *codes[2:], end],
        "</image> at place 13": [begin, *codes, codes[0], end],
        "code 2 of 12 from codebook 2 at place 3, got the end": [begin, *codes[:2]],
        "code 1 of 12 from codebook 1 at place 2": [begin, codes[0], begin],
        "text or <image> at place 1, got id 9999": [5, 9999],
        "text or <image> at place 15": [*[begin, *codes, end], 5, codes[0]],
        "a picture, got none": [5, 6],
        "one row of ids": [[begin, *codes, end]],
    }
    for message, ids in wrong.items():
        with pytest.raises(ValueError, match=f"`ids` must (have|be) {message}"):
            separate.decode(ids)
    for message, codes in (
        (r"have shape \(batch_size, 2, 2, 3\), got \(1, 2, 2, 2\)", torch.zeros(1, 2, 2, 2).long()),
        (r"be integers in \[0, 16\), got values from 16", torch.full((1, 2, 2, 3), 16)),
    ):
        with pytest.raises(ValueError, match=f"The codes of `images` must {message}"):
            separate.encode(codes)


def test_another_rqvae_and_a_tokenizer_with_the_tokens_are_refused_and_stay_as_they_are(image_tokens, tmp_path):
    with pytest.raises(ValueError, match="`tokenizer` must have no image tokens.*got </image>"):
        ImageTokens(make_rqvae(codebook_size=32), image_tokens.tokenizer)
    with pytest.raises(ValueError, match="`depth` must be an integer from 1 to 3, got 4"):
        ImageTokens(make_rqvae(), make_tokenizer(), depth=4)
    assert len(image_tokens.tokenizer) == image_tokens.ids[-1] + 1
    image_tokens.save_pretrained(tmp_path)
    for other in (make_rqvae(seed=1), make_rqvae(image_size=16), make_rqvae(codebook_size=32)):
        with pytest.raises(ValueError, match="`rqvae` must have the codebook"):
            ImageTokens.from_pretrained(tmp_path, rqvae=other)
    assert ImageTokens.from_pretrained(tmp_path, rqvae=image_tokens.rqvae).ids == image_tokens.ids


def test_the_guide_runs(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    make_model().save_pretrained("my-llm")
    make_tokenizer().save_pretrained("my-llm")
    for path in (ROOT / "checkpoints", EMOJI / "red-heart.png", EMOJI / "rocket.png"):
        Path(path.name).symlink_to(path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", page.replace("max_steps=300", "max_steps=1"), re.DOTALL):
        exec(compile(block, "language_models.md", "exec"), namespace)
    assert Image.open("heart.png").size == (64, 64) and len(namespace["pictures"]) == 2
