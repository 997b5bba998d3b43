"""What a recorder sees, against brute force; and what it must not do."""

import pytest
import torch
from torch import nn

from sizes import ONE_LEVEL
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.inspection import SpikeRecorder
from spikediff.layers import SpikingLayer
from spikediff.neurons import IF, LIF, NEURONS
from spikediff.systems.converted.layers import ConvertedIF
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE


def currents(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3


class Denoiser(nn.Module):
    """One layer of neurons that is called with a timestep."""

    def __init__(self, neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, window, timestep):
        return self.neuron(window)


def hooks_of(model):
    return [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_rates_are_those_of_the_spikes():
    model, x = Denoiser(LIF()), currents(4, 3, 5, 2, 6)
    with SpikeRecorder(model) as record:
        spikes = model(x, timestep=7)
    layer = record.layers["neuron"]
    assert record.timesteps == [7.0]
    assert (layer.shape, layer.neurons, layer.observed) == ((5, 2, 6), 60, 12)
    assert layer.rate == pytest.approx(spikes.mean().item())
    assert layer.rates(1) == [layer.rate]
    torch.testing.assert_close(layer.channel_rates(1)[:, 0], spikes.mean((0, 1, 3, 4)))
    torch.testing.assert_close(layer.map_of(), spikes.mean((0, 1, 2)))
    torch.testing.assert_close(layer.map_of(0), layer.map_of())


def test_a_record_shows_its_table():
    with SpikeRecorder(Denoiser(LIF())) as record:
        Denoiser(LIF())
    assert "all neurons fire at 0.0%" in str(record)
    model = nn.ModuleDict({"a_name_longer_than_lines" * 4: IF()})
    with SpikeRecorder(model) as record:
        next(iter(model.values()))(torch.ones(4, 1, 2))
    assert max(map(len, str(record).splitlines())) <= 80
    assert "100.0%" in record._repr_html_()
    assert "<caption>all neurons fire at 100.0%" in record._repr_html_()


def test_batches_add_up_and_timesteps_stay_apart():
    model, x, y = Denoiser(IF()), currents(3, 2, 4, 2, 2), currents(3, 5, 4, 2, 2, seed=1)
    with SpikeRecorder(model) as record:
        early = [model(x, 9), model(y, timestep=torch.tensor([9, 9, 9, 9, 9]))]
        late = model(x + 0.5, 1)
        model.neuron(x)  # outside of a denoising step
    layer = record.layers["neuron"]
    assert record.timesteps == [9.0, 1.0, None]
    assert record.labels == ["9", "1", "once"]
    rates = [torch.cat(early, 1).mean(), late.mean(), early[0].mean()]
    assert layer.rates(4)[:3] == pytest.approx([rate.item() for rate in rates])
    assert layer.rates(4)[3] != layer.rates(4)[3]  # it did not run
    assert layer.to_dict(4)["rates"][3] is None


def test_dead_and_saturated_neurons():
    model = nn.Sequential(nn.Identity(), IF())
    x = torch.tensor([-1.0, 0.0, 0.4, 1.0, 2.0, 2.0]).reshape(1, 1, 6).repeat(4, 2, 1)
    x[2, 1, 5] = -1.0  # one silent step of one image: saturated no longer
    x[3, 1, 1] = 1.0  # one spike: dead no longer
    with SpikeRecorder(model) as record:
        model(x)
    layer = record.layers["1"]
    assert layer.fired.tolist() == [0, 1, 2, 8, 8, 7]
    assert (layer.dead, layer.saturated) == (1 / 6, 2 / 6)


def table():
    """Return every kind of neuron that there is, and variants of the equations."""
    yield from ((name, make()) for name, make in NEURONS.items())
    yield "strict", LIF(strict_threshold=True, v_reset=None, decay=0.8, decay_input=False)
    yield "reset below rest", LIF(v_reset=-0.2)
    yield "head start", IF(v_init=0.5, v_reset=None)
    yield "converted", ConvertedIF(signed=False, clip=2.5)
    yield "converted, signed", ConvertedIF(signed=True, clip=0.7)


@pytest.mark.parametrize(("name", "neuron"), [pytest.param(*row, id=row[0]) for row in table()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_spike_is_exactly_where_the_membrane_crosses(name, neuron, dtype):
    x = currents(6, 2, 7, 5, 5).to(dtype)
    with SpikeRecorder(neuron, neurons_per_layer=60) as record, torch.no_grad():
        spikes = neuron(x)
    layer = record.layers["(model)"]
    window = layer.windows[0]
    assert torch.equal(window.spikes.to(dtype), spikes[:, 0].flatten(1)[:, layer.units])
    assert torch.equal(window.spikes == 1, window.crossings())
    assert 0 < window.crossings().float().mean() < 1
    taken_back = window.spikes == -1
    if window.v_negative is None:
        assert not taken_back.any()
    else:
        before = window.spikes.cumsum(0) - window.spikes
        below = window.u <= -window.v_negative
        assert torch.equal(taken_back, below & (before > 0))
    silent = window.spikes == 0
    assert torch.equal(window.v[1:][silent], window.u[silent])
    v_reset = neuron.dynamics.v_reset
    if v_reset is None:
        fell = (window.u - window.v[1:])[~silent]
        torch.testing.assert_close(fell, window.spikes[~silent] * window.v_threshold)
    else:
        assert (window.v[1:][~silent] - v_reset).abs().max() < 1e-6


def test_membranes_by_hand():
    neuron = LIF(tau=2.0, decay_input=False)
    with SpikeRecorder(neuron) as record:
        neuron(torch.tensor([0.75, 0.75, 0.25]).reshape(3, 1, 1))
    window = record.layers["(model)"].windows[0]
    assert window.u.flatten().tolist() == [0.75, 1.125, 0.25]
    assert window.v.flatten().tolist() == [0.0, 0.75, 0.0, 0.25]


@pytest.mark.parametrize("neuron", [LIF(decay=0.9), ConvertedIF()])
def test_a_streamed_window_is_the_window(neuron):
    x = currents(5, 2, 3, 4, 4)
    with SpikeRecorder(neuron) as whole, torch.no_grad():
        neuron(x)
    memory = {}
    with SpikeRecorder(neuron) as streamed, torch.no_grad():
        for current in x:
            neuron(current[None], memory)
        neuron(x[:1], {})  # another image: it counts, and the raster is of the first
    one, other = whole.layers["(model)"], streamed.layers["(model)"]
    for name in ("spikes", "u", "v"):
        assert torch.equal(getattr(one.windows[0], name), getattr(other.windows[0], name))
    assert other.observed == one.observed + 2


def test_the_raster_follows_the_denoising_steps():
    model, x = Denoiser(IF()), currents(4, 2, 3, 5, 5)
    with SpikeRecorder(model, neurons_per_layer=9) as record:
        spikes = torch.cat([model(x + t / 10, t)[:, 0] for t in (5, 3, 1)])
        model(-x, 3)  # a second batch
    layer = record.layers["neuron"]
    assert torch.equal(layer.raster().float(), spikes.flatten(1)[:, layer.units])
    assert [w.v_threshold for w in layer.windows.values()] == [1.0] * 3


def tiny_pipelines():
    torch.manual_seed(0)
    ddim, synaptic = make_scheduler("ddim"), make_scheduler("synaptic-ddim")
    unet = SpikingUNet(**ONE_LEVEL)
    fsddim = SynapticCurrentUNet(**ONE_LEVEL, spiking_steps=4)
    vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
    decoder = SpikingImageDecoder(codebook_size=16, widths=(8, 8), spiking_steps=4)
    absorbing = AbsorbingStateScheduler(num_train_timesteps=16, mask_token=16)
    fsvae = FSVAE(8, 1, channels=(4, 8), latent_channels=6, group_size=3, spiking_steps=4)
    yield SpikingDiffusionPipeline(unet.eval(), ddim), 2
    yield SynapticCurrentPipeline(fsddim.eval(), synaptic), 2
    yield VQSpikingDiffusionPipeline(vqvae.eval(), decoder.eval(), absorbing), 3
    yield VAEPipeline(fsvae.eval()), 1


@pytest.mark.parametrize(("pipe", "columns"), tiny_pipelines())
def test_every_pipeline_is_seen_and_left_alone(pipe, columns):
    pipe.set_progress_bar_config(disable=True)

    def call():
        return pipe(seeds=[3, 4], num_inference_steps=2, output_type="pt").images

    plain = call()
    with EnergyMeter(pipe, images=2) as alone:
        call()
    with EnergyMeter(pipe, images=2) as meter, SpikeRecorder(pipe) as record:
        assert torch.equal(call(), plain)
    assert len(record.timesteps) == columns
    assert meter.report().to_dict() == alone.report().to_dict()  # neither sees the other
    rates = {name: layer.rate for name, layer in record.layers.items()}
    assert rates == pytest.approx(meter.report().firing_rates)
    assert record.rate == pytest.approx(meter.report().firing_rate)
    for layer in record.layers.values():
        assert all(torch.equal(w.spikes == 1, w.crossings()) for w in layer.windows.values())
    assert all(not hooks_of(m) for m in pipe.components.values() if isinstance(m, nn.Module))


def test_the_same_twice():
    *_, (pipe, _), _ = tiny_pipelines()
    pipe.set_progress_bar_config(disable=True)
    records = []
    for _ in range(2):
        with SpikeRecorder(pipe, seed=5) as record:
            pipe(seeds=[0, 1], num_inference_steps=2)
        records.append(record)
    one, other = records
    assert one.to_dict() == other.to_dict()
    for name, layer in one.layers.items():
        assert torch.equal(layer.raster(), other.layers[name].raster())


def test_an_autoencoder_runs_once_behind_the_denoising_steps():
    *_, (pipe, _), _ = tiny_pipelines()
    pipe.set_progress_bar_config(disable=True)
    with SpikeRecorder(pipe) as record:
        pipe(seeds=[0], num_inference_steps=2)
    assert record.timesteps[-1] is None
    for name, layer in record.layers.items():
        assert sorted(layer.steps) == ([2] if name.startswith("vqvae.") else [0, 1])
    assert record.not_called
    assert all(name.startswith("vqvae.encoder.") for name in record.not_called)


def test_a_fused_layer_in_training_is_seen():
    torch.manual_seed(0)
    layer = SpikingLayer(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), LIF())
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    x = currents(4, 2, 2, 5, 5)
    fused = layer(x)
    fused.sum().backward()
    grad = layer.synapse.weight.grad.clone()
    layer.load_state_dict(state)
    layer.zero_grad()
    with SpikeRecorder(layer) as record:
        seen = layer(x)
    seen.sum().backward()
    assert torch.equal(seen, fused)
    assert torch.equal(layer.synapse.weight.grad, grad)
    assert record.layers["neuron"].rate == pytest.approx(fused.mean().item())


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken")


def test_hooks_leave_after_an_exception():
    model = nn.Sequential(IF(), Broken())
    with pytest.raises(RuntimeError, match="broken"), SpikeRecorder(model) as record:
        model(currents(2, 1, 3))
    assert record.layers["0"].observed == 2
    assert not hooks_of(model)
    model[0](currents(2, 1, 3))
    assert record.layers["0"].observed == 2


def test_the_choice_of_neurons_is_the_seeds():
    model, x = nn.Sequential(IF(), IF()), currents(2, 1, 100)

    def units(layers="*", **options):
        with SpikeRecorder(model, layers=layers, neurons_per_layer=7, **options) as record:
            model(x)
        return {name: layer.units.tolist() for name, layer in record.layers.items()}

    assert units() == units()
    assert units("1")["1"] == units()["1"]  # whatever else is watched
    assert units()["0"] != units()["1"]
    assert units() != units(seed=1)
    assert all(len(set(chosen)) == 7 for chosen in units().values())


def test_one_layer_with_two_shapes_has_two_records():
    neuron = IF()
    with SpikeRecorder(neuron) as record:
        neuron(currents(2, 1, 3, 4, 4))
        neuron(currents(2, 1, 3, 2, 2))
        neuron(currents(2, 1, 3, 2, 2))
    assert [layer.shape for layer in record.layers.values()] == [(3, 4, 4), (3, 2, 2)]
    assert [layer.observed for layer in record.layers.values()] == [2, 4]


@pytest.mark.parametrize("model", [nn.Linear(2, 2), VAE(8, 1, channels=(4, 8), latent_channels=6)])
def test_an_ordinary_network_is_refused(model):
    with pytest.raises(UserError, match=f"{type(model).__name__}: has no spiking neurons"):
        SpikeRecorder(model)


def test_what_cannot_be_watched_is_refused():
    pipe = SpikingDiffusionPipeline(
        ddpm_unet(**ONE_LEVEL).eval(),
        make_scheduler("ddim"),
    )
    with pytest.raises(UserError, match="UNet2DModel: has no spiking neurons"):
        SpikeRecorder(pipe)
    compiled = next(iter(tiny_pipelines()))[0].compile_for_inference()
    with pytest.raises(UserError, match="compiled for inference"):
        SpikeRecorder(compiled)
    with pytest.raises(UserError, match="no layer of neurons is named 'b'; there are a"):
        SpikeRecorder(nn.ModuleDict({"a": IF()}), layers="b")
    with pytest.raises(UserError, match="neurons_per_layer = 0"):
        SpikeRecorder(IF(), neurons_per_layer=0)


def test_nothing_observed():
    with SpikeRecorder(IF()) as record:
        pass
    assert record.not_called == ["(model)"]
    with pytest.raises(UserError, match="nothing was observed"):
        _ = record.seen
