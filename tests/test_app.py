# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The page of scripts/app.py: what its buttons do, and how it looks to a browser (slow, Debian's Chromium)."""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from rq_hf import RQImageGenerationPipeline
from rq_hf.picture_decoding import decode_picture

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "checkpoints" / "emoji-64"
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
SAMPLING = (2, 5, 1.0, 32, 1.0, 1.0)  # pictures, seed, temperature, top-k, top-p, guidance


def ignore(*args, **kwargs) -> None:
    pass


@pytest.fixture(scope="module")
def app(load_script):
    return load_script("app")


def test_the_menu_has_the_classes_and_not_the_null_condition(app, make_pipeline):
    named, nameless = make_pipeline("class"), make_pipeline("class", id2label=None, null_condition_ids=[0])
    names = list(named.transformer.config.id2label.values())
    assert [value for _, value in app.condition_control(named, "x").choices] == names
    named.transformer.config.id2label = {**named.transformer.config.id2label, 4: "nothing"}  # the null condition
    assert [value for _, value in app.condition_control(named, "x").choices] == names
    ids = [value for _, value in app.condition_control(nameless, "x").choices]
    assert ids == nameless.transformer.config.class_ids and ids[0] == 1


@pytest.mark.parametrize(("kind", "condition"), [("text", "a red heart"), ("class", "goose"), ("none", None)])
def test_the_page_draws_what_the_pipeline_draws(app, make_pipeline, kind, condition):
    pipe = make_pipeline(kind)
    positions = []
    page = app.build_page(pipe, "tiny")
    assert isinstance(page, gr.Blocks)
    studio = app.Studio(pipe)
    codes, gallery = studio.draw(condition, 3, *SAMPLING, progress=lambda done, **_: positions.append(done))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {"num_images_per_prompt": 2, "generator": generators, "output_type": "latent"}
    assert torch.equal(codes, pipe(**studio.condition(condition), **options, top_k=32).images)
    assert positions == [(step, 16) for step in range(1, 17)]
    assert len(gallery.value) == 2
    coarse = studio.decode(codes, 1)[0]
    expected = pipe.rqvae.decode(codes[..., :1])
    assert coarse == app.enlarged(pipe.image_processor.postprocess(expected)[0])


@pytest.mark.parametrize(("kind", "condition"), [("text", "a red heart"), ("none", None)])
def test_the_page_shows_the_likeliest_candidates(app, make_pipeline, kind, condition):
    pipe, done = make_pipeline(kind), []
    studio = app.Studio(pipe)
    codes, _ = studio.draw(condition, 3, *SAMPLING, 9, progress=lambda step, **_: done.append(step))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {"num_images_per_prompt": 2, "generator": generators, "output_type": "latent", "top_k": 32}
    options |= {"num_candidates": 18, "ranker": "likelihood"}
    assert torch.equal(codes, pipe(**studio.condition(condition), **options).images)
    assert done == [(step, 32) for step in range(1, 33)]  # two batches of 16 positions


def test_completions_are_chosen_by_likelihood_too(app, tiny_pipeline):
    picture, done = Image.effect_noise((16, 16), 90).convert("RGB"), []
    studio = app.Studio(tiny_pipeline)
    codes, _ = studio.complete(
        picture, "a red heart", "top", 50, 3, *SAMPLING, 9, progress=lambda step, **_: done.append(step)
    )
    known = tiny_pipeline.reconstruct(picture, output_type="latent").images
    assert torch.equal(codes[:, :2], known[:, :2].expand_as(codes[:, :2]))
    assert len(codes) == 2 and done[-1][0] <= done[-1][1] == 32


def test_classes_of_one_name_are_told_apart(app, make_pipeline):
    pipe = make_pipeline("class")
    pipe.transformer.config.id2label = {0: "crane", 1: "goose", 2: "crane", 3: "volcano"}
    menu = app.condition_control(pipe, "x")
    assert menu.choices == [("crane (0)", 0), ("goose", "goose"), ("crane (2)", 2), ("volcano", "volcano")]
    assert menu.value == 0
    app.Studio(pipe).draw(2, 3, *SAMPLING, progress=ignore)


