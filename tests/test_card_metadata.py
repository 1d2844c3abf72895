# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""All cards that the library writes, as the Hub reads them: metadata it knows, no empty heading, snippets that run.

The client checks metadata by asking the Hub, so the lists of what the Hub knows are kept here (from its documentation,
https://huggingface.co/docs/hub/model-cards and .../repositories-licenses).
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from peft import LoraConfig, get_peft_model
from test_cards import ARCHITECTURES, CLASSES, EVALUATION, METADATA, NOTHING, PARTS, TEMPLATES, full_card
from test_readme import FENCE

from rq_hf.card_metadata import METRIC_NAMES
from rq_hf.cards import render_card, render_small_card
from rq_hf.configuration_common import add_sampling
from rq_hf.sharing import push_folder
from rq_hf.training import DataArguments, RQVAETrainingArguments, ScriptArguments, write_card
from rq_hf.training.publishing import fresh_command, save_own_card

ROOT = Path(__file__).parents[1]
KEYS = set(
    """base_model base_model_relation co2_eq_emissions datasets extra_gated_fields extra_gated_prompt inference
    language library_name license license_link license_name metrics model-index model_name new_version pipeline_tag
    tags thumbnail widget""".split()
)
LICENCES = set(
    """afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
    cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gemma
    gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
    ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib""".split()
)
PIPELINE_TAGS = set(
    """any-to-any depth-estimation feature-extraction image-classification image-feature-extraction image-segmentation
    image-text-to-image image-text-to-text image-to-image image-to-text image-to-video mask-generation
    object-detection text-generation text-to-image text-to-video unconditional-image-generation
    zero-shot-image-classification""".split()
)
LIBRARIES = {"diffusers", "peft", "rq_hf", "transformers"}
HITS = ("concept_top1", "concept_top5", "style_accuracy")
ADAPTER = {"base": "me/base", "rank": 4, "alpha": 8, "grown": True, "repo_id": "me/adapter"}


def check_metadata(card: ModelCard) -> dict:
    """The metadata of a card, where the Hub knows its keys and values and they come back through `ModelCardData`."""
    metadata = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", str(card), re.DOTALL)[1])
    assert set(metadata) <= KEYS, set(metadata) - KEYS
    licence = metadata.get("license")
    assert licence is None or licence in LICENCES, licence
    assert (licence == "other") == ("license_name" in metadata)
    assert metadata.get("pipeline_tag", "text-to-image") in PIPELINE_TAGS, metadata["pipeline_tag"]
    assert metadata["library_name"] in LIBRARIES
    for name in ("datasets", "base_model", "tags"):
        values = metadata.get(name, [])
        values = [values] if isinstance(values, str) else values
        assert all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value) for value in values), values
    for entry in metadata.get("model-index", []):
        assert set(entry) == {"name", "results"} and entry["name"]
        for result in entry["results"]:
            assert result["task"]["type"] in PIPELINE_TAGS
            assert result["dataset"]["name"] and result["dataset"]["type"]
            for metric in result["metrics"]:
                assert isinstance(metric["value"], (int, float)) and metric["type"]
    loaded = ModelCard(str(card))
    assert loaded.data.to_dict() == metadata
    assert ModelCardData(**yaml.safe_load(loaded.data.to_yaml())).to_dict() == metadata
    assert loaded.data.eval_results == card.data.eval_results
    return metadata


def empty_headings(text: str) -> list[str]:
    """Headings of Markdown that nothing follows, or only a heading that is not below them."""
    text = re.sub(r"^```.*?^```", "code", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if line.strip()]
    found = []
    for line, following in zip(lines, [*lines[1:], "#"], strict=True):
        levels = [len(re.match("#*", each)[0]) for each in (line, following)]
        if levels[0] and 0 < levels[1] <= levels[0]:
            found.append(line)
    return found


