"""The ordinary network: published sizes, and counterparts of spiking networks."""

import pytest
import torch

from spikediff.diffusion.model import ann_counterpart
from spikediff.errors import UserError
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.sddpm.network import SpikingUNet


@pytest.mark.parametrize(("attention", "parameters"), [(False, 66_423_043), (True, 67_474_691)])
def test_published_size(attention, parameters):
    with torch.device("meta"):
        model = ddpm_unet(attention=attention)
    assert sum(p.numel() for p in model.parameters()) == parameters
    attentions = [m for n, m in model.named_modules() if n.endswith("attentions.0")]
    assert [m.heads for m in attentions] == [1] * attention


def test_a_counterpart_has_the_widths_and_takes_the_images_of_its_spiking_network():
    spiking = SpikingUNet(28, 1, None, 8, (1, 2, 4), 1)
    counterpart = ann_counterpart(spiking)
    assert list(counterpart.config.block_out_channels) == [8, 16, 32]
    assert counterpart.config.sample_size == 28
    assert counterpart(torch.randn(2, 1, 28, 28), 5).sample.shape == (2, 1, 28, 28)


@pytest.mark.parametrize(("sample_size", "patches"), [(8, 4), ((8, 12), [4, 6])])
def test_a_counterpart_has_the_patches_of_its_spiking_network(sample_size, patches):
    spiking = SpikingUNet(sample_size, 3, 1, 8, (1, 2), 1, patch_size=2)
    config = ann_counterpart(spiking).config
    assert config.sample_size == patches
    assert (config.in_channels, config.out_channels) == (4 * 3, 4 * 1)


def test_impossible_sizes_are_told():
    with pytest.raises(UserError, match="UNet2DModel: sample_size=28 must be divisible by 8"):
        ddpm_unet(28, channel_mult=(1, 2, 2, 4))
    with pytest.raises(UserError, match="num_classes=-1 must not be negative"):
        ddpm_unet(num_classes=-1)
