"""The firing-rate instrument observes, and leaves no trace."""

import pytest
import torch

from goldens import Golden
from spikediff.energy import FiringRates
from spikediff.errors import UserError
from spikediff.interop import load_authors_checkpoint


def test_rates_are_the_authors():
    a1 = Golden("A1_sddpm_unet")
    model = load_authors_checkpoint(a1.state(), "sddpm", 4)
    with FiringRates(model) as rates, torch.no_grad():
        model(a1["in/x"], a1["in/t"])
    want = list(a1.facts["eval"]["1.0"]["firing_rate"].values())
    assert list(rates.by_layer().values()) == pytest.approx(want)
    assert min(want) < rates.mean() < max(want)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_without_neurons_is_told():
    with pytest.raises(UserError, match="no spiking neurons"):
        FiringRates(torch.nn.Linear(1, 1))
