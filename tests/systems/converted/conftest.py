"""A small U-Net with weights of normal size, and what it sees."""

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.converted.convert import quantise
from spikediff.systems.converted.training import NoisedImages

SIZES = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "add_attention": False,
}


def _make_unet(**changes):
    torch.manual_seed(0)
    unet = UNet2DModel(**(SIZES | changes)).eval()
    with torch.no_grad():
        for p in unet.parameters():
            p += 0.1 * torch.randn(p.shape)
    return unet


@pytest.fixture(scope="session")
def unet():
    return _make_unet()


@pytest.fixture(scope="session")
def make_unet():
    return _make_unet


def _make_noised():
    images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return NoisedImages(images, make_scheduler("ddpm").alphas_cumprod, seed=0)


@pytest.fixture
def noised():
    return _make_noised()


@pytest.fixture
def few_checks(monkeypatch):
    """Whether a block has gained is decided on a few x_t."""
    monkeypatch.setattr("spikediff.systems.converted.training._CHECKS", 8)


@pytest.fixture(scope="session")
def quantised_once(unet):
    """The network, quantised; not to be changed."""
    return quantise(unet, 2, _make_noised(), calibration_images=8)


@pytest.fixture(scope="session")
def flat():
    """A network of one resolution, which trains in a third of the time."""
    one = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return _make_unet(block_out_channels=(8,), **one)


@pytest.fixture(scope="session")
def flat_quantised_once(flat):
    """It, quantised; not to be changed."""
    return quantise(flat, 2, _make_noised(), calibration_images=8)
