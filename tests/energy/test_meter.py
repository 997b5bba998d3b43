"""Counts against brute force, and what a meter must not do."""

import pytest
import torch
from diffusers import HeunDiscreteScheduler
from torch import nn
from torch.nn import functional

from sizes import ONE_LEVEL, U_NET
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.loop import draws_noise
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.layers import over_time
from spikediff.neurons import IF, LIF, ParametricLIF, SignedIF
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.sddpm.network import SpikingUNet

GENERATOR = torch.Generator().manual_seed(0)


def spikes(*shape, rate=0.3):
    return (torch.rand(shape, generator=GENERATOR) < rate).float()


def count(model, *inputs):
    with EnergyMeter(model) as meter, torch.no_grad():
        model(*inputs)
    return meter.report()


def pairs_by_brute_force(layer, x):
    """Sum over every output of the active inputs in its field: a convolution with ones."""
    ones = type(layer)(**_geometry(layer), bias=False)
    nn.init.ones_(ones.weight)
    return round(ones(x.double().abs().float()).double().sum().item())


def _geometry(layer):
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    return {name: getattr(layer, name) for name in (*names, "groups")}


CONVOLUTIONS = [
    (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 7, 6)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 8)),
    (nn.Conv2d(4, 6, (3, 1), padding=(2, 0), dilation=(2, 1)), (2, 4, 7, 8)),
    (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
    (nn.Conv1d(2, 3, 5, stride=2, padding=2), (3, 2, 11)),
    (nn.Conv3d(2, 3, (3, 3, 1), padding=(1, 1, 0)), (1, 2, 5, 5, 4)),
    (nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1), (2, 3, 5, 4)),
    (nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS)
def test_synaptic_operations_are_exact(layer, shape):
    x = spikes(*shape)
    report = count(layer, x)
    assert (report.macs, report.acs) == (0, pairs_by_brute_force(layer, x))


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS)
def test_real_inputs_multiply(layer, shape):
    x = torch.randn(shape, generator=GENERATOR)
    with EnergyMeter(layer) as meter, torch.no_grad():
        out = layer(x)
    dense = (x if layer.transposed else out).numel() * layer.weight[0].numel()
    assert (meter.report().macs, meter.report().acs) == (dense, 0)
    inner = pairs_by_brute_force(layer, torch.ones(shape))
    assert meter.report(padding=False).macs == inner


@pytest.mark.parametrize("scale", [0.5, -1.0, 1 / 3])
def test_the_scale_of_spikes_changes_nothing(scale):
    layer, x = nn.Conv2d(3, 4, 3, padding=1), spikes(2, 3, 6, 6)
    assert count(layer, scale * x).acs == count(layer, x).acs


def test_integer_and_ternary_spikes():
    layer = nn.Linear(6, 10)
    assert count(layer, torch.tensor([[0.0, 1.0, 3.0, 0.0, 2.0, 1.0]])).acs == 7 * 10
    assert count(layer, torch.tensor([[0.0, 1.0, -1.0, 0.0, 0.0, 1.0]])).acs == 3 * 10


def test_linear_over_time():
    x = spikes(4, 2, 7)
    assert count(nn.Linear(7, 5), x).acs == x.sum() * 5


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        return functional.conv2d(x, 2 * self.weight, padding=1)


def test_a_functional_convolution_is_seen_and_work_on_weights_is_not_billed():
    x = spikes(1, 3, 5, 5)
    report = count(Functional(), x)
    assert [cell.operation for cell in report.layers] == ["conv2d 3x3"]
    assert report.acs == pairs_by_brute_force(nn.Conv2d(3, 4, 3, padding=1), x)


class Attention(nn.Module):
    def forward(self, q, k):
        return q @ k.transpose(-1, -2)


def test_products_of_data():
    q, k = spikes(2, 5, 8), spikes(2, 6, 8)
    both = count(Attention(), q, k)
    assert both.acs == (q @ k.transpose(-1, -2)).sum()  # coincidences
    assert both.macs == 0
    real = torch.randn(2, 6, 8, generator=GENERATOR)
    assert count(Attention(), q, real).acs == q.sum() * 6
    assert count(Attention(), real, q).acs == q.sum() * 6
    assert count(Attention(), real, real).macs == 2 * 6 * 6 * 8


