"""A neuron with dynamics of its own: one `step`, and all the rest of the house works with it."""

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.energy import EnergyMeter
from spikediff.events import compile_for_inference
from spikediff.inspection import SpikeRecorder
from spikediff.interchange.programs import export_program
from spikediff.neurons import NEURONS, Dynamics, NeuronLayer, as_operations, spike
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.sdm.threshold_guidance import threshold_guidance


class ALIFState(NamedTuple):
    v: Tensor
    a: Tensor  # adaptation of the threshold


class ALIF(NeuronLayer):
    """Adaptive-threshold LIF (Bellec et al., 2018), soft reset."""

    def __init__(self, decay: float = 0.5, beta: float = 0.2) -> None:
        super().__init__(Dynamics(v_reset=None))
        self.decay, self.beta = decay, beta

    def step(self, current: Tensor, state: ALIFState | None = None) -> tuple[Tensor, ALIFState]:
        v, a = state or ALIFState(torch.zeros_like(current), torch.zeros_like(current))
        u = self.decay * v + current
        threshold = self.dynamics.v_threshold + self.beta * a
        s = spike(u - threshold, self.dynamics.surrogate)
        return s, ALIFState(u - s * threshold, 0.9 * a + s)


@pytest.fixture(autouse=True)
def _one_row(monkeypatch):
    monkeypatch.setitem(NEURONS, "alif", ALIF)


def unet(channel_mult=(1, 2), spiking_steps=4):
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "in_channels": 1, "base_channels": 8, "channel_mult": channel_mult}
    model = SpikingUNet(**sizes, layers_per_block=1, spiking_steps=spiking_steps, neuron="alif")
    torch.nn.init.normal_(model.head.conv.weight, std=0.3)
    return model


def currents(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 0.4


def test_hand_computed():
    """u = 0.9, 1.45 (fires), 0.225 + 0.9 = 1.125 < 1.2, 1.4625 > 1.18 (fires)."""
    neuron = ALIF()
    assert neuron(torch.full((4,), 1.0)).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_window_equals_its_steps_and_a_stream():
    neuron, current = ALIF(), currents(6, 3, 5)
    whole, steps, state = neuron(current), [], None
    for x in current:
        s, state = neuron.step(x, state)
        steps.append(s)
    memory = {}
    streamed = [neuron(part, memory) for part in current.split(2)]
    assert 0.1 < whole.mean() < 0.9
    assert torch.equal(torch.stack(steps), whole)
    assert torch.equal(torch.cat(streamed), whole)


def test_its_gradient_is_that_of_the_surrogate():
    current = currents(1, 7).double().requires_grad_()
    ALIF()(current).sum().backward()
    slope = Dynamics().surrogate.derivative((current - 1.0).detach())
    torch.testing.assert_close(current.grad, slope)


@pytest.mark.slow
def test_a_network_learns():
    model = unet()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, target, losses = currents(4, 1, 8, 8), currents(4, 1, 8, 8) * 0.5, []
    for _ in range(12):
        loss = (model(x, torch.tensor([1, 5, 9, 30])).sample - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    assert silent == {"time_embedding.table"}  # fixed sines
    assert losses[-1] < 0.8 * losses[0]


def test_it_samples_under_the_meter_and_the_recorder():
    pipe = SpikingDiffusionPipeline(unet().eval(), make_scheduler("ddim"))
    run = {"seeds": [3], "num_inference_steps": 2, "output_type": "pt"}
    plain = pipe(**run).images
    with EnergyMeter(pipe) as meter, SpikeRecorder(pipe) as record:
        assert torch.equal(pipe(**run).images, plain)
    report = meter.report()
    assert report.firing_rate > 0
    layer = next(iter(record.layers.values()))
    assert "ALIF, threshold 1, soft reset" in layer.neuron
    window = layer.windows[0]
    assert window.u.shape == window.spikes.shape
    assert torch.equal(window.u >= 1.0, (window.spikes == 1) | (window.v[1:] >= 1.0))
    with threshold_guidance(pipe.unet, 0.5):
        assert not torch.equal(pipe(**run).images, plain)


@pytest.mark.parametrize("context", [as_operations, nullcontext])
def test_it_exports(context):
    neuron, current = ALIF(), currents(4, 3)
    with torch.no_grad(), context():
        program = torch.export.export(neuron, (current,), strict=False)
        want = neuron(current)
    assert 0.1 < want.mean() < 0.9
    assert torch.equal(program.module()(current), want)
    assert not any("spikediff" in str(node.target) for node in program.graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False])
def test_a_network_exports(plain):
    model, x, t = (
        unet(channel_mult=(1,), spiking_steps=2).eval(),
        currents(2, 1, 8, 8),
        torch.tensor(5),
    )
    with torch.no_grad():
        want = model(x, t).sample
        program = export_program(model, plain=plain, batch_size=2)
        torch.testing.assert_close(program.module()(x, t), want)
    assert not any("spikediff" in str(node.target) for node in program.graph.nodes)


def test_compiled_for_inference_it_runs_as_it_is():
    model, x = unet().eval(), currents(2, 1, 8, 8)
    with torch.no_grad():
        want = model(x, 5).sample
        torch.testing.assert_close(compile_for_inference(model)(x, 5).sample, want)


def test_nir_names_it():
    from spikediff.interchange.nir.graph import neuron_problem

    assert neuron_problem(ALIF()) == ("NIR has no ALIF", "train with neuron if or lif")