def test_classes_whose_names_differ_in_case_alone_are_told_apart(app, make_pipeline):
    pipe = make_pipeline("class")
    pipe.transformer.config.id2label = {0: "Crane", 1: "goose", 2: "crane"}
    menu = app.condition_control(pipe, "x")
    assert menu.choices == [("Crane (0)", 0), ("goose", "goose"), ("crane (2)", 2)]


@pytest.mark.parametrize("own", [{"top_k": [None, 8, 4]}, {"top_k": [64, 8, 4]}, {"temperature": [None, 0.2, 0.1]}])
def test_controls_that_are_not_touched_leave_the_checkpoints_settings_per_depth(app, tiny_pipeline, own):
    tiny_pipeline.transformer.generation_config.update(**own)
    with gr.Blocks():
        count, seed, *others = app.sampling_controls(tiny_pipeline)
    codes, _ = app.Studio(tiny_pipeline).draw("a heart", 3, 1, 5, *(each.value for each in others), progress=ignore)
    plain = tiny_pipeline("a heart", generator=torch.Generator().manual_seed(5), output_type="latent").images
    assert torch.equal(codes, plain)


def test_sliders_reach_the_checkpoints_own_settings(app, tiny_pipeline):
    tiny_pipeline.transformer.generation_config.update(temperature=2.5, top_p=0.01, guidance_scale=10.0)
    with gr.Blocks():
        _, _, temperature, _, top_p, guidance, _ = app.sampling_controls(tiny_pipeline)
    for slider, value in ((temperature, 2.5), (top_p, 0.01), (guidance, 10.0)):
        assert slider.minimum <= slider.value == value <= slider.maximum


def test_an_uploaded_picture_of_16_bits_is_seen_as_it_is(app, tiny_pipeline, tmp_path):
    grey = np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    blocks = app.build_page(tiny_pipeline, "tiny").blocks.values()
    (upload,) = [block for block in blocks if getattr(block, "elem_id", None) == "upload"]
    picture = decode_picture(upload.preprocess(gr.data_classes.ImageData(path=str(tmp_path / "grey.png"))))
    assert abs(np.asarray(picture).mean() - 127.5) < 1


def test_a_completion_keeps_the_codes_of_the_side_that_is_kept(app, tiny_pipeline):
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    studio = app.Studio(tiny_pipeline)
    codes, _ = studio.complete(picture, "a red heart", "bottom", 50, 3, *SAMPLING, progress=ignore)
    square = ImageOps.fit(picture, (16, 16), Image.Resampling.LANCZOS)  # its middle, not squeezed
    known = tiny_pipeline.reconstruct(square, output_type="latent").images
    assert torch.equal(codes[:, 2:], known[:, 2:].expand_as(codes[:, 2:]))
    assert not torch.equal(codes[:, :2], known[:, :2].expand_as(codes[:, :2]))
    transparent = picture.copy()
    transparent.putalpha(0)
    of_white = studio.complete(transparent, "a red heart", "bottom", 50, 3, *SAMPLING, progress=ignore)[0]
    white = Image.new("RGB", (40, 30), "white")
    assert torch.equal(of_white, studio.complete(white, "a red heart", "bottom", 50, 3, *SAMPLING, progress=ignore)[0])
    with pytest.raises(gr.Error, match="Upload a picture"):
        studio.complete(None, "a red heart", "bottom", 50, 3, *SAMPLING, progress=ignore)


def test_a_side_is_some_rows_or_columns_and_never_all(app):
    mask = app.side_mask((4, 6, 3), "right", 0.34)
    assert mask.tolist() == [[False] * 4 + [True] * 2] * 4
    assert app.side_mask((4, 6, 3), "top", 0.01).sum(1).tolist() == [6, 0, 0, 0]
    assert app.side_mask((4, 4, 3), "left", 0.99).tolist() == [[True, True, True, False]] * 4


