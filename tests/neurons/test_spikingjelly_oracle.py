"""Parity with SpikingJelly 2.0.0, which is no dependency: install it apart to run this.

pip install loguru tqdm && pip install --no-deps spikingjelly==2.0.0
"""

import pytest
import torch

from spikediff.neurons import IF, LIF, ParametricLIF

REASON = "the oracle is installed apart: pip install --no-deps spikingjelly==2.0.0"
neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason=REASON)
surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate", reason=REASON)

THEIRS = {
    "atan": lambda: surrogate.ATan(alpha=2.0),
    "sigmoid": lambda: surrogate.Sigmoid(alpha=4.0),
}


def pair(kind, v_reset, name, detach_reset, decay_input):
    """Return our neuron and theirs with the same constants."""
    ours = {"v_reset": v_reset, "surrogate": name, "detach_reset": detach_reset}
    theirs = {
        "v_reset": v_reset,
        "surrogate_function": THEIRS[name](),
        "detach_reset": detach_reset,
        "step_mode": "m",
    }
    if kind == "if":
        return IF(**ours), neuron.IFNode(**theirs)
    if kind == "lif":
        return (
            LIF(tau=3.0, decay_input=decay_input, **ours),
            neuron.LIFNode(tau=3.0, decay_input=decay_input, **theirs),
        )
    return (
        ParametricLIF(init_tau=3.0, decay_input=decay_input, **ours),
        neuron.ParametricLIFNode(init_tau=3.0, decay_input=decay_input, **theirs),
    )


@pytest.mark.parametrize("kind", ["if", "lif", "plif"])
@pytest.mark.parametrize("v_reset", [0.0, -0.2, None])
@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("decay_input", [False, True])
def test_spikes_and_gradients_agree(kind, v_reset, name, detach_reset, decay_input):
    ours, theirs = pair(kind, v_reset, name, detach_reset, decay_input)
    generator = torch.Generator().manual_seed(0)
    currents = 1.5 * torch.randn(8, 4, 200, generator=generator, dtype=torch.float64)
    weights = torch.randn(8, 4, 200, generator=generator, dtype=torch.float64)
    results = []
    for layer in (ours.double(), theirs.double()):
        x = currents.clone().requires_grad_()
        spikes = layer(x)
        (spikes * weights).sum().backward()
        learnt = [p.grad for p in layer.parameters()]
        results.append((spikes.detach(), x.grad, *learnt))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
