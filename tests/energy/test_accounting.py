"""The published figures, and the two accountings on a network small enough to count by hand."""

from functools import cache

import pytest
import torch
from torch import nn

from goldens import Golden
from sizes import U_NET
from spikediff.energy import ACCOUNTINGS, EnergyMeter, audit
from spikediff.errors import UserError
from spikediff.layers import over_time
from spikediff.neurons import IF
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.released import load_authors_checkpoint
from spikediff.systems.sddpm.network import SpikingUNet

# MAC figures are those of the dossier of the SDDPM paper: FLOPs of one 32x32 image in one step.


def observe(model, *inputs):
    with EnergyMeter(model.eval()) as meter, torch.no_grad():
        model(*inputs)
    return meter


def full_size(make, **options):
    """Observe a network of the paper's size; its weights do not count, so none is drawn."""
    with torch.device("meta"):
        model = make(**options)
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(1)
    return observe(model, torch.randn(1, 3, 32, 32), 500)


@cache
def ordinary(attention):
    return full_size(ddpm_unet, attention=attention)


@cache
def spiking():
    return full_size(SpikingUNet, spiking_steps=1)


@pytest.mark.parametrize(
    ("attention", "gmac", "millijoule"), [(False, 6.333, 29.13), (True, 6.350, 29.21)]
)
@pytest.mark.parametrize("accounting", ACCOUNTINGS)
def test_the_ordinary_network_of_sddpm(attention, gmac, millijoule, accounting):
    report = ordinary(attention).report(accounting, "45nm")
    assert round(report.macs / 1e9, 3) == gmac
    assert round(report.energy_pj / 1e9, 2) == millijoule  # the paper prints 29.23
    assert report.acs == 0


def test_one_spiking_step_of_sddpm():
    report = spiking().report("strict")
    assert round(report.dense_macs / 1e9, 3) == 6.484
    assert round(report.macs / 1e9, 3) == 0.284  # shortcuts, stem, head and time embedding
    shortcuts = sum(cell.macs for cell in report.layers if "shortcut" in cell.layer)
    assert round(shortcuts / 1e6, 1) == 272.6


def test_what_the_spiking_network_of_sddpm_computes_once():
    once, _ = once_and_repeated(spiking())
    assert once == 3_538_944 + 128 * 512 + 512 * 512 + 512 * sum(_widths())


def test_spiking_steps_repeat_all_but_the_image_and_the_time():
    image, of = torch.randn(1, 1, 8, 8), []
    for spiking_steps in (1, 2):
        model = SpikingUNet(**U_NET, spiking_steps=spiking_steps)
        of.append(once_and_repeated(observe(model, image, 500)))
    (once, repeated), of_two = of
    assert min(once, repeated) > 0
    assert of_two == (once, 2 * repeated)


def once_and_repeated(meter):
    """Return the dense MACs of the layers of the image and the time, and those of all others."""
    cells = meter.report("strict").layers
    once = sum(c.dense_macs for c in cells if "stem.encode" in c.layer or "time" in c.layer)
    return once, sum(c.dense_macs for c in cells) - once


def _widths():
    """Return the width of every residual block, each of which projects the time embedding."""
    down, up = [128] * 2 + [256] * 4 + [512] * 2, [512] * 3 + [256] * 6 + [128] * 3
    return down + [512] * 2 + up


class Small(nn.Module):
    """Image -> 1x1 convolution -> IF -> linear read-out, T = 2; every value chosen."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.neuron = IF()
        self.read = nn.Linear(4, 3)
        nn.init.constant_(self.conv.weight, 0.5)

    def forward(self, image):
        current = over_time(self.conv, image.expand(2, *image.shape))
        return self.read(self.neuron(current).flatten(2)).sum(0)


def test_by_hand():
    # Currents .5 .1 1 .2 give spikes 0 0 1 0 and then 1 0 1 0: three spikes of eight.
    image = torch.tensor([[[[1.0, 0.2], [2.0, 0.41]]]])
    meter = observe(Small(), image)
    strict, paper = meter.report("strict"), meter.report("paper")
    assert (strict.macs, strict.acs) == (4, 3 * 3)  # the image once; fan-out 3
    assert strict.energy_pj == pytest.approx(4.6 * 4 + 0.9 * 9)
    assert (paper.macs, paper.acs) == (4, round(3 / 8 * 2 * 12))  # rate x T x FLOPs
    assert strict.neuron_updates == 8
    assert strict.firing_rate == 3 / 8


@pytest.mark.parametrize("x", [torch.ones(3, 8), torch.zeros(3, 8), torch.rand(3, 8)])
def test_an_ordinary_network_multiplies_whatever_it_sees_in_the_paper(x):
    report = observe(nn.Linear(8, 2), x).report("paper")
    assert (report.macs, report.acs) == (3 * 16, 0)


def test_the_paper_hides_what_strict_bills():
    torch.manual_seed(0)
    model = SpikingUNet(**U_NET)
    meter = observe(model, torch.randn(1, 1, 8, 8), 500)
    strict, paper = meter.report("strict"), meter.report("paper")
    assert paper.macs == 64 * 9 * 8 < strict.macs  # the first convolution alone
    assert [c.layer for c in paper.layers if c.macs] == ["stem.encode.conv"]
    assert paper.acs > strict.acs
    with pytest.raises(UserError, match="needs the strict accounting"):
        audit(paper)


def test_firing_rates_are_the_authors():
    a1 = Golden("A1_sddpm_unet")
    model = load_authors_checkpoint(a1.state(), "sddpm", 4)
    rates = observe(model, a1["in/x"], a1["in/t"]).report().firing_rates
    assert list(rates.values()) == pytest.approx(
        list(a1.facts["eval"]["1.0"]["firing_rate"].values())
    )


def test_wrong_names():
    meter = observe(Small(), torch.rand(1, 1, 2, 2))
    with pytest.raises(UserError, match="did you mean 'strict'"):
        meter.report("strikt")
    with pytest.raises(UserError, match="unknown cost table '45mm'"):
        meter.report(costs="45mm")
    with pytest.raises(UserError, match="folded, billed"):
        meter.report(batch_norm="merged")
