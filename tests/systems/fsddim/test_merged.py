"""Merged networks: the original's spikes and outputs, and what the audit finds left to multiply."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from spikediff.diffusion.schedulers import make_scheduler
from spikediff.energy import EnergyMeter, audit
from spikediff.errors import UserError
from spikediff.events import compile_for_inference
from spikediff.layers import ThresholdNorm
from spikediff.neurons import NeuronLayer
from spikediff.systems.fsddim.merged.kernels import (
    RegionalSynapse,
    UniformSynapse,
    behind_average,
    cut,
    regional_kernels,
    regions,
)
from spikediff.systems.fsddim.merged.merge import carry_currents, merge_synapses
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline


def make(spiking_steps=4, sample_size=8, **options):
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "channel_mult": (1, 2), "layers_per_block": 1}
    model = SynapticCurrentUNet(sample_size, 1, spiking_steps=spiking_steps, **{**sizes, **options})
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ThresholdNorm):  # nothing silent, nothing neutral
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.02, 0.1)
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.2, 0.6)
            elif isinstance(module, nn.Conv2d):
                module.bias.uniform_(-0.5, 0.5)  # a border that is merged wrongly shows
    return model.double().eval()


@cache
def once(**options):
    """A network and what it is merged to; no test changes them."""
    model = make(**options)
    return model, merge_synapses(model)


def merged_once(**options):
    return once(**options)[1]


BOTH = {"spiking_stem": True, "spiking_resampling": True}
OPTIONS = [
    {},
    {"spiking_stem": True},
    {"spiking_resampling": True},
    BOTH,
    {"channel_mult": (1, 2, 1, 2), "layers_per_block": 2, "residual_alpha": 2**-0.5},  # to 1x1
    {"channel_mult": (2,), "sample_size": 5, "neuron": "plif"},
    {"sample_size": 2},
    {"neuron": "if", "out_channels": 3},
]


def spikes_of(model):
    """Return a list that will hold what the model's neurons put out, in their order, and hooks."""
    spikes = []
    layers = [module for module in model.modules() if isinstance(module, NeuronLayer)]
    hooks = [m.register_forward_hook(lambda _m, _i, out: spikes.append(out)) for m in layers]
    return spikes, hooks


def noise_like(model, batch=2):
    size = model.config.sample_size
    return torch.randn(4, batch, 1, size, size, dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS)
def test_spikes_and_outputs_are_those_of_the_original(options):
    model, merged = once(**options)
    currents, t = noise_like(model), torch.tensor([17, 900])
    (ours, hooks), (theirs, others) = spikes_of(merged), spikes_of(model)
    with torch.no_grad():
        want, got = model(currents, t).sample, merged(currents, t).sample
    for hook in hooks + others:
        hook.remove()
    assert len(ours) == len(theirs) > 0
    for mine, original in zip(ours, theirs, strict=True):
        assert torch.equal(mine, original)
    assert 0.05 < torch.cat([s.flatten() for s in ours]).mean() < 0.95
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


@pytest.mark.parametrize("options", OPTIONS[:4])
def test_every_synapse_but_those_of_the_image_sees_spikes(options):
    merged, seen = merged_once(**options), {}
    hooks = [
        module.register_forward_hook(lambda _m, i, _o, n=name: seen.update({n: i[0]}))
        for name, module in merged.named_modules()
        if isinstance(module, RegionalSynapse | UniformSynapse | nn.Linear)
    ]
    merged(noise_like(merged), 5)
    for hook in hooks:
        hook.remove()
    real = {n.split(".")[1] for n, x in seen.items() if not ((x == 0) | (x == 1)).all()}
    of_stem = {"down_levels_0_blocks_0_neuron1", "down_levels_0_blocks_0_neuron2", "readout"}
    of_stem |= {"last_block_neuron1", "last_block_neuron2"}
    assert real == ({"stem_neuron"} if options.get("spiking_stem") else of_stem)


def test_as_a_denoiser_of_images_and_in_a_stream():
    (model, merged), x = once(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    currents = noise_like(model)
    with torch.no_grad():
        torch.testing.assert_close(merged(x, 5).sample, model(x, 5).sample, atol=1e-10, rtol=0)
        (window,) = merged(currents, 5, return_dict=False)
        state, outputs = None, []
        for current in currents:
            output, state = merged.step(current, 5, state)
            outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs), window, atol=1e-12, rtol=0)


