"""Run a NIR graph by the equations of its documentation, in numbers of torch.

It knows nothing of spikediff: Euler's method for `tau dv/dt = (v_leak - v) + r I`, a spike where
`v > v_threshold`, and then `v = v_reset`; what arrives at a node is the sum over its edges.
"""

from graphlib import TopologicalSorter

import torch
from torch.nn import functional as F


def run(graph, x, spiking_steps, dt):
    """Return what every node emits at every step: by name, [T, B, ...], for a constant input x."""
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    order = list(TopologicalSorter(sources).static_order())
    membranes, emitted = {}, {name: [] for name in order}
    for _ in range(spiking_steps):
        now = {}
        for name in order:
            arrived = sum(now[source] for source in sources[name]) if sources[name] else x
            now[name] = _node(graph.nodes[name], arrived, membranes, name, dt)
            emitted[name].append(now[name])
    return {name: torch.stack(values) for name, values in emitted.items()}


def _node(node, x, membranes, name, dt):
    kind = type(node).__name__
    if kind in ("Input", "Output"):
        return x
    if kind == "Conv2d":
        weight, bias = (torch.as_tensor(array).to(x) for array in (node.weight, node.bias))
        where = [tuple(map(int, pair)) for pair in (node.stride, node.padding, node.dilation)]
        return F.conv2d(x, weight, bias, *where, groups=int(node.groups))
    if kind == "AvgPool2d":
        where = [tuple(map(int, p)) for p in (node.kernel_size, node.stride, node.padding)]
        return F.avg_pool2d(x, *where)
    assert kind in ("LIF", "IF"), f"the interpreter knows no {kind}"
    numbers = {
        key: torch.as_tensor(getattr(node, key)).to(x)
        for key in ("tau", "r", "v_leak", "v_threshold", "v_reset")
        if hasattr(node, key)
    }
    assert all(value.shape == x.shape[1:] for value in numbers.values())
    v = membranes.get(name, torch.zeros_like(x))
    if kind == "LIF":
        v = v + dt / numbers["tau"] * ((numbers["v_leak"] - v) + numbers["r"] * x)
    else:
        v = v + dt * numbers["r"] * x
    spikes = (v > numbers["v_threshold"]).to(x)
    membranes[name] = torch.where(spikes > 0, numbers["v_reset"], v)
    return spikes
