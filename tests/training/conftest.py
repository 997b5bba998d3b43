"""A run that takes seconds."""

from dataclasses import replace

import pytest
from accelerate.state import AcceleratorState

from spikediff.training import Recipe, recipe_from
from spikediff.training.recipe import loss_section, model_section
from spikediff.training.trainer import Trainer


@pytest.fixture(scope="session")
def small() -> Recipe:
    return recipe_from(
        {
            "name": "small",
            "model": {
                "base_channels": 8,
                "channel_mult": [1],
                "layers_per_block": 1,
                "spiking_steps": 2,
            },
            "data": {"batch_size": 8},
            "optimizer": {"lr": 1e-3, "warmup_steps": 2, "schedule": "constant"},
            "ema": {"decay": 0.9},
            "sampling": {"num_inference_steps": 1, "num_images": 1, "every": 0},
            "training": {"steps": 6, "log_every": 2, "checkpoint_every": 2, "keep_last": 2},
        },
        "test",
    )


@pytest.fixture(scope="session")
def of_network():
    """Give a recipe another network, with the sizes of the first, and one of its losses."""

    def change(recipe, network, loss=None, **options):
        sizes = ("base_channels", "channel_mult", "layers_per_block")
        given = {"network": network, **{key: getattr(recipe.model, key) for key in sizes}}
        model = model_section(network)(**given, **options)
        return replace(recipe, model=model, loss=loss_section(network, loss)())

    return change


@pytest.fixture(scope="session")
def with_steps():
    return lambda recipe, steps, **training: replace(
        recipe, training=replace(recipe.training, steps=steps, **training)
    )


@pytest.fixture(scope="session")
def four(small, with_steps, tmp_path_factory):
    """The folder of a finished run of four steps; not to be changed."""
    folder = tmp_path_factory.mktemp("four") / "run"
    assert Trainer(with_steps(small, 4), folder, show_progress=False).train()
    return folder


@pytest.fixture
def fresh_accelerator():
    """Let a test choose its precision: accelerate keeps the first one of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
