"""The distance of spike trains by their postsynaptic potentials."""

import pytest
import torch

from spikediff.errors import UserError
from spikediff.layers.coding import psp_mmd


def test_by_hand():
    a = torch.tensor([1.0, 0.0, 1.0])  # PSP 0.5, 0.25, 0.625
    b = torch.tensor([0.0, 1.0, 1.0])  # PSP 0, 0.5, 0.75
    want = (0.5**2 + 0.25**2 + 0.125**2) / 3
    assert psp_mmd(a, b).item() == pytest.approx(want, rel=1e-6)
    assert psp_mmd(a, b, tau_syn=1.0).item() == pytest.approx(2 / 3)  # no memory: plain spikes


def test_it_is_a_squared_distance():
    a, b = (torch.rand(2, 16, 3, 5) < 0.3).double()
    assert psp_mmd(a, a).item() == 0.0
    assert psp_mmd(a, b) == psp_mmd(b, a) > 0
    assert psp_mmd(3 * a, 3 * b).item() == pytest.approx(9 * psp_mmd(a, b).item())


def test_when_a_spike_came_counts():
    """Trains of one rate are apart, which a comparison of rates alone would not see."""
    early, late = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    near = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert 0 < psp_mmd(early, near) < psp_mmd(early, late)


def test_a_synapse_faster_than_a_step_is_refused():
    with pytest.raises(UserError, match=r"tau_syn = 0\.5"):
        psp_mmd(torch.zeros(4), torch.zeros(4), tau_syn=0.5)
