"""Run a graph as its readers do: `python nir_readers.py READER GRAPH INPUT T DT OUTPUT`.

It runs in an environment of its own, which has the readers and torch but nothing of spikediff.
OUTPUT gets what every neuron layer and the graph emit, [T, B, ...], by name. Two windows are run,
and the second is kept: a reader that carries membranes over would show it.
"""

import contextlib
import io
import sys

import nir
import torch


def snntorch_reader(graph, _dt, _dtype):
    from snntorch import Leaky, utils
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):  # it prints every parameter array
        net = import_from_nir(graph)
    return net, Leaky, lambda output: output, lambda: utils.reset(net)


def spikingjelly_reader(graph, dt, dtype):
    from spikingjelly.activation_based.nir_exchange.from_nir import (
        _NIRStatefulModule,
        import_from_nir,
    )

    net = import_from_nir(graph, dt=dt, dtype=dtype)
    return net, _NIRStatefulModule, lambda output: output[0], lambda: None


READERS = {"snntorch": snntorch_reader, "spikingjelly": spikingjelly_reader}


@torch.no_grad()
def run(reader, path, x, spiking_steps, dt):
    net, kind, spikes_of, reset = READERS[reader](nir.read(path), dt, x.dtype)
    emitted = {}
    for name, module in net.named_modules():
        if isinstance(module, kind):
            module.register_forward_hook(
                lambda _m, _i, out, name=name: emitted.setdefault(name, []).append(spikes_of(out))
            )
    for _window in range(2):
        reset()
        emitted.clear()
        state, outputs = None, []
        for _ in range(spiking_steps):
            output, state = net(x, state)
            outputs.append(output)
    return {name: torch.stack(steps) for name, steps in {**emitted, "output": outputs}.items()}


if __name__ == "__main__":
    reader, path, given, steps, dt, output = sys.argv[1:]
    torch.set_num_threads(1)
    torch.save(run(reader, path, torch.load(given), int(steps), float(dt)), output)