def rendered_cards() -> dict[str, ModelCard]:
    """Cards with everything, with each part alone, and with nothing."""
    cards = {}
    for template in TEMPLATES:
        cards[f"{template} full"] = full_card(template)
        cards[f"{template} empty"] = render_card(template, ModelCardData())
        for name, value in PARTS.items():
            cards[f"{template} {name}"] = render_card(template, ModelCardData(), **{name: value})
        for name in METADATA:
            cards[f"{template} {name}"] = render_card(template, ModelCardData(**{name: METADATA[name]}))
        cards[f"{template} code"] = render_card(
            template, ModelCardData(), architecture=ARCHITECTURES[template], with_code=True
        )
    for name, config in (("class", CLASSES), ("none", NOTHING)):
        cards[f"rq_transformer {name}"] = render_card("rq_transformer", ModelCardData(), architecture=config)
        cards[f"pipeline {name}"] = render_card("pipeline", ModelCardData(), architecture={"transformer": config})
    data = ModelCardData(license="cc-by-4.0", language="en", datasets=["me/emoji"], base_model="me/base")
    texts = {name: PARTS[name] for name in ("summary", "training_data", "attribution", "intended_use", "limitations")}
    command = "accelerate launch scripts/train_rqt.py"
    cards["adapter full"] = render_small_card(
        "adapter", data, title="a", command=command, license="mit", **texts, **ADAPTER
    )
    cards["adapter empty"] = render_small_card("adapter", ModelCardData(), title="a")
    cards["tokenizer full"] = render_small_card(
        "tokenizer", data, title="t", command=command, vocab_size=300, max_length=8, repo_id="me/words"
    )
    cards["tokenizer empty"] = render_small_card("tokenizer", ModelCardData(), title="t")
    return cards


CARDS = rendered_cards()


@pytest.mark.parametrize("name", CARDS)
def test_a_card_has_metadata_that_the_hub_knows_and_no_empty_heading(name):
    check_metadata(CARDS[name])
    assert empty_headings(CARDS[name].text) == []
    assert len(re.findall(r"^#+ ", CARDS[name].text, re.MULTILINE)) >= 4


def test_the_checks_find_what_is_wrong():
    for metadata in (
        {"license": "apache2"},
        {"pipeline_tag": "text-to-picture"},
        {"licence": "mit"},
        {"license": "other"},
    ):
        with pytest.raises(AssertionError):
            check_metadata(render_card("rqvae", ModelCardData(**metadata)))
    text = "# A\n\nWords.\n\n## B\n\n### C\n\n```bash\n# no heading\n```\n\n## D\n\n## E\n"
    assert empty_headings(text) == ["## D", "## E"]


def test_the_card_of_the_demo_is_complete():
    card = ModelCard.load(ROOT / "checkpoints" / "emoji-64" / "README.md")
    assert check_metadata(card)["license"] == "cc-by-4.0"
    assert empty_headings(card.text) == [] and "Pictures were rasterised on white" in card.text


def test_the_licences_of_all_recipes_are_known_to_the_hub():
    recipes = sorted((ROOT / "scripts" / "configs").glob("*.json"))
    sections = [json.loads(path.read_text(encoding="utf-8"))["card"] for path in recipes]
    licences = [section["license"] for section in sections if "license" in section]
    licences += [section["released"]["license"] for section in sections if "license" in section.get("released", {})]
    assert licences and set(licences) <= LICENCES


@pytest.mark.parametrize(
    "path, names, kind",
    [
        ("emoji-64-reconstruction.json", ("psnr", "ssim"), ""),
        ("emoji-64-train-prompts.json", HITS, ""),
        ("emoji-64-test-combos-prompts.json", HITS, ""),
        ("demo/train-prompts-likelihood.json", HITS, ", likeliest of 16"),
        ("demo/train-prompts-best-of-16.json", HITS, ", best of 16 by a ranker"),
        ("demo/train-prompts-joint.json", HITS, ", best of 16 by a ranker and the likelihood"),
        ("demo/samples-rq-now.json", ("frechet_distance_efficientnet_lite0",), ""),
    ],
)
def test_cards_have_the_figures_of_the_records(path, names, kind):
    record = json.loads((ROOT / "docs" / "results" / path).read_text(encoding="utf-8"))
    card = ModelCard.load(ROOT / record["model"] / "README.md")
    section = card.text.split("## Evaluation\n")[1].split("\n## ")[0]
    assert f"\n{record['command']}\n" in section
    split = record["dataset"]["split"]
    figures = {(each.dataset_split, each.metric_name): each.metric_value for each in card.data.eval_results}
    for name in names:
        value, title = record["metrics"][name], f"{METRIC_NAMES[name]}{kind}"
        assert figures[split, title] == value
        assert f"| {split} | {record['dataset']['num_pictures']} | {title} | {value:.4g} |" in section


