# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData, create_repo, upload_file
from PIL import Image

import rq_hf
from rq_hf import (
    RQImageGenerationPipeline,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
)
from rq_hf.caption_tokenizer import train_caption_tokenizer
from rq_hf.cards import CITATION, TrainingFootprint, evaluation_results, render_card, save_card

TEMPLATES = ("rqvae", "rq_transformer", "pipeline")
RQVAE = RQVAEConfig(
    image_size=16, base_channels=8, channel_multiplier=[1, 1, 1], attention_levels=[2], latent_channels=8,
    norm_num_groups=4, codebook_size=20, codebook_dim=8, code_depth=3, num_res_blocks=1,
)  # fmt: skip
SMALL = {"hidden_size": 16, "num_spatial_layers": 1, "num_depth_layers": 1, "num_attention_heads": 2}
CAPTIONS = RQTransformerConfig.from_rqvae_config(RQVAE, vocab_size=60, condition_length=8, **SMALL)
CLASSES = RQTransformerConfig.from_rqvae_config(
    RQVAE, vocab_size=2, condition_length=1, id2label={0: "cat", 1: "dog"}, **SMALL
)
NOTHING = RQTransformerConfig.from_rqvae_config(RQVAE, vocab_size=1, condition_length=1, **SMALL)
ARCHITECTURES = {
    "rqvae": RQVAE,
    "rq_transformer": CAPTIONS,
    "pipeline": {"rqvae": RQVAE, "transformer": CAPTIONS},
}
EVALUATION = {
    "dataset": {"name": "emoji9", "split": "test_combos"},
    "metrics": {"psnr": 26.125, "pictures": 469, "concept": {"top1": 0.25}, "code_usage": [0.75, 0.5]},
    "command": "python scripts/evaluate.py --split test_combos",
}
PARTS = {
    "repo_id": "me/emoji-64",
    "summary": "Trained on nine styles of emoji.",
    "num_parameters": 1234567,
    "example_input": "a red heart, noto style",
    "sample_images": {"samples.png": "16 samples"},
    "sampling": {"temperature": 1.0, "top_k": [64, 16], "top_p": None},
    "training_data": "10,431 drawings of 1,634 concepts.",
    "attribution": "Noto Emoji, Google, Apache-2.0.",
    "training_procedure": "Two stages.",
    "training_arguments": {"learning_rate": 0.0006, "seed": 0, "max_steps": None},
    "training_commands": ["python scripts/train_rqvae.py a.json", "python scripts/train_rqt.py b.json"],
    "evaluations": [EVALUATION],
    "intended_use": "To try the library.",
    "limitations": "- It knows no flags.",
    "footprint": TrainingFootprint(10, "2 CPU cores", power_watts=30, carbon_intensity=0.4, location="Korea"),
}
METADATA = {
    "license": "apache-2.0",
    "language": "en",
    "datasets": ["me/emoji9"],
    "base_model": "me/emoji-64-rqvae",
    "tags": ["emoji"],
    "model_name": "emoji-64",
}


def full_card(template):
    return render_card(template, ModelCardData(**METADATA), architecture=ARCHITECTURES[template], **PARTS)


def headings(card):
    outside_code = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
    return re.findall(r"^#+ (.+)$", outside_code, flags=re.MULTILINE)


