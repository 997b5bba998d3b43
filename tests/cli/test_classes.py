"""Asking for classes on the command line."""

import json
import shutil
from functools import cache

import pytest
import torch
from PIL import Image

import spikediff
from sizes import ONE_LEVEL
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.sddpm.network import SpikingUNet


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """What returns the folder of a pipeline that knows so many classes."""

    @cache
    def saved(num_classes):
        torch.manual_seed(0)
        unet = SpikingUNet(**ONE_LEVEL, num_classes=num_classes)
        torch.nn.init.normal_(unet.head.conv.weight)
        folder = tmp_path_factory.mktemp("model")
        SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim")).save_pretrained(folder)
        return str(folder)

    return saved


def sample(model, folder, *options):
    told = ["--num-images", "4", "--num-inference-steps", "1", "--no-gif", "--batch-size", "3"]
    code = main(["sample", model, "--output", str(folder), *told, *options])
    return code, [path.read_bytes() for path in sorted(folder.glob("seed-*.png"))]


def test_classes_are_asked_for_in_turn_or_as_given(save, tmp_path):
    model, told = save(3), tmp_path / "told.json"
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
        (0, ["--class-labels", "cat"], "was trained without classes"),
        (0, ["--guidance-scale", "2"], "was trained without classes"),
        (3, ["--guidance-scale", "-1"], "--guidance-scale -1.0 must be at least 0"),
    ],
)
def test_mistakes_are_one_line(save, classes, options, words, tmp_path, capsys):
    code, images = sample(save(classes), tmp_path / "out", *options)
    assert code == 2
    assert not images
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets") / "pets"
    for label, level in (("cat", 30), ("dog", 220)):
        (folder / label).mkdir(parents=True)
        for n in range(20):
            Image.new("L", (8, 8), level + n).save(folder / label / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def run_of_pets(pets, tmp_path_factory):
    root = tmp_path_factory.mktemp("run") / "run"
    small = ["--model.block-out-channels", "4", "--model.layers-per-block", "1"]
    short = ["--training.steps", "2", "--training.checkpoint-every", "1", "--data.batch-size", "4"]
    grid = ["--sampling.num-images", "1", "--sampling.num-inference-steps", "1"]
    classes = ["--model.num-classes", "2", "--output", str(root), "--data.dataset", str(pets)]
    assert main(["train", "integer/images", *classes, *small, *short, *grid]) == 0
    return root


def test_a_run_on_subfolders_knows_its_classes_by_name(run_of_pets, tmp_path, capsys):
    model = str(run_of_pets)
    code, named = sample(model, tmp_path / "named", "--class-labels", "dog", "cat")
    assert (code, len(named)) == (0, 4)
    assert sample(model, tmp_path / "numbered", "--class-labels", "1", "0") == (0, named)
    whole = str(tmp_path / "whole")
    assert main(["deploy", model, "--output", whole]) == 0
    assert sample(whole, tmp_path / "deployed", "--class-labels", "dog")[0] == 0
    edit = ["--data-index", "0", "--num-images", "1", "--num-inference-steps", "2"]
    assert main(["vary", whole, *edit, "--output", str(tmp_path / "varied")]) == 0
    assert main(["info", whole]) == 0
    assert "cat, dog" in capsys.readouterr().out
    assert sample(model, tmp_path / "wrong", "--class-labels", "dogg")[0] == 2
    assert "did you mean 'dog'" in capsys.readouterr().err


def test_an_unfinished_run_keeps_the_names(run_of_pets, tmp_path):
    run = shutil.copytree(run_of_pets, tmp_path / "run")
    shutil.rmtree(run / "pipeline")
    pipe = spikediff.load(run)
    pipe.set_progress_bar_config(disable=True)
    by_name = pipe(class_labels=["dog", "cat"], seeds=[0, 1], num_inference_steps=1)
    by_number = pipe(class_labels=[1, 0], seeds=[0, 1], num_inference_steps=1)
    assert by_name.images == by_number.images
    one = pipe(class_labels="dog", seeds=[0], num_inference_steps=1)
    assert one.images == by_name.images[:1]


def test_a_model_without_names_takes_numbers(save, tmp_path, capsys):
    code, _ = sample(save(3), tmp_path / "out", "--class-labels", "cat")
    assert code == 2
    assert "has no class names; give numbers, 0 to 2" in capsys.readouterr().err


def test_as_many_images_as_classes_that_are_asked_for(save, tmp_path):
    model, out = save(3), tmp_path / "out"
    told = ["--output", str(out), "--num-inference-steps", "2", "--no-gif"]
    assert main(["sample", model, *told, "--class-labels", "2", "0", "1"]) == 0
    assert len(list(out.glob("seed-*.png"))) == 3
