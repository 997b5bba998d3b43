"""One observation, and the report of it, that the tests of pictures and page share."""

import pytest
import torch
from PIL import Image
from torch import nn

from spikediff.inspection import SpikeRecorder, write_report
from spikediff.neurons import LIF, SignedIF


class Tiny(nn.Module):
    """Places that darken over the denoising, and a layer without places; an awkward name."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"<i>&": LIF(decay_input=False), "flat": SignedIF()})

    def forward(self, window, timestep):
        spikes = self.parts["<i>&"](window)
        return self.parts["flat"](spikes.mean((3, 4)) - 0.2)


@pytest.fixture(scope="session")
def record():
    source = torch.Generator().manual_seed(0)
    model = Tiny()
    with SpikeRecorder(model, neurons_per_layer=12) as record:
        for t in (90, 60, 30, 0):
            noise = torch.rand(4, 2, 3, 6, 8, generator=source) * t / 50
            noise[..., :2] = 2.0  # always fires
            noise[..., 7:] = 0.0  # never
            model(noise, t)
    return record


TITLE = 'runs/<script>alert(1)</script> & "more"'


@pytest.fixture(scope="session")
def report(record, tmp_path_factory):
    """Return the folder and the files of a report."""
    folder = tmp_path_factory.mktemp("spikes") / "new"
    images = Image.new("L", (40, 20), 99)
    return folder, write_report(record, folder, TITLE, {"pipeline": "<Mine>"}, images)