def snippet(card):
    return re.search(r"```python\n(.*?)```", card.text, flags=re.DOTALL)[1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_full_card_tells_everything_it_is_given(template):
    text = full_card(template).text
    expected = [
        *("# emoji-64\n", "Trained on nine styles of emoji.", "1,234,567", "![16 samples](samples.png)", "4 x 4 x 3"),
        *("10,431 drawings", "Google, Apache-2.0.", "Two stages.", "| learning_rate | 0.0006 |", "| seed | 0 |"),
        *(
            "train_rqvae.py a.json\npython scripts/train_rqt.py b.json\n",
            "--split test_combos\n",
            "- It knows no flags.",
        ),
        *("| emoji9 | test_combos | PSNR (dB) | 26.12 |", "| emoji9 | test_combos | concept.top1 | 0.25 |"),
        *("To try the library.", "| Emissions (estimate) | 0.12 kg CO2eq", "arxiv.org/abs/2203.01941", CITATION),
    ]
    assert [part for part in expected if part not in text] == []
    assert "max_steps" not in text and "None" not in text
    if template != "rqvae":
        assert "| top_k | 64, 16 |" in text and "top_p | " not in text and "cut after 8 tokens" in text


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_not_given_has_no_section(template):
    card = render_card(template, ModelCardData())
    assert headings(card)[1:] == ["How to use", "Intended use and limits", "Citation"]
    assert not re.search(r"None|Undefined|more information", card.text, re.IGNORECASE)


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_card_has_an_empty_section_or_stray_blank_lines(template):
    whole = full_card(template)
    assert len(headings(whole)) > 10
    for card in (
        whole,
        render_card(template, ModelCardData()),
        *(
            render_card(template, ModelCardData(), architecture=ARCHITECTURES[template], **{name: value})
            for name, value in PARTS.items()
        ),
    ):
        for match in re.finditer(r"^(#+) .+\n+(#*)", card.text, flags=re.MULTILINE):
            assert not match[2] or len(match[2]) > len(match[1]), match[0]
        assert "\n\n\n" not in card.text and card.text.endswith("```\n") and card.content.startswith("---\n")


@pytest.mark.parametrize("template", TEMPLATES)
def test_metadata_round_trips_evaluation_results_included(template, tmp_path):
    card = full_card(template)
    loaded = ModelCard.load(save_card(card, tmp_path))
    assert loaded.data.to_dict() == card.data.to_dict()
    assert loaded.data.eval_results == evaluation_results(EVALUATION, task_type=card.data.pipeline_tag)
    assert {name: getattr(loaded.data, name) for name in METADATA if name != "tags"} == {
        name: value for name, value in METADATA.items() if name != "tags"
    }
    assert loaded.data.tags[0] == "emoji" and "rq_hf" in loaded.data.tags
    assert loaded.data.co2_eq_emissions["emissions"] == 120  # grams
    assert loaded.text.strip() == card.text.strip()


def test_library_and_task_follow_the_kind_of_model():
    def metadata(template, architecture=None, **kwargs):
        data = render_card(template, ModelCardData(**kwargs), architecture=architecture).data
        return data.library_name, data.pipeline_tag, "class-conditional" in data.tags

    assert metadata("rqvae") == ("rq_hf", "image-feature-extraction", False)
    assert metadata("rq_transformer", CAPTIONS) == ("rq_hf", "text-to-image", False)
    assert metadata("rq_transformer", CLASSES) == ("rq_hf", "unconditional-image-generation", True)
    assert metadata("pipeline", {"transformer": NOTHING}) == ("diffusers", "unconditional-image-generation", False)
    assert metadata("pipeline", pipeline_tag="image-to-image") == ("diffusers", "image-to-image", False)


def test_the_given_metadata_is_not_changed():
    data = ModelCardData(license="mit", tags=["emoji"])
    render_card("rqvae", data, evaluations=[EVALUATION], repo_id="me/model")
    assert data.to_dict() == {"license": "mit", "tags": ["emoji"]}


def test_evaluation_results_are_added_to_those_in_the_metadata():
    known = EvalResult("image-to-image", "imagenet-1k", "ImageNet", "rfid", 4.73, dataset_split="validation")
    card = render_card("rqvae", ModelCardData(model_name="a", eval_results=[known]), evaluations=[EVALUATION])
    assert [result.metric_type for result in card.data.eval_results] == [
        *("rfid", "psnr", "pictures", "concept.top1", "code_usage.1", "code_usage.2")
    ]
    assert "| ImageNet | validation | rfid | 4.73 |" in card.text


def test_the_null_condition_is_no_class():
    config = RQTransformerConfig.from_rqvae_config(
        RQVAE, vocab_size=4, condition_length=1, null_condition_ids=[3], **SMALL
    )
    card = render_card("rq_transformer", ModelCardData(), architecture=config)
    assert config.num_classes == 3 and "one of 3 classes" in card.text


def test_the_snippet_reads_pictures_of_the_channels_of_the_model():
    grey = RQVAEConfig(**RQVAE.to_diff_dict() | {"num_channels": 1})
    text = snippet(render_card("rqvae", ModelCardData(), architecture=grey))
    assert '.convert("L")' in text and "(1, 1, size, size)" in text
    text = snippet(render_card("rqvae", ModelCardData(), architecture=RQVAE))
    assert '.convert("RGB")' in text and "(1, 3, size, size)" in text


def test_a_configuration_may_be_a_dictionary(caplog):
    assert render_card("rqvae", ModelCardData(), architecture=RQVAE.to_dict()).text == (
        render_card("rqvae", ModelCardData(), architecture=RQVAE).text
    )
    parts = {"rqvae": RQVAE.to_dict(), "transformer": CLASSES.to_dict()}
    assert "one of 2 classes" in render_card("pipeline", ModelCardData(), architecture=parts).text
    assert caplog.records == []


def test_evaluation_results_come_from_a_file_too(tmp_path):
    path = tmp_path / "evaluation.json"
    dataset = {"name": "Emoji", "type": "me/emoji9", "config": "64px", "split": "test", "revision": "abc"}
    path.write_text(json.dumps({"dataset": dataset, "metrics": {"clip_score": 0.25}}))
    (result,) = evaluation_results(path)
    assert result == EvalResult(
        task_type="text-to-image",
        dataset_type="me/emoji9",
        dataset_name="Emoji",
        dataset_config="64px",
        dataset_split="test",
        dataset_revision="abc",
        metric_type="clip_score",
        metric_name="CLIP score",
        metric_value=0.25,
    )
    path.write_text("{")
    with pytest.raises(ValueError, match=f"`evaluation` must be a file of JSON, got '{path}'"):
        evaluation_results(path)


def test_numpy_metrics_become_plain_numbers():
    metrics = {"psnr": np.float32(26.5), "pictures": np.int64(3)}
    card = render_card("rqvae", ModelCardData(), evaluations=[EVALUATION | {"metrics": metrics}])
    assert "value: 26.5\n" in card.content and "value: 3\n" in card.content and "python/object" not in card.content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": {"split": "test"}}, "`dataset` with a `name`"),
        ({"dataset": "emoji9"}, "`dataset` with a `name`"),
        ({"metrics": {}}, "non-empty dictionary of `metrics`"),
        ({"metrics": {"a": {"fid": float("nan")}}}, "finite numbers, got nan for 'a.fid'"),
        ({"metrics": {"fid": "good"}}, "finite numbers, got 'good' for 'fid'"),
        ({"metrics": {"fid": True}}, "finite numbers, got True for 'fid'"),
    ],
)
def test_a_bad_evaluation_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluation_results(EVALUATION | change)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`template` must be one of .*'rqvae'.* got 'vqgan'"):
        render_card("vqgan", ModelCardData())
    with pytest.raises(TypeError, match="licence"):
        render_card("rqvae", ModelCardData(), licence="mit")
    with pytest.raises(ValueError, match="`architecture` of a pipeline must map"):
        render_card("pipeline", ModelCardData(), architecture=CAPTIONS)
    with pytest.raises(ValueError, match="must hold a RQVAEConfig for the rqvae, got RQTransformerConfig"):
        render_card("rqvae", ModelCardData(), architecture=CAPTIONS)
    with pytest.raises(ValueError, match="`hours` must be a finite number of at least 0, got -1"):
        TrainingFootprint(-1, "a GPU")


