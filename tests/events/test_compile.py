"""The event-driven form of every network: layer by layer given the same input, and end to end."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from autoencoders import warm
from sizes import U_NET
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.events import EventConv2d, PackedNeuron, PackedSpikes, compile_for_inference, pack
from spikediff.events import compile as compiling
from spikediff.layers import ConvNorm, SpikingLayer, ThresholdNorm
from spikediff.native import native
from spikediff.neurons import NeuronLayer
from spikediff.systems.converted.layers import SpikingSynapse
from spikediff.systems.converted.network import ConvertedUNet
from spikediff.systems.fsddim.blocks import NormedShortcut, PostActivationBlock, SynapticResampling
from spikediff.systems.fsddim.merged.merge import carry_currents, merge_synapses
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

needs_native = pytest.mark.skipif(native() is None, reason="the C kernels are not built")
CONVOLUTIONS = nn.Conv2d | nn.ConvTranspose2d
# What is compared: of a ConvNorm, say, the current behind its norm, folded or not.
LAYERS = (
    ConvNorm,
    NormedShortcut,
    SpikingLayer,
    SynapticResampling,
    PostActivationBlock,
    SpikingSynapse,
    NeuronLayer,
    nn.Conv2d,
    nn.ConvTranspose2d,
)


def randomise(model):
    """Give every norm statistics and gains of its own, about what its currents have."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | ThresholdNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.02, 0.2)
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.uniform_(-0.2, 0.6)
    return model.eval()


def spiking_unet(**options):
    return randomise(SpikingUNet(**U_NET, **options))


def currents_unet(**options):
    return randomise(SynapticCurrentUNet(**U_NET, spiking_steps=4, **options))


def vq_svae():
    return randomise(VQSVAE(16, widths=(8, 16), codebook_size=16, spiking_steps=5))


def decoder(input):
    model = SpikingImageDecoder(codebook_size=8, widths=(16, 24), spiking_steps=6, input=input)
    return randomise(model)


def fsvae():
    model = FSVAE(16, 1, (8, 16), latent_channels=12, group_size=5, spiking_steps=8)
    return warm(model, torch.rand(8, 1, 16, 16) * 2 - 1)


def ordinary_unet():
    sizes = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(8, 1, 1, add_attention=False, **sizes, **blocks).eval()


def converted(spikes):
    architecture = {k: v for k, v in ordinary_unet().config.items() if k[0] != "_"}
    model = ConvertedUNet(architecture, spiking_steps=3, spikes=spikes)
    return model.eval()


MODELS = {
    "pre-spike": spiking_unet,
    "pre-spike, lif": lambda: spiking_unet(neuron="lif"),
    "plain": lambda: spiking_unet(block="plain"),
    "places": lambda: placed(spiking_unet(position_embedding=True)),
    "temporal scaling": lambda: scaled(spiking_unet(temporal_scaling=True)),
    "signed": lambda: spiking_unet(neuron="signed_if"),
    "fsddim": currents_unet,
    "fsddim, spiking stem": lambda: currents_unet(spiking_stem=True),
    "fsddim, spiking resampling": lambda: currents_unet(spiking_resampling=True),
    "fsddim, both": lambda: currents_unet(spiking_stem=True, spiking_resampling=True),
    "fsddim, plif": lambda: currents_unet(neuron="plif"),
    "fsddim, merged": lambda: merge_synapses(currents_unet()),
    "fsddim, carried": lambda: carry_currents(currents_unet(spiking_stem=True)),
    "vq-svae": vq_svae,
    "decoder of tokens": lambda: decoder("embedding"),
    "decoder of raw tokens": lambda: decoder("raw"),
    "fsvae": fsvae,
    "converted, signed": lambda: converted("signed"),
    "converted, unsigned": lambda: converted("unsigned"),
    "ordinary": ordinary_unet,
    "vae": lambda: randomise(VAE(16, 1, (8, 16), latent_channels=12)),
}


def scaled(model):
    for name, p in model.named_parameters():
        if name.endswith("scaling.p"):
            p.data.uniform_(0.8, 1.2)
    return model


