"""A network of signals in the common loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikediff.errors import UserError
from spikediff.training import recipe_from
from spikediff.training.build import Parts, build_model, build_objective
from spikediff.training.recipe import check_recipe
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


@pytest.fixture
def signals(small):
    data = replace(small.data, dataset="membrane", image_size=16, signal_range=(-60.0, 10.0))
    model = replace(small.model, network="spiking_unet_1d")
    sampling = replace(small.sampling, num_images=2)
    return replace(small, model=model, data=data, sampling=sampling)


def changed(recipe, **data):
    return replace(recipe, data=replace(recipe.data, **data))


def test_the_network_sees_the_range_that_the_recipe_names(signals):
    objective = build_objective(Parts(signals, 16, 1))
    volts = torch.tensor([[[-60.0, -25.0, 10.0, 45.0]]])
    assert torch.allclose(objective.prepare(volts), torch.tensor([[[-1.0, 0.0, 1.0, 2.0]]]))
    assert build_model(Parts(signals, 16, 1)).config.dimensions == 1


@pytest.mark.slow
def test_stopped_and_resumed_is_the_whole_run(signals, with_steps, tmp_path):
    assert Trainer(with_steps(signals, 2), tmp_path / "whole", show_progress=False).train()
    assert Trainer(with_steps(signals, 1), tmp_path / "parts", show_progress=False).train()
    finished = load_trained(tmp_path / "parts")
    (tmp_path / "parts" / "pipeline" / "model_index.json").unlink()
    unfinished = load_trained(tmp_path / "parts")  # from its checkpoint
    assert list(unfinished.config.signal_range) == finished.config.signal_range == [-60.0, 10.0]
    assert unfinished.unet.config.sample_size == 16
    assert same_weights(unfinished.unet, finished.unet)

    resumed = Trainer(with_steps(signals, 2), tmp_path / "parts", resume=True, show_progress=False)
    assert resumed.train()
    whole, parts = (load_trained(tmp_path / name) for name in ("whole", "parts"))
    assert same_weights(whole.unet, parts.unet)
    assert not same_weights(whole.unet, finished.unet)


def same_weights(a, b):
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"signal_range": None}, r"say which values .* membrane runs from -67\.03 to 3\.785"),
        ({"dataset": "digits"}, "unknown signal 'digits'"),
        ({"channels": 3}, "data.channels = 3: signals have none; omit it"),
        ({"horizontal_flip": True}, "data.horizontal_flip"),
        ({"hold_out": True}, "data.hold_out"),
        ({"image_size": 15}, "sample_size=15 must be divisible by 2"),
    ],
)
def test_what_does_not_fit_signals_is_told(signals, data, words, tmp_path):
    two_levels = replace(signals, model=replace(signals.model, channel_mult=(1, 2)))
    with pytest.raises(UserError, match=words):
        Trainer(changed(two_levels, **data), tmp_path / "run", show_progress=False)


def test_what_does_not_fit_images_is_told(small, tmp_path):
    with pytest.raises(UserError, match=r"data\.signal_range: images have none"):
        Trainer(changed(small, signal_range=(-1.0, 1.0)), tmp_path / "run", show_progress=False)
    with pytest.raises(UserError, match="membrane: is a signal"):
        Trainer(changed(small, dataset="membrane"), tmp_path / "run", show_progress=False)


@pytest.mark.parametrize("values", [[1.0, -1.0], [0.0, 0.0]])
def test_a_range_rises(values):
    recipe = recipe_from({"data": {"signal_range": values}}, "here")
    with pytest.raises(UserError, match=r"data\.signal_range = .* lower one first"):
        check_recipe(recipe)


def test_a_range_has_two_ends():
    with pytest.raises(UserError, match=r"data\.signal_range = \[0\.0\] must have 2 values"):
        recipe_from({"data": {"signal_range": [0.0]}}, "here")


def test_a_recording_of_ones_own_with_channels(signals, with_steps, tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(2, 400)))
    recipe = changed(signals, dataset="mine.npy", data_dir=str(tmp_path), signal_range=(-3.0, 3.0))
    assert Trainer(with_steps(recipe, 1), tmp_path / "run", show_progress=False).train()
    pipe = load_trained(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    made = pipe(seeds=[0], num_inference_steps=1, output_type="np").images
    assert made.shape == (1, 2, 16)
