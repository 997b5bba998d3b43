"""Parity with the authors' SDDPM and SDM networks, layer by layer (golden files A1 and A2)."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from goldens import Golden
from spikediff.neurons import IF
from spikediff.systems.released import load_authors_checkpoint
from spikediff.systems.sddpm.released import sddpm_key
from spikediff.systems.sdm.released import sdm_key

ATOL = {torch.float32: 2e-5, torch.float64: 1e-10}
GRAD_RTOL = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class Case:
    """A golden network: its numbers, the name of its system, and its authors' names of weights."""

    golden: Golden
    system: str
    key: Any

    def __getitem__(self, name):
        return self.golden[name]

    @property
    def facts(self):
        return self.golden.facts

    def load(self, dtype=torch.float32):
        state = self.golden.state()
        return load_authors_checkpoint(state, self.system, spiking_steps=4, sample_size=16).to(
            dtype
        )


CASES = {"sddpm": ("A1_sddpm_unet", sddpm_key), "sdm": ("A2_sdm_tsm_unet", sdm_key)}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    name, key = CASES[request.param]
    return Case(Golden(name), request.param, key)


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
def test_output(case, dtype):
    model = case.load(dtype)
    with torch.no_grad():
        got = model(case["in/x"].to(dtype), case["in/t"]).sample
    close(got, case["out/eps" if dtype == torch.float32 else "out64/eps"], dtype)


def test_every_layer(case):
    model = case.load()
    with torch.no_grad():
        seen, estimate = record(model, case["in/x"], case["in/t"])
    close(estimate, case["mid/readout_out"])
    close(seen["time_embedding"], case["mid/temb"])
    ours = {"stem_out": "stem", "readout_in": "head"}
    ours |= {f"{part}.{i}": f"{part}_blocks.{i}" for part, n in BLOCKS.items() for i in range(n)}
    for name, module in ours.items():
        torch.testing.assert_close(seen[module][:, :1], case[f"mid/{name}"], atol=1e-5, rtol=0)
    close(seen["head.scaling"][:, :1], case["mid/tail_conv"])
    for name, module in {"neuron": "stem", "middleblocks.0.neuron2": "middle_blocks.0"}.items():
        layer = f"{module}.{name.split('.')[-1]}"
        assert torch.equal(seen[layer][:, :1].byte(), case[f"spikes/{name}"])


BLOCKS = {"down": 3, "middle": 2, "up": 5}


def test_spike_counts_are_exact(case):
    model = case.load()
    with torch.no_grad():
        seen, _ = record(model, case["in/x"], case["in/t"])
    want = case.facts["eval"]["1.0"]["spike_count"]
    got = {
        authors_layer(name): int(seen[name].sum())
        for name, module in model.named_modules()
        if isinstance(module, IF)
    }
    assert got == want


def authors_layer(name):
    return name.removeprefix("stem.").replace("_blocks", "blocks")


@pytest.mark.parametrize("case", ["sdm"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_another_threshold(case, dtype):
    """Threshold guidance on top of TSM: the authors' outputs at 0.997, and their spike counts."""
    model = case.load(dtype)
    for module in model.modules():
        if isinstance(module, IF):
            module.dynamics = replace(module.dynamics, v_threshold=0.997)
    with torch.no_grad():
        seen, estimate = record(model, case["in/x"].to(dtype), case["in/t"])
    close(
        estimate, case["out/eps_th0.997" if dtype == torch.float32 else "out64/eps_th0.997"], dtype
    )
    assert spike_counts(seen, model) == list(case.facts["eval"]["0.997"]["spike_count"].values())


def test_calls_are_independent(case):
    """The authors' net carries stale membranes into the next call unless it is reset."""
    model = case.load()
    with torch.no_grad():
        model(case["in/x"], case["in/t"])
        got = model(case["stale/x2"], case["stale/t2"]).sample
        again = model(case["stale/x2"], case["stale/t2"]).sample
    assert torch.equal(got, again)
    difference = (got - case["stale/eps2"]).abs().max().item()
    want = case.facts["stale"]["max_abs_difference_from_a_fresh_call"]
    assert difference == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_step(case, dtype):
    model = case.load(dtype).train()
    twin = "train" if dtype == torch.float32 else "train64"
    seen, estimate = record(model, case["train/x_t"].to(dtype), case["train/t"])
    loss = torch.nn.functional.mse_loss(estimate, case["train/noise"].to(dtype))
    loss.backward()
    close(estimate.detach(), case[f"{twin}/eps"], dtype)
    assert loss.item() == pytest.approx(case[f"{twin}/loss"].item(), rel=GRAD_RTOL[dtype])
    assert spike_counts(seen, model) == list(case.facts["train"]["spike_count"].values())

    compared = 0
    for name, parameter in model.named_parameters():
        want = case.golden.tensors.get(f"{twin}/grad/{case.key(name)}")
        if want is not None:
            error = (parameter.grad - want.view_as(parameter)).norm() / want.norm()
            assert error < GRAD_RTOL[dtype], name
            compared += 1
    assert compared == len(case.facts["config"]["grads"])
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    want_norm = case[f"{twin}/grad_norm_all"].item()
    assert torch.cat(grads).norm().item() == pytest.approx(want_norm, rel=GRAD_RTOL[dtype])

    for key in [k for k in case.golden.tensors if k.startswith("train/after/") and twin == "train"]:
        got = {case.key(n): b for n, b in model.named_buffers()}[key.removeprefix("train/after/")]
        torch.testing.assert_close(got, case[key], atol=ATOL[dtype], rtol=1e-5)