def placed(model):
    torch.nn.init.normal_(model.stem.position_embedding)
    return model


def make(name):
    torch.manual_seed(0)
    return MODELS[name]()


class Made(NamedTuple):
    """A model that nobody changes."""

    model: nn.Module
    state: dict[str, torch.Tensor]  # before it was compiled
    image: torch.Tensor  # and so was this, by `call`
    compiled: nn.Module
    seen: dict[str, tuple]  # by `observe`


@cache
def made(name):
    model = make(name)
    state, image = {k: v.clone() for k, v in model.state_dict().items()}, call(model)
    return Made(model, state, image, compile_for_inference(model), observe(model))


@torch.no_grad()
def call(model, batch=2):
    """Return what a model makes of the same random input."""
    generator = torch.Generator().manual_seed(3)
    size = getattr(model.config, "sample_size", 8)
    if isinstance(model, SpikingImageDecoder):
        return model(torch.randint(0, 9, (batch, 6, 6), generator=generator), 3).sample
    images = torch.rand(batch, 1, size, size, generator=generator) * 2 - 1
    if isinstance(model, FSVAE | VAE):
        return model(images, generator=generator).sample
    if isinstance(model, VQSVAE):
        return model(images).sample
    return model(images, 17).sample


def observe(model):
    """Return what every layer saw and gave in a call: {name: (arguments, output)}."""
    seen, hooks = {}, []

    def note(name):
        def hook(_module, arguments, output):
            if all(x is None or isinstance(x, torch.Tensor) for x in arguments):  # no memory
                seen[name] = (arguments, output)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            hooks.append(module.register_forward_hook(note(name)))
    call(model)
    for hook in hooks:
        hook.remove()
    return seen


def is_spikes(x):
    return bool(((x == 0) | (x == 1)).all())


def as_bits(x, module, steps):
    """Return spikes as an event-driven network would hand them to a layer."""
    if not isinstance(x, torch.Tensor) or not is_spikes(x):
        return x
    if x.dim() == 5:
        return pack(x)
    folded = x.dim() == 4 and len(x) % steps == 0 and isinstance(module, EventConv2d)
    return pack(x.unflatten(0, (steps, -1))).flatten(0, 1) if folded else x


def dense(x):
    return x.dense() if isinstance(x, PackedSpikes) else x


def stands_alone(name, module, compiled):
    """Return whether a layer by itself computes what it did: no norm went into a convolution.

    That of a `SpikingSynapse` is called with a weight that the synapse scales.
    """
    if not isinstance(module, CONVOLUTIONS):
        return True
    return torch.equal(module.weight, compiled.weight) and not name.endswith(".layer")


@needs_native
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_layer_by_layer(name):
    model, _, _, whole, seen = made(name)
    layers = dict(whole.named_modules())
    steps = model.config.get("spiking_steps", 1)
    flips = spikes = packed = compared = 0
    for layer, (arguments, output) in seen.items():
        module, compiled = model.get_submodule(layer), layers[layer]
        if not stands_alone(layer, module, compiled):
            continue
        arguments = [as_bits(x, compiled, steps) for x in arguments]
        packed += any(isinstance(x, PackedSpikes) for x in arguments)
        got, compared = dense(compiled(*arguments)), compared + 1
        assert got.shape == output.shape
        if isinstance(module, NeuronLayer):
            assert torch.equal(got, output), layer
        elif is_spikes(output):
            flips, spikes = flips + (got != output).sum().item(), spikes + output.numel()
        else:
            scale = float(output.abs().max())
            torch.testing.assert_close(
                got, output, rtol=1e-5, atol=1e-5 * scale, msg=lambda m, n=layer: f"{n}: {m}"
            )
    assert compared > 3
    assert flips <= 1e-4 * spikes
    assert packed > 0 or not any(isinstance(m, PackedNeuron) for m in layers.values())


