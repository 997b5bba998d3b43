"""snnTorch and SpikingJelly read our graphs, and fire as our networks do: slow, and apart.

The readers are installed once into build/nir-peers, without what they require but torch has.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spikediff.neurons import NeuronLayer
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder

HERE = Path(__file__).parent
PEERS = HERE.parents[1] / "build" / "nir-peers"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment():
    """Return the variables of a process that has the readers, which are installed once."""
    ready = PEERS / ".ready"
    if not ready.is_file():
        wanted = ["--no-deps", "--target", str(PEERS), "-r", str(HERE / "nir_peers.txt")]
        made = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", *wanted],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            pytest.skip(f"cannot install the readers: {made.stderr[-300:]}")
        ready.touch()
    return {**os.environ, "PYTHONPATH": str(PEERS)}


@pytest.fixture(autouse=True)
def _nir(environment, monkeypatch):
    monkeypatch.syspath_prepend(environment["PYTHONPATH"])


def trained(model, *inputs):
    """Return a network whose norms have seen inputs, and whose neurons fire."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.uniform_(0.2, 1.0)
                module.weight.uniform_(1.0, 3.0)
        model.train()
        for _ in range(30):
            model(*inputs)
        if isinstance(model, SpikingUNet):
            model.head.conv.weight.uniform_(-0.2, 0.2)
    return model.eval()


def decoder():
    torch.manual_seed(0)
    model = SpikingImageDecoder(codebook_size=16, widths=(16, 24, 16), spiking_steps=8)
    tokens = torch.randint(17, (16, 7, 7))
    return trained(model, tokens), (tokens, None), {"sample_size": 7}


def unet(**options):
    torch.manual_seed(0)
    shape = {"sample_size": 8, "in_channels": 1, "base_channels": 8, "channel_mult": (1,)}
    model = SpikingUNet(**shape, spiking_head=True, readout="mean", **options)
    x = torch.randn(16, 1, 8, 8)
    return trained(model, x, torch.arange(16) * 60), (x, 300), {"timestep": 300}


LEAKY_WITHOUT_GAIN = {"decay": 0.8, "decay_input": False, "strict_threshold": True}
# SpikingJelly charges by v + (x - v) / tau, which rounds otherwise than ours, and one spike that
# flips makes many; in float64 there is none. snnTorch reads float32 only, and rounds as we do.
PRECISION = {"snntorch": torch.float32, "spikingjelly": torch.float64}
NETWORKS = {
    "decoder": decoder,
    "plain": lambda: unet(block="plain", neuron="lif"),
    "pre_spike": lambda: unet(block="pre_spike", neuron="lif"),
    "fsddim's neuron": lambda: unet(block="plain", neuron="lif", neuron_options=LEAKY_WITHOUT_GAIN),
    "if": lambda: unet(block="plain", neuron="if"),
}


def ours(model, inputs):
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, NeuronLayer):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        return model(*inputs).sample, seen


def read(environment, folder, reader, exported, x, steps):
    """Run the graph in the readers' environment."""
    import nir

    nir.write(folder / "graph.nir", exported.graph)
    torch.save(x, folder / "x.pt")
    files = [str(folder / name) for name in ("graph.nir", "x.pt")]
    arguments = [reader, *files, str(steps), str(exported.facts["dt"]), str(folder / "out.pt")]
    done = subprocess.run(
        [sys.executable, str(HERE / "nir_readers.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return torch.load(folder / "out.pt", weights_only=True)


def prepared(network, dtype):
    """Return a network, its graph, the graph's input, and the network's own arguments."""
    from spikediff.interchange.nir.export import export_nir

    model, inputs, options = NETWORKS[network]()
    model = model.to(dtype)
    exported = export_nir(model, **options)
    if network == "decoder":
        x = model._encode(*inputs).detach()
    else:
        x = inputs[0].to(dtype)
        inputs = (x, inputs[1])
    return model, exported, x, inputs


def read_spikes(ran, name):
    """Return what a reader's layers of this name emitted, [T, B, C, H, W]."""
    place = name.replace(".", "_")
    parts = sorted(key for key in ran if key == place or key.startswith(f"{place}_part"))
    return torch.cat([ran[part] for part in parts], dim=2)


@pytest.mark.parametrize("reader", ["snntorch", "spikingjelly"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_reader_fires_as_we_do(environment, tmp_path, network, reader):
    model, exported, x, inputs = prepared(network, PRECISION[reader])
    estimate, spikes = ours(model, inputs)
    steps = model.config.spiking_steps
    if (network, reader) == ("if", "snntorch"):  # 1.0.0 makes a leaky neuron that returns a pair
        with pytest.raises(RuntimeError):
            read(environment, tmp_path, reader, exported, x, steps)
        return
    ran = read(environment, tmp_path, reader, exported, x, steps)
    for name, own in spikes.items():
        assert 0.01 < own.mean() < 0.99, f"{name} says nothing"
        assert torch.equal(read_spikes(ran, name), own), name
    torch.testing.assert_close(ran["output"].mean(0), estimate, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", ["decoder", "plain", "pre_spike", "fsddim's neuron"])
def test_spikingjelly_in_float32_flips_few_spikes(environment, tmp_path, network):
    """It rounds otherwise than we do; -s shows the number, which a CPU may change."""
    model, exported, x, inputs = prepared(network, torch.float32)
    _, spikes = ours(model, inputs)
    steps = model.config.spiking_steps
    ran = read(environment, tmp_path, "spikingjelly", exported, x, steps)
    differing = sum(int((read_spikes(ran, name) != own).sum()) for name, own in spikes.items())
    total = sum(own.numel() for own in spikes.values())
    print(f"{network}: {differing} of {total} spikes differ in float32")
    assert differing < 0.01 * total
