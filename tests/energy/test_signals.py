import pytest
import torch

from spikediff.energy.provenance import copies, read_signal


@pytest.mark.parametrize(
    ("values", "kind", "events"),
    [
        ([0.0, 1.0, 0.0, 1.0], "binary", 2),
        ([0.0, 0.8, 0.8, 0.0], "binary", 2),  # spikes that a layer scaled
        ([0.0, -1.0, 1.0, 0.0], "ternary", 2),
        ([0.0, -0.3, 0.3, -0.3], "ternary", 3),
        ([0.0, 1.0, 3.0, 2.0], "integer", 6),
        ([0.25, 0.0, 0.75, 1.0], "integer", 8),  # averages of four spikes
        ([0.5, 0.0, 0.75, 1.0], "integer", 9),  # the smallest is itself two units
        ([0.0, 0.0, 0.0, 0.0], "silent", 0),
    ],
)
def test_spikes_are_recognised(values, kind, events):
    signal = read_signal(torch.tensor(values))
    assert signal.spiking
    assert signal.kind == kind
    assert signal.events.sum() == events


@pytest.mark.parametrize(
    "values",
    [[0.0, 1.0, 0.3141, 1.0], [-0.2, 0.7123, 0.1], [0.0, 17.0, 1.0], [0.0, float("nan"), 1.0]],
)
def test_real_values_are_no_spikes(values):
    assert read_signal(torch.tensor(values)).kind == "real"


def test_one_real_value_among_many_spikes_is_seen():
    x = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    assert read_signal(x).kind == "binary"
    x[2, 60, 60] = 1e-7
    assert read_signal(x).kind == "real"


def test_noise_is_real():
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert read_signal(x).kind == read_signal(x.relu()).kind == "real"


def test_copies_of_a_window():
    x = torch.randn(3, 2, 4, 4)
    assert copies(x.expand(5, *x.shape).flatten(0, 1), images=3) == 5
    assert copies(x, images=3) == 1
    assert copies(x[:1].repeat(4, 1, 1, 1), images=4) == 1  # alike
    almost = x.repeat(2, 1, 1, 1)
    almost[5, 1, 3, 3] += 1
    assert copies(almost, images=3) == 1
