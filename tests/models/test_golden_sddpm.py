"""Parity with the authors' SDDPM network, layer by layer (golden file A1)."""

import pytest
import torch

from goldens import Golden
from spikediff.interop import load_authors_checkpoint
from spikediff.interop.sddpm import sddpm_key
from spikediff.neurons import IF

ATOL = {torch.float32: 2e-5, torch.float64: 1e-10}
GRAD_RTOL = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(scope="module")
def a1():
    return Golden("A1_sddpm_unet")


def load(a1, dtype=torch.float32):
    return load_authors_checkpoint(a1.state(), "sddpm", spiking_steps=4, sample_size=16).to(dtype)


def record(model, sample, timestep):
    """Run the model; return the outputs of all its modules by name, and the estimate."""
    seen, hooks = {}, []
    for name, module in model.named_modules():
        hooks.append(
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        )
    estimate = model(sample, timestep).sample
    for hook in hooks:
        hook.remove()
    return seen, estimate


def spike_counts(seen, model):
    return [int(seen[n].sum()) for n, m in model.named_modules() if isinstance(m, IF)]


def close(got, want, dtype=torch.float32):
    torch.testing.assert_close(got, want, atol=ATOL[dtype], rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output(a1, dtype):
    model = load(a1, dtype)
    with torch.no_grad():
        got = model(a1["in/x"].to(dtype), a1["in/t"]).sample
    close(got, a1["out/eps" if dtype == torch.float32 else "out64/eps"], dtype)


def test_every_layer(a1):
    model = load(a1)
    with torch.no_grad():
        seen, estimate = record(model, a1["in/x"], a1["in/t"])
    close(estimate, a1["mid/readout_out"])
    close(seen["time_embedding"], a1["mid/temb"])
    ours = {"stem_out": "stem", "readout_in": "head"}
    ours |= {f"{part}.{i}": f"{part}_blocks.{i}" for part, n in BLOCKS.items() for i in range(n)}
    for name, module in ours.items():
        torch.testing.assert_close(seen[module][:, :1], a1[f"mid/{name}"], atol=1e-5, rtol=0)
    tail = seen["head.conv"].view(4, 2, 1, 16, 16)[:, :1]
    close(tail, a1["mid/tail_conv"])
    for name, module in {"neuron": "stem", "middleblocks.0.neuron2": "middle_blocks.0"}.items():
        layer = f"{module}.{name.split('.')[-1]}"
        assert torch.equal(seen[layer][:, :1].byte(), a1[f"spikes/{name}"])


BLOCKS = {"down": 3, "middle": 2, "up": 5}


def test_spike_counts_are_exact(a1):
    model = load(a1)
    with torch.no_grad():
        seen, _ = record(model, a1["in/x"], a1["in/t"])
    want = a1.facts["eval"]["1.0"]["spike_count"]
    got = {
        authors_layer(name): int(seen[name].sum())
        for name, module in model.named_modules()
        if isinstance(module, IF)
    }
    assert got == want


def authors_layer(name):
    return name.removeprefix("stem.").replace("_blocks", "blocks")


def test_calls_are_independent(a1):
    """The authors' net carries stale membranes into the next call unless it is reset."""
    model = load(a1)
    with torch.no_grad():
        model(a1["in/x"], a1["in/t"])
        got = model(a1["stale/x2"], a1["stale/t2"]).sample
        again = model(a1["stale/x2"], a1["stale/t2"]).sample
    assert torch.equal(got, again)
    difference = (got - a1["stale/eps2"]).abs().max().item()
    want = a1.facts["stale"]["max_abs_difference_from_a_fresh_call"]
    assert difference == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_step(a1, dtype):
    model = load(a1, dtype).train()
    twin = "train" if dtype == torch.float32 else "train64"
    seen, estimate = record(model, a1["train/x_t"].to(dtype), a1["train/t"])
    loss = torch.nn.functional.mse_loss(estimate, a1["train/noise"].to(dtype))
    loss.backward()
    close(estimate.detach(), a1[f"{twin}/eps"], dtype)
    assert loss.item() == pytest.approx(a1[f"{twin}/loss"].item(), rel=GRAD_RTOL[dtype])
    assert spike_counts(seen, model) == list(a1.facts["train"]["spike_count"].values())

    compared = 0
    for name, parameter in model.named_parameters():
        want = a1.tensors.get(f"{twin}/grad/{sddpm_key(name)}")
        if want is not None:
            error = (parameter.grad - want.view_as(parameter)).norm() / want.norm()
            assert error < GRAD_RTOL[dtype], name
            compared += 1
    assert compared == len(a1.facts["config"]["grads"])
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    want_norm = a1[f"{twin}/grad_norm_all"].item()
    assert torch.cat(grads).norm().item() == pytest.approx(want_norm, rel=GRAD_RTOL[dtype])

    for key in [k for k in a1.tensors if k.startswith("train/after/") and twin == "train"]:
        got = {sddpm_key(n): b for n, b in model.named_buffers()}[key.removeprefix("train/after/")]
        torch.testing.assert_close(got, a1[key], atol=ATOL[dtype], rtol=1e-5)