class Twice(nn.Module):
    """A layer that is called on spikes and on real values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(7, 5)

    def forward(self, x, y):
        return self.layer(x) + self.layer(y)


def test_a_layer_of_spikes_and_of_real_values_is_one_row_that_adds_and_multiplies():
    x, y = spikes(2, 7), torch.randn(2, 7, generator=GENERATOR)
    [row] = [cell for cell in count(Twice(), x, y).layers if cell.layer == "layer"]
    assert (row.macs, row.acs) == (2 * 7 * 5, x.sum() * 5)


def test_an_image_without_a_batch_counts_as_a_batch_of_one():
    layer, x = nn.Conv2d(3, 4, 3, padding=1), spikes(1, 3, 6, 6)
    assert count(layer, x[0]).acs == count(layer, x).acs > 0


class Transposed(nn.Module):
    """A linear layer whose weight is the left factor."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 7))

    def forward(self, x):
        return self.weight @ x  # [5, 7] @ [7, N]


def test_a_weight_may_be_the_left_factor():
    x = spikes(7, 3)
    assert count(Transposed(), x).acs == x.sum() * 5
    real = torch.randn(7, 3, generator=GENERATOR)
    assert count(Transposed(), real).macs == 5 * 7 * 3


class Direct(nn.Module):
    """Direct coding, written naively: the image is convolved at every spiking step."""

    def __init__(self, spiking_steps=4):
        super().__init__()
        self.spiking_steps = spiking_steps
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.neuron = IF()
        self.next = nn.Conv2d(3, 2, 1)

    def forward(self, image):
        window = image.expand(self.spiking_steps, *image.shape)
        return over_time(self.next, self.neuron(over_time(self.conv, window)))


def test_copies_of_an_image_are_billed_once():
    image = torch.randn(2, 1, 6, 6, generator=GENERATOR)
    model = Direct()
    report = count(model, image)
    assert report.macs == 2 * 36 * 9 * 3
    assert report.dense_macs == 4 * (2 * 36 * 9 * 3 + 2 * 36 * 3 * 2)
    fired = model.neuron(over_time(model.conv, image.expand(4, *image.shape)))
    assert report.acs == fired.sum() * 2


def test_alike_images_are_not_copies():
    image = torch.randn(1, 1, 6, 6, generator=GENERATOR).repeat(2, 1, 1, 1)
    assert count(Direct(), image).macs == 2 * 36 * 9 * 3


@pytest.mark.parametrize("neuron", [IF, LIF, ParametricLIF, SignedIF])
def test_neurons_are_updates_not_operations(neuron):
    layer = neuron()
    current = torch.randn(4, 2, 5, generator=GENERATOR)
    report = count(layer, current)
    assert (report.macs, report.acs, report.neuron_updates) == (0, 0, 40)
    assert report.firing_rate == layer(current).abs().sum() / 40
    assert [cell.operation for cell in report.layers] == ["neuron"]


class Foreign(nn.Module):
    """A neuron that the library does not know."""

    def forward(self, current):
        return (current.cumsum(0) > 1).float()


def test_neurons_of_other_libraries():
    model = nn.Sequential(Foreign())
    current = torch.rand(4, 3, generator=GENERATOR)
    with EnergyMeter(model, neurons=[Foreign]) as meter:
        out = model(current)
    assert meter.report().neuron_updates == 12
    assert meter.report().firing_rate == out.sum() / 12


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.maximum(x, self.weight)


def test_what_cannot_be_counted_is_an_error_that_names_the_module():
    model = nn.Sequential(nn.Linear(3, 3), Odd())
    refusal = pytest.raises(UserError, match="1: a parameter takes part in 'maximum'")
    with refusal, EnergyMeter(model):
        model(torch.ones(1, 3))
    model[0](torch.ones(1, 3))  # nothing is left behind
    assert not model[0]._forward_hooks
    assert not model[1]._forward_pre_hooks


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(4, 1, 1))
        self.shift = nn.Parameter(torch.rand(3))

    def forward(self, x):
        return self.gain * x + self.shift


def test_a_learned_gain_multiplies_and_a_learned_shift_is_free_as_a_bias_is():
    report = count(Scaled(), torch.randn(4, 2, 3, generator=GENERATOR))
    assert (report.macs, report.acs) == (24, 0)
    assert {c.operation: c.elements for c in report.layers}["addition"] == 24


