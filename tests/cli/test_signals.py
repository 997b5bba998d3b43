"""Signals at the command line: train, sample, count; and what is for images only."""

import json

import numpy as np
import pytest
from PIL import Image

from spikediff.cli import main
from spikediff.training import load_recipe

TINY = [
    *("--model.base-channels", "8", "--model.channel-mult", "1", "--data.image-size", "16"),
    *("--data.batch-size", "4", "--sampling.num-images", "2", "--threads", "1"),
    *("--sampling.num-inference-steps", "1", "--training.steps", "3"),
    *("--model.layers-per-block", "1"),
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run of three steps of the shipped recipe, made small."""
    folder = tmp_path_factory.mktemp("signals") / "run"
    assert main(["train", "sddpm/membrane", "--output", str(folder), *TINY]) == 0
    return folder


def sample(run_folder, output, *options):
    steps = ["--num-inference-steps", "1"]
    assert main(["sample", str(run_folder), "--output", str(output), *steps, *options]) == 0
    return np.load(output / "signals.npy")


def test_a_run_leaves_a_plot_of_its_signals(run_folder):
    with Image.open(run_folder / "samples" / "step-00000003.png") as plot:
        assert plot.width > 400


@pytest.mark.usefixtures("figures_are_empty")
def test_samples_are_one_array_and_a_plot(run_folder, tmp_path, capsys):
    told = tmp_path / "told.json"
    signals = sample(run_folder, tmp_path / "a", "--num-images", "5", "--json", str(told))
    assert (signals.shape, signals.dtype) == ((5, 1, 16), np.float32)
    assert "5 signals, signals.npy, signals.png" in capsys.readouterr().out
    assert [name.rsplit("/", 1)[1] for name in json.loads(told.read_text())["files"]] == [
        "signals.npy",
        "signals.png",
    ]
    again = sample(
        run_folder, tmp_path / "b", "--num-images", "3", "--seed", "2", "--batch-size", "2"
    )
    assert np.array_equal(again, signals[2:])


def test_energy_of_signals(run_folder, tmp_path, capsys):
    told = tmp_path / "energy.json"
    options = ["--num-images", "1", "--num-inference-steps", "1", "--json", str(told)]
    assert main(["energy", str(run_folder), *options]) == 0
    assert json.loads(told.read_text())["macs"] > 0


def test_a_repository_of_signals(run_folder, tmp_path, monkeypatch):
    plotted = []

    def plot(columns):
        plotted.extend(columns.values())
        return Image.new("L", (1, 1))

    monkeypatch.setattr("spikediff.hub.card.plot_signals", plot)
    push = ["--dry-run", "--num-inference-steps", "1"]
    for source, out in ((run_folder, tmp_path / "a"), (run_folder / "pipeline", tmp_path / "b")):
        assert main(["push", str(source), "me/x", *push, "--output", str(out)]) == 0
        card = (out / "README.md").read_text()
        assert "that generates signals" in card
        assert 'pipe(seeds=range(16), output_type="pt").images' in card
        assert "unconditional-image-generation" not in card
        assert "x 16 x 16" not in card
    assert load_recipe(tmp_path / "a" / "recipe.yaml").data.dataset == "membrane"
    assert "It knows only signals of membrane." in (tmp_path / "a" / "README.md").read_text()
    assert [tuple(signals.shape) for signals in plotted] == [(8, 1, 16)]


def test_signals_are_compared_without_a_counterpart(run_folder, capsys):
    options = ["--no-quality", "--num-images", "1", "--num-inference-steps", "1"]
    assert main(["compare", str(run_folder), *options]) == 0
    assert "spiking" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "guide"])
def test_what_is_for_images_says_so(command, run_folder, capsys):
    assert main([command, str(run_folder)]) == 2
    assert "membrane: is a signal, not images" in capsys.readouterr().err


def test_signals_are_not_interpolated_by_the_command(run_folder, capsys):
    assert main(["interpolate", str(run_folder)]) == 2
    assert "interpolate: the network makes signals" in capsys.readouterr().err