def test_emissions_are_estimated_only_where_power_and_intensity_are_known():
    assert TrainingFootprint(10, "a GPU", power_watts=300, carbon_intensity=0.5).emissions == pytest.approx(1.5)
    card = render_card("rqvae", ModelCardData(), footprint=TrainingFootprint(10, "a GPU", power_watts=300))
    assert "3 kWh at 300 W" in card.text and "Emissions" not in card.text
    assert "co2_eq_emissions" not in card.data


def test_an_existing_readme_is_kept(tmp_path, caplog):
    first = save_card(render_card("rqvae", ModelCardData(), summary="First."), tmp_path / "new" / "folder")
    assert first == tmp_path / "new" / "folder" / "README.md" and caplog.records == []
    before = first.read_text()
    assert save_card(render_card("rqvae", ModelCardData(), summary="Second."), first.parent) == first
    assert first.read_text() == before and "First." in before
    assert "README.md exists already and is kept" in caplog.text


def test_table_cells_are_escaped_and_texts_are_not_templates():
    card = render_card(
        "pipeline",
        ModelCardData(license="other", license_name="{{ name }}"),
        summary="{{ 1 + 1 }} < 3",
        training_arguments={"filter": "a|b\nc"},
        example_input='a "red" {{ heart }}',
    )
    assert "{{ 1 + 1 }} < 3" in card.text and "Licence of the weights: {{ name }}." in card.text
    assert "| filter | a\\|b c |" in card.text
    assert """pipe("a \\"red\\" {{ heart }}", generator""" in card.text