def conv_norm():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)).eval()


def test_batch_norm_is_folded_or_billed():
    model, x = conv_norm(), torch.randn(1, 1, 4, 4, generator=GENERATOR)
    with EnergyMeter(model) as meter, torch.no_grad():
        model(x)
    assert meter.report().macs == 16 * 9 * 2
    assert meter.report(batch_norm="billed").macs == 16 * 9 * 2 + 32
    assert "batch norm, folded" in {cell.operation for cell in meter.report().layers}


@pytest.mark.parametrize(
    "model",
    [
        conv_norm().train(),  # its statistics are the data's
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.SiLU(), nn.BatchNorm2d(2)).eval(),
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2)),
    ],
)
def test_other_norms_cannot_be_folded(model):
    report = count(model, torch.randn(1, 1, 4, 4, generator=GENERATOR))
    norms = [cell.operation for cell in report.layers if "norm" in cell.operation]
    assert len(norms) == 1
    assert not norms[0].endswith("folded")


def test_a_frozen_norm_of_spikes_is_one_accumulate_a_spike():
    norm, x = nn.BatchNorm2d(2).eval(), spikes(3, 2, 4, 4)
    report = count(nn.Sequential(norm), x)
    assert (report.macs, report.acs) == (0, int(x.sum()))
    assert count(norm.train(), x).acs == 0, "its statistics are the spikes' own"


class TwoSynapses(nn.Module):
    """Two synapses onto the neurons that a norm stands before."""

    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.near(x) + self.far(x))


def test_a_norm_folds_into_all_synapses_before_it():
    report = count(TwoSynapses().eval(), spikes(2, 1, 4, 4))
    assert "batch norm, folded" in {cell.operation for cell in report.layers}
    assert report.macs == 0


def test_a_window_holds_as_many_images_as_its_batch():
    torch.manual_seed(0)
    model = SynapticCurrentUNet(**U_NET, spiking_steps=4).eval()
    assert count(model, torch.randn(4, 3, 1, 8, 8), 5).images == 3
    assert count(model, torch.randn(3, 1, 8, 8), 5).images == 3


def small_unet(**options):
    torch.manual_seed(0)
    return SpikingUNet(**ONE_LEVEL, **options).eval()


def test_counting_changes_no_bit():
    model, x = small_unet(), torch.randn(2, 1, 8, 8, generator=GENERATOR)
    with torch.no_grad():
        plain = model(x, 7).sample
        with EnergyMeter(model):
            counted = model(x, 7).sample
    assert torch.equal(plain, counted)


def test_counting_does_not_disturb_gradients():
    model, x = small_unet(), torch.randn(1, 1, 8, 8, generator=GENERATOR)
    gradients = []
    for meter in (None, EnergyMeter(model)):
        model.zero_grad()
        if meter is None:
            model(x, 7).sample.square().sum().backward()
        else:
            with meter:
                loss = model(x, 7).sample.square().sum()
            loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert gradients[0]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_steps_are_the_timesteps_of_a_generation():
    pipe = SpikingDiffusionPipeline(small_unet(), make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    plain = pipe(seeds=[0, 1], num_inference_steps=3, output_type="pt").images
    with EnergyMeter(pipe) as meter:
        counted = pipe(seeds=[0, 1], num_inference_steps=3, output_type="pt").images
    report = meter.report()
    assert torch.equal(plain, counted)
    assert report.images == 2
    assert list(report.timesteps) == pipe.scheduler.timesteps.tolist()
    assert sum(cell.acs for cell in report.steps) == report.acs > 0
    assert {c.operation for c in report.cells if c.layer == "scheduler"} >= {"scaling", "addition"}
    assert "step" not in vars(pipe.scheduler)  # as it was


def test_meters_nest():
    pipe = SpikingDiffusionPipeline(small_unet(), make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    with EnergyMeter(pipe) as outer:
        with EnergyMeter(pipe) as inner:
            pipe(seeds=[0], num_inference_steps=2, output_type="pt")
        pipe(seeds=[0], num_inference_steps=2, output_type="pt")
    once, twice = inner.report(), outer.report()
    assert (twice.macs, twice.acs) == (2 * once.macs, 2 * once.acs)
    assert twice.neuron_updates == 2 * once.neuron_updates
    billed = {c.operation: c.elements for c in once.layers if c.layer == "scheduler"}
    assert {c.operation: c.elements for c in twice.layers if c.layer == "scheduler"} == {
        operation: 2 * elements for operation, elements in billed.items()
    }


def test_two_batches_are_more_images_of_the_same_steps():
    model = small_unet()
    x = torch.randn(3, 1, 8, 8, generator=GENERATOR)
    with EnergyMeter(model) as meter, torch.no_grad():
        for part in x.split([1, 2]):
            for timestep in (10, 5):
                model(part, timestep)
    report = meter.report()
    assert report.images == 3
    assert report.timesteps == (10.0, 5.0)
    assert report.energy_per_image_pj == report.energy_pj / 3


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 1, 8, 8, generator=GENERATOR),
        torch.randn(1, 1, 8, 8, generator=GENERATOR).repeat(4, 1, 1, 1),  # no copies for T = 4
    ],
)
def test_a_batch_costs_what_its_images_cost(x):
    model = small_unet()
    timesteps = torch.full((len(x),), 3)  # one per image: the embedding is not shared
    whole = count(model, x, timesteps)
    parts = [count(model, x[i : i + 1], timesteps[i : i + 1]) for i in range(len(x))]
    assert whole.acs == sum(part.acs for part in parts)
    assert whole.macs == sum(part.macs for part in parts)


