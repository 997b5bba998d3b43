"""`import spikediff`: every name is there, nothing heavy is loaded, and the verbs work."""

import json
import subprocess
import sys

import numpy as np
import pytest

import spikediff as sd
from spikediff.cli.arguments import build
from spikediff.cli.evaluate import EvaluateOptions
from spikediff.errors import UserError
from spikediff.training.recipe import load_run_recipe

SMALL = {
    "model.block_out_channels": [4],
    "model.layers_per_block": 1,
    "training.steps": np.int64(2),
    "optimizer.lr": np.float32(0.5),
    "training.log_every": 1,
    "training.checkpoint_every": 2,
    "sampling.num_images": 2,
    "sampling.num_inference_steps": 2,
}


def test_every_name_is_there():
    assert len(sd.__all__) > 25
    for name in sd.__all__:
        assert getattr(sd, name) is not None
    assert set(sd.__all__) == set(dir(sd))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sd.nothing  # noqa: B018


def test_importing_loads_nothing_heavy():
    program = "import sys, spikediff; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not {"torch", "diffusers", "numpy"} & set(loaded.stdout.decode().split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained for two steps."""
    folder = tmp_path_factory.mktemp("front_door")
    settings = {**SMALL, "data.data_dir": folder}
    return sd.train("integer/digits", output=folder / "run", **settings)


def test_train_load_sample(run):
    pipe = sd.load(run)
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(seeds=[0, 1], num_inference_steps=2).images) == 2
    assert isinstance(pipe.unet, sd.IntegerSpikingUNet)
    assert load_run_recipe(run).data.data_dir == str(run.parent)


@pytest.mark.slow  # `sd.export` of NIR: tests/examples; the program: tests/interchange
def test_export(run, tmp_path):
    told = tmp_path / "told.json"
    exported = sd.export(run, tmp_path / "unet.pt2", format="torch", batch_size=1, json=told)
    assert exported["network"] == "IntegerSpikingUNet"
    assert json.loads(told.read_text()) == exported


def test_several_values_and_numbers_of_numpy():
    given = {"source": "digits", "features": ["fad", "classifier"], "seed": np.int64(3)}
    options = build(EvaluateOptions, given)
    assert options.quality.features == ("fad", "classifier")
    assert type(options.seed) is int


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: sd.load("nowhere"), "nowhere: no such folder"),
        (lambda: sd.train("integer/digit"), "did you mean"),
        (lambda: sd.train("integer/digits", **{"training.step": 2}), "step"),
        (lambda: sd.evaluate("mnist", num_sample=3), "did you mean 'num_samples'"),
        (lambda: sd.export("mnist", "x", formats="nir"), "no such option"),
        (lambda: sd.export("mnist", "x", format="nirr"), "--format 'nirr': did you mean 'nir'"),
        (lambda: sd.compare("mnist", num_images="2"), "--num-images '2': give a whole number"),
        (lambda: sd.compare("mnist", device="gpu"), "--device 'gpu': did you mean 'cpu'"),
        (lambda: sd.compare("mnits"), "mnits: no such folder or shipped model"),
        (lambda: sd.evaluate("mnist", channels=2), "--channels 2: choose from 1, 3"),
        (lambda: sd.evaluate("mnist", threshold=0.9), "--threshold 0.9: give a text"),
        (lambda: sd.load("digits", device="gpu"), "--device gpu: no such device"),
        (lambda: sd.train("sddpm/digits", **{"training.steps.x": 5}), "x: steps is"),
        (lambda: sd.train({"model": "x"}, **{"model.network": "a"}), "model is 'x', which has no"),
    ],
)
def test_mistakes_are_told(wrong, told):
    with pytest.raises(UserError, match=told):
        wrong()
