"""A new system is one folder, one row and one public name: what docs/extending.md promises."""

import sys
from types import ModuleType

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

import spikediff as sd
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline, sampled
from spikediff.diffusion.objective import DenoisingObjective
from spikediff.systems import SYSTEMS, System, Trainable
from spikediff.training import recipe_from
from spikediff.training.trainer import Trainer


class TinyNet(ModelMixin, ConfigMixin):
    """One layer of spiking neurons."""

    @register_to_config
    def __init__(self, sample_size: int, in_channels: int, width: int = 8, spiking_steps: int = 2):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.neuron = sd.LIF()
        self.head = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, sample, timestep, return_dict=True):
        current = self.stem(sample).expand(self.config.spiking_steps, -1, -1, -1, -1)
        spikes = self.neuron(current)
        out = self.head(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2]).mean(0)
        return UNet2DOutput(out) if return_dict else (out,)


SYSTEM = System(
    {
        "tiny_net": Trainable(
            TinyNet, {"denoising": DenoisingObjective}, sampled(SpikingDiffusionPipeline)
        )
    }
)


@pytest.fixture
def installed(monkeypatch):
    folder = ModuleType("spikediff.systems.tiny")
    folder.SYSTEM = SYSTEM
    monkeypatch.setitem(sys.modules, folder.__name__, folder)
    monkeypatch.setitem(SYSTEMS, "tiny", ("tiny_net",))
    monkeypatch.setattr(sd, "TinyNet", TinyNet, raising=False)
    monkeypatch.setattr(sd, "__all__", [*sd.__all__, "TinyNet"])


@pytest.mark.usefixtures("installed")
def test_a_system_of_one_folder_and_one_row(tmp_path):
    content = {
        "model": {"network": "tiny_net", "width": 4},
        "data": {"batch_size": 8},
        "sampling": {"num_inference_steps": 2, "num_images": 2, "every": 0},
        "training": {"steps": 4, "checkpoint_every": 2},
    }
    run = tmp_path / "run"
    assert sd.train(content, run, **{"training.steps": 2}) == run
    assert sd.train(content, run, resume=True) == run
    assert recipe_from(content, "here").model.spiking_steps == 2  # the constructor's default
    with pytest.raises(sd.UserError, match=r"unknown key 'model\.widht'; did you mean 'width'"):
        Trainer(recipe_from({"model": {"network": "tiny_net", "widht": 4}}, "here"), run)
    pipe = sd.load(run)
    assert isinstance(pipe.unet, TinyNet)
    pipe.set_progress_bar_config(disable=True)
    with sd.EnergyMeter(pipe) as meter, sd.SpikeRecorder(pipe) as spikes:
        images = pipe(seeds=[3], num_inference_steps=2, output_type="pt").images
    assert meter.report().dense_macs > 0
    assert spikes.layers.keys() == {"neuron"}
    assert torch.equal(
        images, sd.load(run)(seeds=[3], num_inference_steps=2, output_type="pt").images
    )