@pytest.mark.parametrize("scheduler", ["ddim", "heun"])
def test_images_are_those_of_the_pipeline(scheduler):
    made = {"ddim": make_scheduler("ddim"), "heun": HeunDiscreteScheduler()}[scheduler]
    pipe = SpikingDiffusionPipeline(small_unet(num_classes=2), made)
    pipe.set_progress_bar_config(disable=True)
    reports = []
    for guidance in (None, 3.0):  # calls the network with both classes of an image
        with EnergyMeter(pipe) as meter:
            draws_noise(made)  # as interpolation asks, by a step of its own
            for seeds in ([0, 1], [2]):
                pipe(seeds=seeds, num_inference_steps=2, class_labels=1, guidance_scale=guidance)
        reports.append(meter.report())
    assert [report.images for report in reports] == [3, 3]
    assert 1.8 < reports[1].energy_pj / reports[0].energy_pj < 2.2


def test_nothing_observed_nothing_reported():
    with EnergyMeter(small_unet()) as meter:
        pass
    with pytest.raises(UserError, match="nothing was observed"):
        meter.report()
    with pytest.raises(UserError, match="spiking_steps = 'abc' must be a whole number"):
        EnergyMeter(nn.Linear(2, 2), spiking_steps="abc")
    with pytest.raises(UserError, match="images = 0 must be at least 1"):
        EnergyMeter(small_unet(), images=0)
    with pytest.raises(UserError, match="contains no model"):
        EnergyMeter(object())


class Silenced(nn.Module):
    """Real values that happen to be zero: a shortcut behind a convolution of zeros."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1, bias=False)
        self.shortcut = nn.Conv2d(2, 3, 1)

    def forward(self, x):
        h = self.first(x)
        return self.shortcut(torch.cat([h + h, h], dim=1)[:, :2])


def test_a_current_of_zeros_is_a_real_value_and_not_a_silent_spike_train():
    report = count(Silenced(), torch.zeros(1, 1, 4, 4))
    assert {c.layer: (c.macs, c.acs) for c in report.layers if c.calls} == {
        "first": (0, 0),  # nobody knows where these zeros come from: no event
        "shortcut": (16 * 2 * 3, 0),
    }


def test_sums_and_averages_of_spikes_stay_spikes():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron, self.read = IF(), nn.Conv2d(2, 3, 1)

        def forward(self, current):
            fired = self.neuron(current)
            pooled = functional.avg_pool2d((fired + fired).flatten(0, 1), 2)
            return self.read(pooled)

    current = 2 * torch.rand(3, 1, 2, 4, 4, generator=GENERATOR)
    report = count(Pooled(), current)
    assert report.macs == 0
    assert report.acs == IF()(current).sum() * 3  # two spikes together are one of size two
