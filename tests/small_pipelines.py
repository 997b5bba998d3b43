"""Every pipeline, small and untrained, with neurons that fire and not all of them."""

from copy import deepcopy
from functools import cache

import torch

from autoencoders import warm
from norms import see
from sizes import ONE_LEVEL, U_NET
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.layers import ThresholdNorm
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

BOTH = {"spiking_stem": True, "spiking_resampling": True}


def settled(model, *inputs, gain=1.0):
    """Let the norms see inputs, so that neurons fire, and not all of them."""
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d | ThresholdNorm):
            torch.nn.init.constant_(norm.weight, gain)
            torch.nn.init.normal_(norm.bias, 0.1, 0.2)
    return see(model, *inputs)


def denoiser():
    unet = settled(SpikingUNet(**ONE_LEVEL), torch.randn(16, 1, 8, 8), 100)
    for p in unet.head.parameters():
        p.data.normal_(0.0, 0.1)  # an untrained head estimates hardly anything, a loud one clips
    return SpikingDiffusionPipeline(unet, make_scheduler("ddim"))


def currents(size=ONE_LEVEL, **options):
    unet = SynapticCurrentUNet(**size, spiking_steps=4, **options)
    unet = settled(unet, torch.randn(16, 1, 8, 8), 100)
    return SynapticCurrentPipeline(unet, make_scheduler("synaptic-ddim"))


def tokens():
    vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
    decoder = SpikingImageDecoder(16, (16, 16), spiking_steps=4)
    return VQSpikingDiffusionPipeline(
        settled(vqvae, torch.rand(32, 1, 8, 8) - 0.5, gain=3.0),
        settled(decoder, torch.randint(17, (32, 4, 4)), 5, gain=3.0),
        AbsorbingStateScheduler(num_train_timesteps=16, mask_token=16),
    )


def fsvae():
    model = FSVAE(16, 1, (8, 16), latent_channels=12, group_size=5, spiking_steps=8)
    return VAEPipeline(warm(model, torch.rand(8, 1, 16, 16) * 2 - 1))


def vae():
    return VAEPipeline(VAE(16, 1, (8, 16), latent_channels=12).eval())


MAKERS = {
    "denoiser": denoiser,
    "currents": currents,
    "currents, both": lambda: currents(U_NET, **BOTH),
    "tokens": tokens,
    "fsvae": fsvae,
    "vae": vae,
}


@cache
def made(name):
    torch.manual_seed(0)
    pipe = MAKERS[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(name):
    """Return a pipeline of one's own; all of one name are alike."""
    return deepcopy(made(name))
