"""A folder of one's own pictures, of many sizes: trained on, sampled, evaluated."""

import json

import numpy as np
import pytest
from PIL import Image

from pixel_features import PIXELS, PROTOCOL
from spikediff.cli import main
from spikediff.data import load_images
from spikediff.evaluation.features import FEATURES
from spikediff.evaluation.sources import real_images

TINY = ["--model.base-channels", "4", "--model.channel-mult", "1", "--model.layers-per-block", "1"]
TINY += ["--training.steps", "2"]
GRID = ["--sampling.num-images", "1", "--sampling.num-inference-steps", "1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise, light and dark, in pictures of many sizes."""
    folder, draw = tmp_path_factory.mktemp("own") / "photos", np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for n in range(75):
            size = draw.integers(8, 20, 2)
            pixels = np.clip(draw.normal(level, 30, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "photos"
    sizes = ["--data.image-size", "8", "--data.channels", "1"]
    data = ["--data.dataset", str(photos), *sizes, "--data.batch-size", "4"]
    assert main(["train", "sddpm/digits", "--output", str(root), *data, *TINY, *GRID]) == 0
    return root


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    monkeypatch.setitem(FEATURES, "pixels", PIXELS)
    (tmp_path / "pixels.yaml").write_text(PROTOCOL)

    def evaluate(source, *options):
        folders = ["--cache-dir", str(tmp_path / "cache"), "--json", str(tmp_path / "told.json")]
        protocol = ["--protocol", str(tmp_path / "pixels.yaml"), "--num-samples", "24"]
        assert main(["evaluate", str(source), *options, *protocol, *folders]) == 0
        return json.loads((tmp_path / "told.json").read_text())

    return evaluate


def test_a_run_is_compared_at_the_size_of_its_recipe(run, photos, evaluate):
    result = evaluate(run, "--num-inference-steps", "1")
    real = real_images(load_images(str(photos), "test", image_size=8, channels=1))
    assert result["reference"]["sha256"] == real.description["sha256"]


def test_pictures_and_a_pipeline_are_compared_at_their_own_size(run, photos, evaluate, tmp_path):
    out = str(tmp_path / "out")
    call = ["sample", str(run), "--output", out, "--num-images", "24", "--no-gif"]
    assert main([*call, "--num-inference-steps", "1"]) == 0
    of_pictures = evaluate(out, "--dataset", str(photos))
    of_pipeline = evaluate(run / "pipeline", "--dataset", str(photos), "--num-inference-steps", "1")
    assert of_pictures["reference"]["sha256"] == of_pipeline["reference"]["sha256"]
    assert of_pictures["metrics"] == of_pipeline["metrics"]


def test_pictures_that_are_there_take_a_size(photos, evaluate, capsys):
    shape = ["--image-size", "8", "--channels", "1"]
    result = evaluate(f"data:{photos}/train", "--dataset", str(photos), *shape)
    assert result["source"]["kind"] == "data"
    assert main(["evaluate", f"data:{photos}/train", "--dataset", str(photos)]) == 2
    assert "give image_size" in capsys.readouterr().err
