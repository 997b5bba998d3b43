"""A Hub that the real client talks to, and a finished run to put on it."""

import sys

import pytest
from diffusers.utils import dynamic_modules_utils
from fake_hub import FakeHub
from huggingface_hub import constants, hf_api

from spikediff.cli import main
from spikediff.training import recipe_from, save_recipe


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub; caches of their own."""
    fake = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        fake.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(hf_api.api, "endpoint", fake.url)
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield fake
    fake.close()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A run of four steps on digits, finished, of which nothing was measured."""
    folder = tmp_path_factory.mktemp("hub")
    recipe = recipe_from(
        {
            "name": "tiny",
            "seed": 3,
            "model": {"base_channels": 8, "channel_mult": [1], "layers_per_block": 1},
            "data": {"batch_size": 8, "hold_out": True, "data_dir": str(folder / "secret")},
            "sampling": {"num_inference_steps": 1, "num_images": 2, "every": 0},
            "training": {"steps": 4, "checkpoint_every": 4},
        },
        "test",
    )
    save_recipe(recipe, folder / "tiny.yaml")
    arguments = ["train", str(folder / "tiny.yaml"), "--output", str(folder / "run")]
    assert main([*arguments, "--threads", "1"]) == 0
    return folder / "run"
