"""A small instance of every network, pipeline and scheduler class, found by walking the package.

A class without a row here fails the contract tests: a new one is tested at birth.
"""

import importlib
import pkgutil
from functools import cache

import torch

import spikediff
from autoencoders import warm
from sizes import U_NET
from small_pipelines import make, settled
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.diffusion.schedules import OnNoiseSchedule
from spikediff.editing.pipelines import (
    EditingPipeline,
    SpikingImg2ImgPipeline,
    SpikingInpaintPipeline,
    SpikingInversionPipeline,
)
from spikediff.editing.token_pipelines import VQSpikingImg2ImgPipeline, VQSpikingInpaintPipeline
from spikediff.systems.converted.convert import convert, quantise
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsvae.autoencoder import Autoencoder
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.integer.folding import to_integer
from spikediff.systems.integer.network import IntegerSpikingUNet
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

# Commands, which run or need what is not installed, and kernels of a GPU.
NOT_IMPORTED = (
    "spikediff.cli",
    "spikediff.native",
    "spikediff.__main__",
    "spikediff.neurons.kernels.triton",
)


BASES = (OwnPipeline, EditingPipeline, OnNoiseSchedule, Autoencoder)


@cache
def classes_of(base):
    """The names of all classes of the package that are a `base`, but for helpers of its own."""
    for module in pkgutil.walk_packages(spikediff.__path__, "spikediff."):
        if not module.name.startswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    found, left = set(), [base]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith("spikediff.") and kind not in BASES:
            found.add(kind.__name__)
    return sorted(found)


def images(count=2, channels=1):
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(7))


def _integer():
    unet = IntegerSpikingUNet(8, 1, block_out_channels=(8, 16), num_classes=3)
    for p in unet.head.parameters():
        p.data.normal_(0.0, 0.2)
    return settled(unet, torch.randn(16, 1, 8, 8), torch.tensor(100))


def _spiking():
    unet = SpikingUNet(**U_NET, num_classes=3)
    for p in unet.head.parameters():
        p.data.normal_(0.0, 0.2)
    return settled(unet, torch.randn(16, 1, 8, 8), 100)


def _quantised():
    unet = ddpm_unet(**U_NET).eval()
    return quantise(unet, bits=None).eval()


def _tokens(count=2):
    return torch.randint(17, (count, 4, 4), generator=torch.Generator().manual_seed(7))


def _autoencoder(kind, **options):
    model = kind(8, 1, channels=(4, 8), latent_channels=6, **options)
    return warm(model, torch.rand(8, 1, 8, 8) * 2 - 1)


# Of every network: what makes it, in evaluation mode, and what makes inputs of `forward`.
NETWORKS = {
    "SpikingUNet": (_spiking, lambda n=2: {"sample": images(n), "timestep": torch.tensor(5)}),
    "SynapticCurrentUNet": (
        lambda: settled(
            SynapticCurrentUNet(**U_NET, spiking_steps=4), torch.randn(16, 1, 8, 8), 100
        ),
        lambda n=2: {"sample": images(n), "timestep": torch.tensor(5)},
    ),
    "IntegerSpikingUNet": (
        _integer,
        lambda n=2: {"sample": images(n), "timestep": torch.tensor(5)},
    ),
    "DeployedIntegerUNet": (
        lambda: to_integer(_integer()),
        lambda n=2: {"sample": images(n), "timestep": torch.tensor(5)},
    ),
    "QuantisedUNet": (
        _quantised,
        lambda n=2: {"sample": images(n), "timestep": torch.tensor(5)},
    ),
    "ConvertedUNet": (
        lambda: convert(quantise(_ordinary(), bits=2), spiking_steps=3).eval(),
        lambda n=2: {"sample": images(n), "timestep": torch.tensor(5)},
    ),
    "FSVAE": (
        lambda: _autoencoder(FSVAE, group_size=3, spiking_steps=4),
        lambda n=2: {"images": images(n).clamp(-1, 1), "generator": _each(n)},
    ),
    "VAE": (
        lambda: _autoencoder(VAE),
        lambda n=2: {"images": images(n).clamp(-1, 1), "generator": _each(n)},
    ),
    "VQSVAE": (
        lambda: settled(
            VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4),
            torch.rand(32, 1, 8, 8) - 0.5,
            gain=3.0,
        ),
        lambda n=2: {"images": images(n).clamp(-0.5, 0.5)},
    ),
    "SpikingImageDecoder": (
        lambda: settled(
            SpikingImageDecoder(16, (16, 16), spiking_steps=4),
            torch.randint(17, (32, 4, 4)),
            5,
            gain=3.0,
        ),
        lambda n=2: {"tokens": _tokens(n), "timestep": torch.tensor(5)},
    ),
}


