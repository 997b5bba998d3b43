"""Asking for classes on the command line."""

import json

import pytest
import torch

from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.sddpm.network import SpikingUNet


def save(folder, num_classes):
    torch.manual_seed(0)
    unet = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2), num_classes=num_classes)
    torch.nn.init.normal_(unet.head.conv.weight)
    SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim")).save_pretrained(folder)
    return str(folder)


def sample(model, folder, *options):
    told = ["--num-images", "4", "--num-inference-steps", "2", "--no-gif", "--batch-size", "3"]
    code = main(["sample", model, "--output", str(folder), *told, *options])
    return code, [path.read_bytes() for path in sorted(folder.glob("seed-*.png"))]


def test_classes_are_asked_for_in_turn_or_as_given(tmp_path):
    model, told = save(tmp_path / "model", 3), tmp_path / "told.json"
    code, in_turn = sample(model, tmp_path / "turn")
    assert code == 0
    labels = ["--class-labels", "0", "1", "2", "0"]
    assert sample(model, tmp_path / "given", *labels, "--json", str(told)) == (0, in_turn)
    assert json.loads(told.read_text())["class_labels"] == [0, 1, 2, 0]
    _, ones = sample(model, tmp_path / "ones", "--class-labels", "1")
    assert ones[1] == in_turn[1]
    assert ones[0] != in_turn[0]
    _, strong = sample(model, tmp_path / "strong", "--guidance-scale", "3")
    assert strong != in_turn


@pytest.mark.parametrize(
    ("classes", "options", "words"),
    [
        (3, ["--class-labels", "3"], "the model knows 0 to 2"),
        (0, ["--class-labels", "1"], "was trained without classes"),
        (0, ["--guidance-scale", "2"], "was trained without classes"),
    ],
)
def test_mistakes_are_one_line(classes, options, words, tmp_path, capsys):
    code, images = sample(save(tmp_path / "model", classes), tmp_path / "out", *options)
    assert code == 2
    assert not images
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
