"""Untrained networks of images, currents and tokens that are loud enough for a flipped spike."""

import pytest
import torch

from norms import see
from sizes import ONE_LEVEL
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE


@pytest.fixture(scope="package")
def unet():
    torch.manual_seed(0)
    model = SpikingUNet(**ONE_LEVEL)
    torch.nn.init.normal_(model.head.conv.weight, std=0.1)
    return see(model, torch.randn(16, 1, 8, 8), torch.randint(1000, (16,)), momentum=0.65)


@pytest.fixture(scope="package")
def currents_unet():
    torch.manual_seed(0)
    model = SynapticCurrentUNet(**ONE_LEVEL, spiking_steps=4)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.02, 0.1)
    return model.eval()


@pytest.fixture(params=["images", "currents"])
def parts(request):
    """A network, and a scheduler that both kinds of network take."""
    name = {"images": "unet", "currents": "currents_unet"}[request.param]
    return {
        "unet": request.getfixturevalue(name),
        "scheduler": make_scheduler("synaptic-ddim", {"prediction_type": "v_prediction"}),
    }


@pytest.fixture(scope="package")
def token_parts():
    torch.manual_seed(0)
    vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
    decoder = SpikingImageDecoder(16, (16, 16), spiking_steps=4)
    for model in (vqvae, decoder):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.constant_(module.weight, 3.0)
    return {
        "vqvae": see(vqvae, torch.rand(32, 1, 8, 8) - 0.5),
        "decoder": see(decoder, torch.randint(17, (32, 4, 4)), 5),
        "scheduler": AbsorbingStateScheduler(num_train_timesteps=16, mask_token=16),
    }


@pytest.fixture
def quiet():
    """Make a pipeline without a progress bar."""

    def make(kind, parts):
        pipe = kind(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="package")
def pixels():
    """Three images of grey levels, uint8 [3, 1, 8, 8]."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(256, (3, 1, 8, 8), generator=draw, dtype=torch.uint8)


@pytest.fixture(scope="package")
def mask():
    """The lower right, and one pixel apart from it, boolean [8, 8]."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3:, 4:] = True
    mask[0, 0] = True
    return mask