def test_what_the_model_cannot_take_is_an_error_on_the_page(app, tiny_pipeline):
    with pytest.raises(gr.Error, match="`temperature` must be greater than 0"):
        app.Studio(tiny_pipeline).draw("a heart", 3, 1, 0, 0.0, 8, 1.0, 1.0, progress=ignore)
    with pytest.raises(gr.Error, match="Enter a seed"):
        app.Studio(tiny_pipeline).draw("a heart", 3, 1, None, *SAMPLING[2:], progress=ignore)
    with pytest.raises(gr.Error, match="floating-point pixels have no known range"):
        app.Studio(tiny_pipeline).complete(
            Image.new("F", (20, 20), 1e6), "a heart", "top", 50, 3, *SAMPLING, progress=ignore
        )
    assert app.Studio(tiny_pipeline).decode(None, 2) == []


# In the browser.


def require_chromium() -> None:
    """Installs Debian's Chromium where it is missing; where that fails, the test fails in CI and is else skipped."""
    install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver"
    for path in (CHROMIUM, DRIVER):
        if not os.path.exists(path) and shutil.which("apt-get") and os.getuid() == 0:
            subprocess.run(install, shell=True, capture_output=True, timeout=900)
    if not (os.path.exists(CHROMIUM) and os.path.exists(DRIVER)):
        reason = f"there is no {CHROMIUM} with {DRIVER}, and `{install}` did not bring them"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of the page of the demo checkpoint, served by the script in a process of its own."""
    require_chromium()
    port = free_port()
    command = [sys.executable, str(ROOT / "scripts" / "app.py"), str(DEMO), "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process: sums are rounded alike
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, **output) as process:
        try:
            yield wait_for(lambda: opened(f"http://127.0.0.1:{port}/", process), 120)
        finally:
            process.terminate()


def opened(url: str, process: subprocess.Popen) -> str | None:
    assert process.poll() is None, process.stdout.read()
    try:
        return url if urlopen(url, timeout=5).status == 200 else None
    except OSError:
        return None


def wait_for(find, seconds: float = 60):
    """What `find` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came within {seconds} s")


@pytest.fixture
def open_browser(address) -> Iterator:
    """Opens browsers, each of a user of its own."""
    drivers = []

    def open_one() -> webdriver.Chrome:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1240,900"):
            options.add_argument(f"--{argument}")
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        drivers.append(driver)
        driver.get(address)
        wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#prompt textarea, #prompt input"))
        return driver

    yield open_one
    for driver in drivers:
        driver.quit()


def fill_in(driver: webdriver.Chrome, name: str, text: object) -> None:
    selector = f"#{name} textarea, #{name} input:not([type=range])"
    (field,) = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, selector))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(text), Keys.TAB)


def click(driver: webdriver.Chrome, name: str) -> None:
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, f"button#{name}"))[0].click()


def shown(driver: webdriver.Chrome) -> list[np.ndarray]:
    """The pictures on the page."""
    sources = [image.get_attribute("src") for image in driver.find_elements(By.CSS_SELECTOR, "#pictures img")]
    return [np.asarray(Image.open(io.BytesIO(urlopen(source).read())).convert("RGB")) for source in sources]


def wait_for_pictures(driver: webdriver.Chrome, expected: list[Image.Image]) -> None:
    """Waits until the page shows just these pictures, but for how a value of 0 to 255 is rounded."""
    arrays = [np.asarray(picture.convert("RGB")).astype(int) for picture in expected]

    def all_shown() -> bool:
        seen = shown(driver)
        return len(seen) == len(arrays) and all(
            picture.shape == array.shape and abs(picture - array).max() <= 2
            for picture, array in zip(seen, arrays, strict=True)
        )

    wait_for(all_shown)


@pytest.fixture(scope="module")
def demo() -> RQImageGenerationPipeline:
    pipe = RQImageGenerationPipeline.from_pretrained(DEMO)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: RQImageGenerationPipeline, prompt: str, seed: int, count: int) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed + index) for index in range(count)]
    return pipe(prompt, generator=generators, num_images_per_prompt=count, output_type="latent").images