@needs_native
@pytest.mark.parametrize("name", MODELS)
def test_end_to_end_where_nothing_flips(name):
    _, _, want, compiled, seen = made(name)
    rates = [o.mean().item() for _, o in seen.values() if is_spikes(o)]
    assert not rates or max(rates) > 0.03, "a silent network proves nothing"
    torch.testing.assert_close(
        call(compiled), want, rtol=1e-4, atol=1e-5 * max(1.0, float(want.abs().max()))
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_original_stays_as_it_was(name):
    model, before, want, compiled, _ = made(name)
    call(compiled)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(call(model), want)
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in compiled.parameters()}
    assert not any(p.requires_grad for p in compiled.parameters())


PACKED = [name for name in MODELS if not {"signed", "merged", "carried"} & set(name.split(", "))]


@needs_native
@pytest.mark.parametrize("name", MODELS)
def test_what_is_replaced(name):
    """Spikes of -1 are no bits; a merged network has no convolution that would read them."""
    model, *_, compiled, _ = made(name)
    neurons = sum(isinstance(m, NeuronLayer) for m in model.modules())
    convolutions = sum(isinstance(m, CONVOLUTIONS) for m in model.modules())
    kinds = [type(m) for m in compiled.modules()]
    packed = neurons if name in PACKED and not name.startswith("converted") else 0
    assert kinds.count(PackedNeuron) == packed
    assert kinds.count(EventConv2d) == convolutions


@needs_native
def test_spikes_stay_bits_between_neuron_and_synapse(monkeypatch):
    """The currents of a pre-spike network are real-valued, so that only synapses see its spikes."""
    compiled, unpacked, unpack = made("pre-spike").compiled, [], PackedSpikes.dense
    norms = [m for m in compiled.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1  # before the head's, no convolution stands
    monkeypatch.setattr(PackedSpikes, "dense", lambda x: unpacked.append(x.activity) or unpack(x))
    call(compiled)
    assert not unpacked


@pytest.mark.parametrize("name", ["pre-spike", "fsddim, both", "vq-svae", "fsvae"])
def test_without_the_library_only_the_norms_are_folded(name, monkeypatch):
    monkeypatch.setattr(compiling, "native", lambda: None)
    model = make(name)
    compiled = compile_for_inference(model)
    assert not any(isinstance(m, EventConv2d | PackedNeuron) for m in compiled.modules())
    norms = [m for m in compiled.modules() if isinstance(m, nn.BatchNorm2d | ThresholdNorm)]
    assert len(norms) < sum(isinstance(m, nn.BatchNorm2d | ThresholdNorm) for m in model.modules())
    torch.testing.assert_close(call(compiled), call(model), rtol=1e-4, atol=1e-5)


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="a str is not a network"):
        compile_for_inference("mnist")
    model = make("pre-spike")
    with pytest.raises(UserError, match=r"float32 on the CPU, the model is torch\.float64"):
        compile_for_inference(make("pre-spike").double())
    with pytest.raises(UserError, match="meta"):
        compile_for_inference(make("pre-spike").to("meta"))
    compiled = compile_for_inference(model)
    with pytest.raises(UserError, match="save the model it came from"):
        compiled.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    model.save_pretrained(tmp_path)  # the original is still saved
    assert list(tmp_path.iterdir())
    twice = compile_for_inference(compiled)
    assert torch.equal(call(twice), call(compiled))


def test_a_model_in_training_is_compiled_for_evaluation():
    model = make("pre-spike").train()
    compiled = compile_for_inference(model)
    assert model.training
    assert not compiled.training
    torch.testing.assert_close(call(compiled), call(model.eval()), rtol=1e-4, atol=1e-5)


@needs_native
@pytest.mark.parametrize("name", ["fsddim", "fsddim, both", "fsddim, merged"])
def test_a_stream_is_the_window(name):
    compiled, t = made(name).compiled, 11
    currents = torch.randn(4, 2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        (window,) = compiled(currents, t, return_dict=False)
        state, outputs = None, []
        for current in currents:
            output, state = compiled.step(current, t, state)
            outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs), window, rtol=1e-4, atol=1e-5)


def test_its_energy_is_that_of_the_model_it_came_from():
    compiled = made("pre-spike").compiled
    with pytest.raises(UserError, match="measure the original model"):
        EnergyMeter(compiled)