def test_templates_are_found_in_an_installed_package(tmp_path):
    package, checkout = tmp_path / "rq_hf", Path(rq_hf.__file__).parent
    shutil.copytree(checkout.parents[1] / "model_cards", package / "model_cards")
    for name in ("cards", "card_metadata", "card_tables", "configuration_rqvae", "configuration_rq_transformer"):
        shutil.copy(checkout / f"{name}.py", package)
    (package / "__init__.py").touch()
    program = """
from huggingface_hub import ModelCardData
from rq_hf import cards
for template in ("rqvae", "rq_transformer", "pipeline"):
    cards.render_card(template, ModelCardData())
print(cards._template_path("rqvae"))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == str(package / "model_cards" / "rqvae.md"), result.stderr


@pytest.mark.parametrize("config", [CAPTIONS, CLASSES, NOTHING], ids=["captions", "classes", "nothing"])
def test_the_snippets_of_all_cards_run(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captions = ["a red heart, noto style", "a green apple"]
    tokenizer = train_caption_tokenizer(captions, vocab_size=60, max_length=8) if config is CAPTIONS else None
    rqvae, transformer = RQVAEModel(RQVAE).eval(), RQTransformerForImageGeneration(config).eval()
    transformer.set_codebook(rqvae.codebook)
    pipeline = RQImageGenerationPipeline(rqvae, transformer, tokenizer)
    for folder, part in (("rqvae", rqvae), ("rqt", transformer), ("pipeline", pipeline), ("rqt", tokenizer)):
        if part is not None:
            part.save_pretrained(folder)
    Image.new("RGB", (20, 30), "red").save("picture.png")

    example = captions[0] if config is CAPTIONS else "dog" if config is CLASSES else None
    data = ModelCardData(base_model="rqvae")
    exec(snippet(render_card("rqvae", data, repo_id="rqvae")), {})
    assert Image.open("reconstruction.png").size == Image.open("coarse.png").size == (16, 16)
    for template, folder, parts in (
        ("rq_transformer", "rqt", config),
        ("pipeline", "pipeline", {"transformer": config}),
    ):
        Path("picture.png").unlink()
        variables = {}
        exec(
            snippet(
                render_card(
                    template, data, repo_id=folder, architecture=parts, example_input=example, tokenizer=folder
                )
            ),
            variables,
        )
        assert Image.open("picture.png").size == (16, 16)
    assert variables["reconstruction"].size == (16, 16)


def test_a_card_on_the_hub_survives_later_pushes(hub):
    rqvae, transformer = RQVAEModel(RQVAE), RQTransformerForImageGeneration(NOTHING)
    transformer.set_codebook(rqvae.codebook)
    pipeline = RQImageGenerationPipeline(rqvae, transformer)
    for repo_id, template, part in (("me/pipeline", "pipeline", pipeline), ("me/rqvae", "rqvae", rqvae)):
        card = full_card(template)
        create_repo(repo_id)
        upload_file(repo_id=repo_id, path_or_fileobj=str(card).encode(), path_in_repo="README.md")
        part.push_to_hub(repo_id)
        assert any(path.endswith(".safetensors") for path in hub.files(repo_id))
        pushed = ModelCard.load(repo_id)
        assert pushed.data.to_dict() == card.data.to_dict() and pushed.text.strip() == card.text.strip()