@pytest.mark.slow
def test_a_visitor_types_a_prompt_and_sees_its_pictures_coarse_to_fine(app, demo, open_browser):
    driver, studio = open_browser(), app.Studio(demo)
    fill_in(driver, "prompt", "a castle, noto style")
    fill_in(driver, "count", 2)
    fill_in(driver, "seed", 7)
    click(driver, "draw")
    codes = drawn(demo, "a castle, noto style", 7, 2)
    wait_for_pictures(driver, studio.decode(codes, 3))
    fill_in(driver, "depth", 1)
    wait_for_pictures(driver, studio.decode(codes, 1))


@pytest.mark.slow
def test_the_files_of_a_space_show_the_page(tmp_path):
    """As docs/hub.md says: the script, the package beside it, and variables; the library is not installed there, nor
    what is not in the list of requirements."""
    shutil.copy(ROOT / "scripts" / "app.py", tmp_path)
    shutil.copytree(ROOT / "src" / "rq_hf", tmp_path / "rq_hf")
    port = free_port()
    environment = os.environ | {
        "MODEL_ID": str(DEMO),
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
    }
    script = """
import runpy, sys
sys.modules |= dict.fromkeys(("accelerate", "datasets", "peft", "torchvision"))
import rq_hf
print(rq_hf.__file__, flush=True)
runpy.run_path("app.py", run_name="__main__")
"""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    command = [sys.executable, "-c", script, "--device", "cpu"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **output) as process:
        try:
            assert process.stdout.readline().startswith(str(tmp_path))
            assert wait_for(lambda: opened(f"http://127.0.0.1:{port}/", process), 120)
        finally:
            process.terminate()


@pytest.mark.slow
def test_two_users_at_once_get_their_own_pictures(app, demo, open_browser):
    users = {"a red heart, twemoji style": open_browser(), "a green apple, noto style": open_browser()}
    for prompt, driver in users.items():
        fill_in(driver, "prompt", prompt)
        fill_in(driver, "count", 3)
    for driver in users.values():
        click(driver, "draw")
    studio, codes = app.Studio(demo), {prompt: drawn(demo, prompt, 0, 3) for prompt in users}
    assert not torch.equal(*codes.values())
    for prompt, driver in users.items():
        wait_for_pictures(driver, studio.decode(codes[prompt], 3))
    for driver in users.values():  # the codes that a page keeps are its visitor's, too
        fill_in(driver, "depth", 2)
    for prompt, driver in users.items():
        wait_for_pictures(driver, studio.decode(codes[prompt], 2))


def open_completion(driver) -> None:
    tabs = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "button[role=tab]"))
    next(tab for tab in tabs if "Complete" in tab.text).click()


@pytest.mark.slow
def test_an_uploaded_picture_is_completed(app, demo, open_browser, tmp_path):
    picture = demo("a pizza", generator=torch.Generator().manual_seed(1)).images[0]
    picture.save(tmp_path / "picture.png")
    driver = open_browser()
    fill_in(driver, "count", 2)
    open_completion(driver)
    upload = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#upload input[type=file]"))[0]
    upload.send_keys(str(tmp_path / "picture.png"))
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#upload img"))
    fill_in(driver, "completion-prompt", "a pizza")
    click(driver, "complete")
    mask = app.side_mask(demo.transformer.config.code_shape, "top", 0.5)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    options = {"num_images_per_prompt": 2, "generator": generators, "output_type": "latent"}
    codes = demo.complete(picture, "a pizza", mask, **options).images
    wait_for_pictures(driver, app.Studio(demo).decode(codes, 3))


@pytest.mark.slow
def test_what_is_missing_or_cannot_be_read_is_told_to_the_visitor(open_browser):
    driver = open_browser()
    fill_in(driver, "prompt", "ξ")
    click(driver, "draw")
    wait_for(lambda: "knows no letter of the prompt 'ξ'" in driver.find_element(By.TAG_NAME, "body").text)
    open_completion(driver)
    click(driver, "complete")
    wait_for(lambda: "Upload a picture first." in driver.find_element(By.TAG_NAME, "body").text)
