"""A seed's image has the same bits in every batch and on any number of threads."""

import pytest
import torch

from autoencoders import warm
from small_pipelines import make, settled
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.integer.network import IntegerSpikingUNet
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

SIZE = {"base_channels": 16, "channel_mult": (1, 2), "layers_per_block": 1}
IMAGES = (16, 3, 12, 12)
CALLS = [([3], 1), (range(1, 8), 2), ([3, 9], 3), (range(20), 6)]


def lively(unet):
    """An untrained head estimates hardly anything."""
    for p in unet.head.parameters():
        p.data.normal_(0.0, 0.2)
    return unet


def spiking(**options):
    unet = lively(SpikingUNet(12, 3, **SIZE, **options))
    return SpikingDiffusionPipeline(settled(unet, torch.randn(IMAGES), 100), make_scheduler("ddim"))


def currents(**options):
    unet = SynapticCurrentUNet(12, 3, **SIZE, **options)
    unet = settled(unet, torch.randn(IMAGES), 100)
    return SynapticCurrentPipeline(unet, make_scheduler("synaptic-ddim"))


def ordinary(**options):
    unet = ddpm_unet(12, 3, **SIZE, **options).eval()
    return SpikingDiffusionPipeline(unet, make_scheduler("dpmsolver++"))


def integer(**options):
    unet = lively(IntegerSpikingUNet(12, 3, block_out_channels=(16, 32), **options))
    unet = settled(unet, torch.randn(IMAGES), torch.tensor(100))
    return SpikingDiffusionPipeline(unet, make_scheduler("unipc"))


def tokens():
    vqvae = VQSVAE(sample_size=12, widths=(8,), codebook_size=16, spiking_steps=1)
    decoder = SpikingImageDecoder(16, (16, 16), spiking_steps=1)
    return VQSpikingDiffusionPipeline(
        settled(vqvae, torch.rand(32, 1, 12, 12) - 0.5, gain=3.0),
        settled(decoder, torch.randint(17, (32, 6, 6)), 5, gain=3.0),
        AbsorbingStateScheduler(num_train_timesteps=36, mask_token=16),
    )


def autoencoder():
    model = FSVAE(16, 1, (8, 16), latent_channels=12, group_size=5, spiking_steps=1)
    return VAEPipeline(warm(model, torch.rand(8, 1, 16, 16) * 2 - 1))


MAKERS = {
    "one step": lambda: spiking(spiking_steps=1, num_classes=3),
    "one step, plain": lambda: spiking(spiking_steps=1, block="plain"),
    "four steps": lambda: spiking(spiking_steps=4),
    "currents, one step": lambda: currents(spiking_steps=1),
    "ordinary": ordinary,
    "ordinary, attention": lambda: ordinary(attention=True, num_classes=3),
    "integer": lambda: integer(num_classes=3),
    "integer's ordinary counterpart": lambda: integer(activation="silu"),
    "tokens, one step": tokens,
    "autoencoder, one step": autoencoder,
    "vae": lambda: make("vae"),
}
COMPILED = ("one step", "currents, one step", "tokens, one step")
SLOW = ("one step, plain", "four steps", "ordinary", "integer's ordinary counterpart", "vae")
CASES = [
    *(pytest.param(n, False, marks=[pytest.mark.slow] * (n in SLOW)) for n in MAKERS),
    *((n, True) for n in COMPILED),
]


@pytest.fixture
def threads():
    """Sets torch's threads, and sets them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "compiled"), CASES)
def test_an_image_depends_on_its_seed_alone(name, compiled, threads):
    torch.manual_seed(0)
    pipe = MAKERS[name]()
    pipe.set_progress_bar_config(disable=True)
    if compiled:
        pipe.compile_for_inference()
    classes = bool(getattr(getattr(pipe, "unet", None), "config", {}).get("num_classes"))

    def draw(seeds):
        labels = {"class_labels": [seed % 3 for seed in seeds]} if classes else {}
        return pipe(seeds=list(seeds), num_inference_steps=2, output_type="pt", **labels).images

    threads(1)
    together = draw(range(20))
    assert together.std() > 0.01
    for seeds, count in CALLS:
        threads(count)
        for seed, image in zip(seeds, draw(seeds), strict=True):
            assert torch.equal(image, together[seed]), f"{len(seeds)} images, {count} threads"


@pytest.mark.parametrize("name", ["denoiser", "currents", "tokens", "fsvae", "vae"])
def test_a_network_in_training_mode_is_evaluated_and_not_changed(name):
    evaluated, trained = make(name), make(name)
    networks = [part for part in trained.components.values() if isinstance(part, torch.nn.Module)]
    for network in networks:
        network.train()
        next(network.children()).eval()  # modes of its own come back too
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    modes = [[m.training for m in network.modules()] for network in networks]
    attributes = [[set(vars(m)) for m in network.modules()] for network in networks]
    call = {"seeds": [0, 1], "num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(trained(**call).images, evaluated(**call).images)
    for network, state in zip(networks, before, strict=True):
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, state[key]), key
    assert [[m.training for m in network.modules()] for network in networks] == modes
    assert [[set(vars(m)) for m in network.modules()] for network in networks] == attributes


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_compiled_network_is_compiled_once(whole):
    pipe, graphs = make("denoiser"), []
    torch._dynamo.reset()

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    if whole:
        pipe.unet = torch.compile(pipe.unet, backend=backend)
    else:
        pipe.unet.compile(backend=backend)
    call = {"seeds": [0, 1], "num_inference_steps": 2, "output_type": "pt"}
    pipe(**call)
    compiled = len(graphs)
    pipe(**call)
    assert len(graphs) == compiled > 0