def test_the_demo_page_has_the_figures_of_the_records():
    folder = ROOT / "docs" / "results"
    page = (folder / "demo.md").read_text("utf-8")

    def hits(path: str, separator: str, features: bool = False) -> str:
        record = json.loads((folder / path).read_text("utf-8"))
        metrics = record["features"]["efficientnet_lite0"]["metrics"] if features else record["metrics"]
        return separator.join(f"{metrics[name]:.3f}" for name in HITS)

    train, combos = "emoji-64-train-prompts.json", "emoji-64-test-combos-prompts.json"
    for name, count, path, wanted in (
        ("training prompts", 512, train, "0.70, -, 0.85"),
        ("held-out pairs", 469, combos, "-, 0.55, 0.50"),
    ):
        row = f"| model, {name} | {count} | **{hits(path, ', ')}** | {wanted} | {hits(path, ', ', features=True)} |"
        assert row in page
    settings = ROOT / "checkpoints" / "emoji-64" / "transformer" / "generation_config.json"
    sampling = json.loads(settings.read_text("utf-8"))
    assert f"| nothing | 1 | {sampling['temperature']} | {hits(train, ' | ')} |" in page
    recipe = json.loads((ROOT / "scripts" / "configs" / "emoji-rqt-8x8x3-15M.json").read_text("utf-8"))
    assert recipe["card"]["sampling"].items() <= sampling.items()  # what a training by it gives
    for name, path in (
        ("likelihood", "demo/train-prompts-likelihood.json"),
        ("ranker", "demo/train-prompts-best-of-16.json"),
        ("ranker and 0.4 of the likelihood", "demo/train-prompts-joint.json"),
    ):
        assert f"| [{name}]({path}) | 16 | 0.3 | {hits(path, ' | ')} |" in page
    comparison = page.split("## Against a VQ baseline")[1].split("\n## ")[0].replace("**", "")

    def metric(path: str, name: str) -> float:
        return json.loads((folder / path).read_text("utf-8"))["metrics"][name]

    psnr = [metric(path, "psnr") for path in ("emoji-64-reconstruction.json", "demo/reconstruction-vq-recipe.json")]
    assert f"`test_combos` | {psnr[0]:.2f} | [{psnr[1]:.2f}](demo/reconstruction-vq-recipe.json) |" in comparison
    distances = ("demo/samples-rq-now.json", "demo/samples-vq-recipe.json")
    distances = [f"{metric(path, 'frechet_distance_efficientnet_lite0'):.1f}" for path in distances]
    assert f"others: 36.4) | {distances[0]} | {distances[1]} |" in comparison
    for title, ours, path in (
        ("training prompts", train, "demo/train-prompts-vq-recipe.json"),
        ("held-out pairs", combos, "demo/test-combos-prompts-vq-recipe.json"),
    ):
        rows = [f"{hits(ours, ', ', by)} | {hits(path, ', ', by)} |" for by in (False, True)]
        start = comparison.index(f"| [{title}]({path}), pixels")
        assert comparison[start:].split("\n")[0].endswith(f" | {rows[0]}")
        assert comparison[start:].split("\n")[1] == f"| the same by features | {rows[1]}"


def test_the_card_of_a_training_before_it_and_after_it(tmp_path):
    arguments = ScriptArguments(
        training=RQVAETrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        data=DataArguments(dataset_name="you/emoji"),
        card={"license": "mit", "language": "en", "footprint": {"hardware": "2 CPU cores", "power_watts": 30}},
        command="scripts/train_rqvae.py",
    )
    first = write_card("rqvae", arguments, ARCHITECTURES["rqvae"], 1234)
    end = {"history": [{"eval_loss": 0.5, "eval_psnr": 21.5}], "seconds": 3600.0}
    assert set(check_metadata(ModelCard(first))) == {"language", "library_name", "license", "pipeline_tag", "tags"} | {
        "model_name"
    }
    write_card("rqvae", arguments, ARCHITECTURES["rqvae"], 1234, **end)
    card = ModelCard.load(tmp_path / "README.md")
    assert {"model-index", "co2_eq_emissions"} <= set(check_metadata(card))
    assert [result.metric_type for result in card.data.eval_results] == ["loss", "psnr"]
    assert empty_headings(first) == empty_headings(card.text) == []
    assert "accelerate launch scripts/train_rqvae.py" in card.text


class Interrupted:
    """A function that is interrupted at its n-th call."""

    def __init__(self, function, number):
        self.function, self.number, self.calls = function, number, 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls == self.number:
            raise KeyboardInterrupt
        return self.function(*args)