def _ordinary():
    return ddpm_unet(**U_NET).eval()


def _each(count):
    return [torch.Generator().manual_seed(k) for k in range(count)]


@cache
def _network(name):
    torch.manual_seed(0)
    return NETWORKS[name][0]()


def network(name):
    """A network of one's own, in evaluation mode."""
    import copy

    return copy.deepcopy(_network(name))


def inputs(name, count=2):
    """Inputs of its `forward`, the same every time."""
    return NETWORKS[name][1](count)


def first(output):
    """The first tensor of what a network returned."""
    return output[0] if isinstance(output, tuple) else output.sample


def _picture():
    return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(3))


def _mask():
    mask = torch.zeros(1, 8, 8)
    mask[..., 4:] = 1
    return mask


# Of every pipeline: what makes it, and what its call takes first.
PIPELINES = {
    "SpikingDiffusionPipeline": (lambda: make("denoiser"), dict),
    "SynapticCurrentPipeline": (lambda: make("currents"), dict),
    "VQSpikingDiffusionPipeline": (lambda: make("tokens"), dict),
    "VAEPipeline": (lambda: make("fsvae"), dict),
    "SpikingImg2ImgPipeline": (
        lambda: SpikingImg2ImgPipeline.from_pipe(make("denoiser")),
        lambda: {"image": _picture(), "strength": 1.0},
    ),
    "SpikingInpaintPipeline": (
        lambda: SpikingInpaintPipeline.from_pipe(make("denoiser")),
        lambda: {"image": _picture(), "mask_image": _mask()},
    ),
    "SpikingInversionPipeline": (
        lambda: SpikingInversionPipeline.from_pipe(make("denoiser")),
        lambda: {"latents": images(2)},
    ),
    "VQSpikingImg2ImgPipeline": (
        lambda: VQSpikingImg2ImgPipeline.from_pipe(make("tokens")),
        lambda: {"image": _picture(), "strength": 1.0},
    ),
    "VQSpikingInpaintPipeline": (
        lambda: VQSpikingInpaintPipeline.from_pipe(make("tokens")),
        lambda: {"image": _picture(), "mask_image": _mask()},
    ),
}


def pipeline(name):
    """A pipeline of one's own, without a progress bar."""
    pipe = PIPELINES[name][0]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call_of(name, seeds=(0, 1)):
    """What a short call of it takes."""
    steps = {"num_inference_steps": 2, "output_type": "pt"}
    drawn = {} if name == "SpikingInversionPipeline" else {"seeds": list(seeds)}
    return {**PIPELINES[name][1](), **steps, **drawn}


def scheduler(name):
    """A scheduler of one's own, by the name of its class."""
    if name == "AbsorbingStateScheduler":
        return AbsorbingStateScheduler(num_train_timesteps=49, mask_token=16)
    h = {"second_moment": [0.1, 1.0], "second_moment_timesteps": [0, 999]}
    key = next(key for key, (class_name, _) in SCHEDULERS.items() if class_name == name)
    return make_scheduler(key, h)