def test_merging_leaves_the_original_and_its_type():
    model = make().float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merged = merge_synapses(model)
    assert merged.dtype == torch.float32
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in merged.parameters()}
    x = torch.randn(2, 1, 8, 8)
    assert (merged(x, 5).sample - model(x, 5).sample).abs().mean() < 1e-3, "but for rare flips"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("factor", [1, 2])
def test_two_convolutions_are_one_at_the_border_too(size, factor):
    torch.manual_seed(0)
    c, p = torch.randn(4, 3, 3, 3).double(), torch.randn(3, 2, 3, 3).double()
    x = torch.randn(1, 1, 2, size, size).double()
    shown = interpolate(x[0], scale_factor=float(factor), mode="nearest")
    places = regions(size * factor, 3, 3, factor)
    synapse = RegionalSynapse(regional_kernels(c, p, places), places)
    want = conv2d(conv2d(shown, p, padding=1), c, padding=1)
    torch.testing.assert_close(synapse(x)[0], want)


def test_no_pair_of_neurons_has_more_than_one_weight():
    """Nearest upsampling and two 3x3 convolutions: an inner spike has 6 x 6 targets, not 4 x 25."""
    one = torch.ones(1, 1, 3, 3).double()
    places = regions(16, 3, 3, 2)
    synapse = RegionalSynapse(
        [torch.ones_like(k) for k in regional_kernels(one, one, places)], places
    )
    spike = torch.zeros(1, 1, 1, 8, 8).double()
    spike[..., 4, 4] = 1.0
    assert synapse(spike).sum() == 36
    assert [len(strip.window) for strip in cut(16, 3, 3, 2)] == [2, 3, 3, 2]