def test_the_card_of_a_resumed_run_is_the_one_of_its_end(tmp_path):
    arguments = ScriptArguments(
        training=RQVAETrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        data=DataArguments(dataset_name="you/emoji", validation_split="test"),
        command="scripts/train_rqvae.py mine.json --resume_from_checkpoint last --seed 1",
    )
    write_card("rqvae", replace(arguments, command="scripts/train_rqvae.py mine.json --seed 1"), None, None)
    write_card("rqvae", arguments, None, None)
    end = {"history": [{"eval_loss": 0.5}], "seconds": 3600.0}
    write_card("rqvae", arguments, None, None, **end)
    card = ModelCard.load(tmp_path / "README.md")
    assert "| Hours | 1 |" in card.text
    assert "accelerate launch scripts/train_rqvae.py mine.json --seed 1\n" in card.text
    assert [result.dataset_split for result in card.data.eval_results] == ["test"]
    with (tmp_path / "README.md").open("a") as file:
        file.write("My own words.\n")
    write_card("rqvae", arguments, None, None, **end)
    assert (tmp_path / "README.md").read_text().endswith("My own words.\n")


@pytest.mark.parametrize("resumed", ["--resume_from_checkpoint '/runs/a b'", "--resume_from_checkpoint=last"])
def test_the_command_of_a_resumed_run_stays_one_that_a_shell_reads(resumed):
    assert fresh_command(f'train.py {resumed} --id2label \'{{"0": "a b"}}\'') == (
        'train.py --id2label \'{"0": "a b"}\''
    )


def test_a_card_whose_replacement_was_interrupted_is_still_the_runs_own(tmp_path, monkeypatch):
    save_own_card(ModelCard("---\nlicense: mit\n---\nfirst\n"), tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", interrupted := Interrupted(os.replace, 2))
        save_own_card(ModelCard("---\nlicense: mit\n---\nsecond\n"), tmp_path)
    assert interrupted.calls == 2 and "first" in (tmp_path / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".README.sha256", "README.md"]
    save_own_card(ModelCard("---\nlicense: mit\n---\nthird\n"), tmp_path)
    assert "third" in (tmp_path / "README.md").read_text()


# Cards that a push writes, and their snippets.


@pytest.fixture
def pushed(hub, tiny_pipeline, tmp_path) -> dict[str, ModelCard]:
    """The cards of all kinds of repositories, from the Hub."""
    tiny_pipeline.push_to_hub("me/base", with_code=True, evaluations=[EVALUATION])
    tiny_pipeline.rqvae.push_to_hub("me/rqvae", with_code=True)
    tiny_pipeline.transformer.push_to_hub("me/transformer", with_code=True)
    tiny_pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    push_folder(tmp_path / "tokenizer", "me/tokenizer")
    lora = get_peft_model(tiny_pipeline.transformer, LoraConfig(r=2, target_modules=["out_proj"]))
    lora.peft_config["default"].base_model_name_or_path = "me/base"
    lora.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "adapter" / "README.md").unlink(missing_ok=True)  # peft's own
    push_folder(tmp_path / "adapter", "me/adapter")
    return {name: ModelCard.load(f"me/{name}") for name in ("base", "rqvae", "transformer", "tokenizer", "adapter")}


def test_pushed_cards_are_as_the_hub_wants_them_and_their_snippets_run(pushed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pushed["base"].data.eval_results[0].metric_type == "psnr"
    run = 0
    for name, card in pushed.items():
        check_metadata(card)
        assert empty_headings(card.text) == [] and not re.search(r"More Information Needed|None", card.text)
        for _, language, text in FENCE.findall(card.text):
            if language == "python":
                if name == "transformer":  # what only its reader knows: where the RQ-VAE and the tokenizer are
                    text = text.replace("path/to/its/rqvae", "me/rqvae")
                    text = text.replace("path/to/its/tokenizer", "me/tokenizer")
                assert "path/to" not in text
                exec(compile(text, f"card of {name}", "exec"), {})
                run += 1
    assert run == 8  # how to use each of them, and three of them without this library


def test_a_card_written_before_there_was_a_repository_names_it_once_it_is_there(hub, tiny_rqvae, tmp_path):
    for place in ("path/to/this/folder", str(tmp_path)):
        tiny_rqvae.save_pretrained(tmp_path)
        card = render_card("rqvae", ModelCardData(), repo_id=None if "this" in place else place)
        assert f'from_pretrained("{place}")' in card.text
        card.save(tmp_path / "README.md")
        push_folder(tmp_path, "me/rqvae")
        assert 'from_pretrained("me/rqvae")' in ModelCard.load("me/rqvae").text
        assert f'from_pretrained("{place}")' in (tmp_path / "README.md").read_text()


def test_the_shipped_transformer_samples_alike_without_its_generation_config():
    """diffusers downloads its config.json alone."""
    folder = ROOT / "checkpoints" / "emoji-64" / "transformer"
    config, settings = (json.loads((folder / name).read_text()) for name in ("config.json", "generation_config.json"))
    assert settings["temperature"] == config["temperature"] and add_sampling(config, settings) == config
