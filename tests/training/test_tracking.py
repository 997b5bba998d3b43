"""What the trackers of a run get."""

from dataclasses import replace

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType

from spikediff.training.trainer import Trainer


class Kept(GeneralTracker):
    """A tracker that keeps what it is sent."""

    name = "tensorboard"
    requires_logging_directory = True
    made: list = []  # noqa: RUF012

    def __init__(self, run_name, logging_dir, **_options):
        super().__init__()
        self.run_name, self.settings, self.rows, self.pictures = run_name, {}, {}, {}
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_options):
        self.rows.setdefault(step, {}).update(values)

    def log_images(self, values, step=None, **options):
        assert step not in self.pictures, "a grid is drawn once"
        self.pictures[step] = (values["samples"], options)


@pytest.fixture
def kept(monkeypatch):
    """The trackers that were made in place of TensorBoard's."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TENSORBOARD])
    monkeypatch.setattr(Kept, "made", [])
    return Kept.made


@pytest.mark.parametrize(
    ("network", "loss", "terms"),
    [
        pytest.param("spiking_unet", None, (), marks=pytest.mark.slow),
        ("synaptic_current_unet", "synaptic_current", ("image_level", "consistency")),
    ],
)
def test_trackers_get_settings_terms_grids_and_rates(
    network, loss, terms, small, of_network, with_steps, kept, tmp_path
):
    recipe = of_network(with_steps(small, 3, log_every=1), network, loss)
    scheduler = "ddim" if loss is None else "synaptic-ddim"
    sampling = replace(recipe.sampling, every=2, scheduler=scheduler)
    training = replace(recipe.training, trackers=("tensorboard",))
    recipe = replace(recipe, sampling=sampling, training=training)
    assert Trainer(recipe, tmp_path / "my-run", show_progress=False).train()
    [tracker] = kept
    assert tracker.run_name == "my-run"
    assert tracker.settings["optimizer.lr"] == recipe.optimizer.lr
    assert tracker.settings["model.network"] == network
    assert set(tracker.rows) == {1, 2, 3}
    assert {"loss", "lr", "grad_norm", *terms} <= set(tracker.rows[1])
    assert 0 < tracker.rows[2]["T x rate"] < 100
    assert 0 < tracker.rows[3]["firing rate"] < 1
    assert set(tracker.pictures) == {2, 3}
    pixels, options = tracker.pictures[3]
    assert (pixels.ndim, pixels.shape[0], pixels.shape[3]) == (4, 1, 3)
    assert options == {"dataformats": "NHWC"}


def test_trackers_change_no_weight(small, with_steps, kept, tmp_path):
    small = with_steps(small, 2)
    for name, trackers in (("a", ()), ("b", ("tensorboard",))):
        training = replace(small.training, trackers=trackers)
        recipe = replace(small, training=training, sampling=replace(small.sampling, every=2))
        assert Trainer(recipe, tmp_path / name, show_progress=False).train()
    weights = [
        (tmp_path / name / "pipeline/unet/diffusion_pytorch_model.safetensors").read_bytes()
        for name in "ab"
    ]
    assert weights[0] == weights[1]
