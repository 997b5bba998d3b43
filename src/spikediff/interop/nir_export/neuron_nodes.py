r"""Our neurons in NIR's words.

NIR's leaky neuron is $\tau \dot v = (v_{leak} - v) + r I$; it fires at $v > v_{threshold}$, and
then $v = v_{reset}$. A step of Euler's method of length dt gives

    u[n] = v_leak + (1 - dt/tau) (v[n-1] - v_leak) + (dt/tau) r I[n]

which is our `charge` with `decay = 1 - dt/tau`. The mapping is local to a neuron, with r = 1:

- `decay_input`: our gain is `1 - decay = dt/tau`, so r = 1 as it is.
- no `decay_input`: our gain is 1. The membrane is counted in units of `1/(1 - decay)`, so its
  threshold is multiplied by `1 - decay`. No weight changes, and no spike.
- a rest potential: the membrane is counted from it, so `v_leak = v_reset = 0`, which is all that
  some readers know.
- `u >= threshold`: NIR compares by `>`, so the threshold is the next smaller number of the
  membrane's precision, and the two say the same of every number.

IF has no time constant: its unit of time is the spiking step (dt = 1), where r = 1.
"""

from typing import Any

import numpy as np
import torch

from spikediff.neurons import NeuronLayer

SECONDS_PER_STEP = 1e-4  # what snnTorch and SpikingJelly take a step of a leaky neuron to be


def default_dt(neuron: NeuronLayer) -> float:
    """Return the length of a spiking step in NIR's unit of time: 1 without a leak, else 1e-4."""
    return 1.0 if _decay(neuron) == 1.0 else SECONDS_PER_STEP


def neuron_node(
    nir: Any, neuron: NeuronLayer, shape: tuple[int, ...], dt: float, dtype: torch.dtype
) -> Any:
    """Return the node of a neuron layer.

    Args:
        nir: The package.
        neuron: The layer; one of which `neuron_problem` knows nothing bad.
        shape: [C, H, W].
        dt: Length of a spiking step.
        dtype: Precision of the membrane.

    Returns:
        `nir.IF` or `nir.LIF`; all parameters are float64 arrays [C, H, W].

    Example:
        >>> from types import SimpleNamespace
        >>> from spikediff.neurons import LIF
        >>> words = SimpleNamespace(LIF=lambda **parameters: parameters)
        >>> node = neuron_node(words, LIF(decay=0.75), (1,), 1.0, torch.float32)
        >>> node["tau"].item(), node["r"].item(), node["v_threshold"].item() < 1.0
        (4.0, 1.0, True)
    """
    leak = 1.0 - _decay(neuron)
    threshold = _threshold(neuron, dtype)
    zeros, ones = np.zeros(shape), np.ones(shape)
    if leak == 0.0:
        return nir.IF(r=ones / dt, v_threshold=ones * threshold, v_reset=zeros)
    if not neuron.dynamics.decay_input:
        threshold = threshold * leak
    return nir.LIF(
        tau=ones * (dt / leak), r=ones, v_leak=zeros, v_threshold=ones * threshold, v_reset=zeros
    )


def neuron_problem(neuron: NeuronLayer) -> tuple[str, str] | None:
    """Return why NIR has no such neuron, and what to do; None where it has."""
    dynamics = neuron.dynamics
    if dynamics.v_negative is not None:
        return (
            "NIR has no negative spikes",
            "convert with --spikes binary, or train with neuron lif",
        )
    if dynamics.v_reset is None:
        return "NIR knows the hard reset only", "train with neuron_options v_reset: 0.0"
    if dynamics.v_init not in (None, dynamics.v_rest):
        return "NIR has no first membrane but 0", "train without neuron_options v_init"
    if _decay(neuron) == 1.0 and dynamics.decay_input:
        return "its input never reaches the membrane", "give it a time constant"
    return None


def _decay(neuron: NeuronLayer) -> float:
    return float(torch.as_tensor(neuron.decay).detach())


def _threshold(neuron: NeuronLayer, dtype: torch.dtype) -> float:
    """Return the threshold above rest that the membrane must exceed."""
    dynamics = neuron.dynamics
    threshold = torch.tensor(dynamics.v_threshold - dynamics.v_rest, dtype=dtype)
    if not dynamics.strict_threshold:
        threshold = torch.nextafter(threshold, torch.zeros_like(threshold))
    return float(threshold)