@pytest.mark.parametrize(("taps", "kernel"), [(1, 2), (3, 6)])
def test_averaging_merges_into_one_kernel_of_stride_two(taps, kernel):
    torch.manual_seed(0)
    c, p = torch.randn(4, 3, taps, taps).double(), torch.randn(3, 2, 1, 1).double()
    x = torch.randn(1, 1, 2, 8, 8).double()
    merged = behind_average(c, p)
    assert merged.shape[-1] == kernel
    want = conv2d(conv2d(avg_pool2d(x[0], 2), p), c, padding=taps // 2)
    got = UniformSynapse(merged, stride=2, padding=2 * (taps // 2))(x)[0]
    torch.testing.assert_close(got, want)


def pipeline(unet, scheduler="synaptic-ddim"):
    config = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    pipe = SynapticCurrentPipeline(unet, make_scheduler(scheduler, config))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(unet, seeds=(0, 1), steps=2, scheduler="synaptic-ddim", **options):
    pipe = pipeline(unet, scheduler)
    return pipe(seeds=seeds, num_inference_steps=steps, output_type="pt", **options)


MERGED = (merge_synapses, {})
CARRIED = [(carry_currents, {"spiking_stem": True}), (carry_currents, BOTH)]


@pytest.mark.parametrize(
    ("change", "options", "scheduler", "stream"),
    [
        *((*changed, "synaptic-ddim", True) for changed in (MERGED, *CARRIED)),
        (*MERGED, "dpmsolver++", True),
        *(pytest.param(*c, "dpmsolver++", True, marks=pytest.mark.slow) for c in CARRIED),
        *(
            pytest.param(*c, "synaptic-ddim", False, marks=pytest.mark.slow)
            for c in (MERGED, *CARRIED)
        ),
    ],
)
def test_a_pipeline_gives_the_same_images(change, options, scheduler, stream):
    model = make(**options)
    steps = {"synaptic-ddim": 2, "dpmsolver++": 3}[scheduler]  # the latter is of second order
    want = draw(model, steps=steps, scheduler=scheduler)
    got = draw(change(model), steps=steps, scheduler=scheduler, stream=stream)
    torch.testing.assert_close(got.images, want.images, atol=1e-8, rtol=0)
    assert got.current_variance == pytest.approx(want.current_variance)
    assert want.current_variance[-1] > 0


@pytest.mark.parametrize("steps", [1, 3])
def test_carrying_keeps_for_any_number_of_steps(steps):
    model = make(spiking_stem=True, channel_mult=(1,))
    want = draw(model, steps=steps).images
    torch.testing.assert_close(
        draw(carry_currents(model), steps=steps).images, want, atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("change", [merge_synapses, carry_currents])
def test_an_image_depends_on_its_seed_alone(change):
    unet = change(make(spiking_stem=True).float())
    together = draw(unet, range(5)).images
    for batch in ([3], [4, 1]):
        for seed, image in zip(batch, draw(unet, batch).images, strict=True):
            assert torch.equal(image, together[seed])


def test_a_carried_network_is_a_denoiser_of_images_too():
    model, x = make(spiking_stem=True), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    carried = carry_currents(model)
    torch.testing.assert_close(carried(x, 5).sample, model(x, 5).sample, atol=1e-10, rtol=0)


def found(unet, steps=3):
    """Return MACs or elements of everything that is not an accumulate, by (layer, operation)."""
    pipe = pipeline(unet)
    with EnergyMeter(pipe) as meter:
        pipe(seeds=[0], num_inference_steps=steps, output_type="pt")
    findings = audit(meter.report(accounting="strict", costs="45nm")).findings
    return {(finding.layer, finding.operation): finding.amount for finding in findings}


SCALING = ("scheduler", "scaling")
OF_THE_IMAGE = "layers.{}.synapses.image"


def test_what_the_audit_finds_in_the_published_network():
    """The step's two scalars, and the synapses of what sees the stem's current."""
    merged = found(merged_once())
    first, last = "down_levels_0_blocks_0_neuron", "last_block_neuron"
    kernels = {f"{first}1": "35", f"{first}2": "3", f"{last}1": "35", f"{last}2": "3"}
    assert set(merged) == {SCALING} | {
        (OF_THE_IMAGE.format(name), f"conv2d {height}x{width}")
        for name, sizes in (kernels | {"readout": "3"}).items()
        for height in sizes
        for width in sizes
    }
    # 8 channels and 64 pixels; T = 4 steps, of which the first timestep's are alike.
    assert merged[OF_THE_IMAGE.format(f"{last}2"), "conv2d 3x3"] == 9 * 8 * 64 * (1 + 4 + 4)
    assert merged[SCALING] == 2 * 64 * 4 * 3


@pytest.mark.parametrize("options", [{"spiking_stem": True}, BOTH])
def test_what_the_audit_finds_with_a_spiking_stem(options):
    merged = found(merged_once(**options))
    assert merged.keys() == {SCALING, (OF_THE_IMAGE.format("stem_neuron"), "conv2d 3x3")}


@pytest.mark.parametrize("steps", [1, 2])
def test_what_the_audit_finds_where_currents_are_carried(steps):
    """The step's two scalars, and one convolution per image, before the first step."""
    carried = found(carry_currents(make(spiking_stem=True)), steps)
    assert carried == {
        SCALING: 2 * (1 + 8) * 64 * 4 * steps,
        ("stem", "conv2d 3x3"): 9 * 8 * 64,
    }


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: merge_synapses(make().train()), "eval"),
        (lambda: carry_currents(make(spiking_stem=True).train()), "eval"),
        (lambda: merge_synapses(compile_for_inference(make().float())), "merge the original"),
        (lambda: carry_currents(make()), "no neurons behind its stem"),
        (lambda: carry_currents(make(spiking_stem=True, out_channels=2)), "2 channels"),
        (lambda: merged_once()(torch.zeros(4, 1, 1, 16, 16), 0), "one image size"),
        (lambda: merged_once()(torch.zeros(1, 3, 8, 8), 0), "expects currents"),
        (lambda: merged_once()(torch.zeros(1, 1, 8, 8).double(), 0.5), "fractional"),
        (lambda: merged_once()(torch.zeros(1, 1, 8, 8).double(), 1000), "1000 rows"),
        (lambda: merged_once().step(torch.zeros(1, 1, 8, 8), 0, {"a": None}), "another"),
    ],
)
def test_wrong_use_is_told(call, word):
    with pytest.raises(UserError, match=word):
        call()


def test_an_empty_batch_has_an_empty_estimate():
    nothing = torch.zeros(0, 1, 8, 8).double()
    assert merged_once()(nothing, torch.zeros(0, dtype=torch.long)).sample.shape == nothing.shape
