# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The page as a visitor sees it, in Debian's Chromium."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from app import Studio
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from training_runs import free_port

from rq_hf import RQImageGenerationPipeline

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "checkpoints" / "emoji-64"
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
IS_MISSING = not (os.path.exists(CHROMIUM) and os.path.exists(DRIVER))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(IS_MISSING, reason=f"{CHROMIUM} and {DRIVER} are missing")]


def opened(url: str, process: subprocess.Popen) -> str | None:
    assert process.poll() is None, process.stdout.read()
    try:
        return url if urlopen(url, timeout=5).status == 200 else None
    except OSError:
        return None


def wait_for(find: Callable, seconds: float = 60):
    """What `find` returns, once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came within {seconds} s")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of the page of the demo checkpoint."""
    port = free_port()
    command = [sys.executable, str(ROOT / "scripts" / "app.py"), str(DEMO), "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process, so that sums are rounded alike
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, **output) as process:
        try:
            yield wait_for(lambda: opened(f"http://127.0.0.1:{port}/", process), 120)
        finally:
            process.terminate()


@pytest.fixture
def driver(address) -> Iterator[webdriver.Chrome]:
    """A browser that shows the page."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1240,900"):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as driver:
        driver.get(address)
        wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#prompt textarea, #prompt input"))
        yield driver


def fill_in(driver: webdriver.Chrome, name: str, text: object) -> None:
    selector = f"#{name} textarea, #{name} input:not([type=range])"
    (field,) = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, selector))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(text), Keys.TAB)


def click(driver: webdriver.Chrome, name: str) -> None:
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, f"button#{name}"))[0].click()


def open_tab(driver: webdriver.Chrome, name: str) -> None:
    tabs = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "button[role=tab]"))
    next(tab for tab in tabs if tab.text == name).click()


def upload(driver: webdriver.Chrome, name: str, path: Path) -> None:
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, f"#{name} input[type=file]"))[0].send_keys(str(path))
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, f"#{name} img"))


def wait_for_pictures(driver: webdriver.Chrome, expected: list[Image.Image]) -> None:
    """Waits until the page shows just these pictures, but for the rounding of a value."""
    arrays = [np.asarray(picture.convert("RGB"), int) for picture in expected]

    def all_shown() -> bool:
        sources = [image.get_attribute("src") for image in driver.find_elements(By.CSS_SELECTOR, "#pictures img")]
        shown = [np.asarray(Image.open(io.BytesIO(urlopen(source).read())).convert("RGB"), int) for source in sources]
        return len(shown) == len(arrays) and all(
            picture.shape == array.shape and np.abs(picture - array).max() <= 2
            for picture, array in zip(shown, arrays, strict=True)
        )

    wait_for(all_shown)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(RQImageGenerationPipeline.from_pretrained(DEMO))


def options(count: int, seed: int, **selection) -> dict:
    generators = [torch.Generator().manual_seed(seed + index) for index in range(count)]
    return {"num_images_per_prompt": count, "generator": generators, "output_type": "latent"} | selection


def test_a_visitor_types_a_prompt_and_sees_its_pictures_coarse_to_fine(studio, driver):
    fill_in(driver, "prompt", "a castle, noto style")
    fill_in(driver, "count", 2)
    fill_in(driver, "seed", 7)
    click(driver, "draw")
    likeliest = {"num_candidates": 8, "ranker": "likelihood"}
    codes = studio.pipe("a castle, noto style", **options(2, 7, **likeliest)).images
    wait_for_pictures(driver, studio.decode(codes, 3))
    line = driver.find_element(By.CSS_SELECTOR, "#about textarea, #about input")
    words = studio.pipe.rewrite("a castle, noto style")
    assert line.get_property("value") == f"Seed 7, read as: {words}"
    fill_in(driver, "depth", 1)
    wait_for_pictures(driver, studio.decode(codes, 1))
    driver.find_element(By.CSS_SELECTOR, "#freer input").click()
    click(driver, "draw")
    codes = studio.pipe("a castle, noto style", **options(2, 7, temperature=1.0)).images
    wait_for_pictures(driver, studio.decode(codes, 1))
    fill_in(driver, "prompt", "a castle " * 20)
    click(driver, "draw")
    wait_for(lambda: "The prompt was cut to" in driver.find_element(By.TAG_NAME, "body").text)


def test_an_uploaded_picture_is_reconstructed_and_painted_over_and_a_missing_one_asked_for(studio, driver, tmp_path):
    picture = studio.pipe("a pizza", generator=torch.Generator().manual_seed(1)).images[0]
    picture.save(tmp_path / "picture.png")
    fill_in(driver, "prompt", "a pizza")
    fill_in(driver, "count", 2)
    open_tab(driver, "Reconstruct")
    upload(driver, "original", tmp_path / "picture.png")
    click(driver, "reconstruct")
    wait_for_pictures(driver, studio.decode(studio.pipe.reconstruct(picture, output_type="latent").images, 3))
    open_tab(driver, "Paint")
    click(driver, "paint")
    wait_for(lambda: "Upload a picture first." in driver.find_element(By.TAG_NAME, "body").text)
    large = picture.resize((300, 200))
    large.save(tmp_path / "large.png")
    driver.find_element(By.CSS_SELECTOR, "#canvas input[type=file]").send_keys(str(tmp_path / "large.png"))
    canvas, *_ = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, "#canvas canvas"))
    time.sleep(2)  # it fits the picture
    ActionChains(driver).move_to_element(canvas).click_and_hold().move_by_offset(20, 0).release().perform()
    click(driver, "paint")

    def is_painted() -> bool:
        sources = [image.get_attribute("src") for image in driver.find_elements(By.CSS_SELECTOR, "#pictures img")]
        shown = [Image.open(io.BytesIO(urlopen(source).read())).convert("RGB") for source in sources]
        changed = [(np.asarray(each) != np.asarray(large)).any(-1) for each in shown if each.size == large.size]
        return len(changed) == 2 and all(each[100, 150] and not each[:20].any() for each in changed)

    wait_for(is_painted)
