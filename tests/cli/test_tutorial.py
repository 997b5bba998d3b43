"""docs/own_images.md: its commands, run in order on a small folder and at tiny size."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spikediff
from spikediff.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "own_images.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
LINES = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
COMMANDS = [shlex.split(line)[1:] for line in LINES]
[PYTHON] = [block for kind, block in BLOCKS if kind == "python"]

TINY = {
    "train": "--model.block-out-channels 4 --model.layers-per-block 1 --data.batch-size 4 "
    "--training.steps 2 --sampling.num-images 1 --sampling.num-inference-steps 1",
    "sample": "--num-images 2 --num-inference-steps 1 --no-gif",
    "evaluate": "--num-inference-steps 1 --features timm:test_resnet --feature-weights tiny.pth "
    "--cache-dir cache",
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two classes, as the page has it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for label, level in (("cat", 60), ("dog", 200)):
        folder = tmp_path / "my" / "photos" / label
        folder.mkdir(parents=True)
        for n in range(60):
            pixels = np.clip(draw.normal(level, 30, (*draw.integers(8, 15, 2), 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    return tmp_path


def test_the_commands_of_the_page(photos):
    assert {command[0] for command in COMMANDS} == {"data", *TINY, "deploy"}
    has_timm = _save_tiny_features(photos / "tiny.pth")
    for command in COMMANDS:
        if command[0] != "evaluate" or has_timm:
            assert main([*command, *TINY.get(command[0], "").split()]) == 0, command
    for file in ("photos.png", "runs/trial/loss.csv", "pets/grid.png", "deployed/grid.png"):
        assert (photos / file).is_file()
    if has_timm:
        quality = json.loads((photos / "quality.json").read_text())
        assert quality["metrics"].keys() == quality["floor"].keys()
    found: dict[str, list[Image.Image]] = {}
    exec(PYTHON, {"spikediff": spikediff}, found)
    assert [image.size for image in found["images"]] == [(8, 8)] * 2


def _save_tiny_features(path):
    """Write random weights of a tiny network of timm; return whether timm is there."""
    try:
        import timm
    except ImportError:
        return False
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return True
