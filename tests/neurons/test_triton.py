"""The Triton kernel: when it is chosen; and `triton_cases.py`, run where Triton can run."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from spikediff.errors import UserError
from spikediff.neurons import IF
from spikediff.neurons.dynamics import Dynamics
from spikediff.neurons.kernels import kernel_for, triton_kernel, using

CASES = Path(__file__).with_name("triton_cases.py")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
not_interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="under the interpreter a CPU suits, too"
)


def _run(**environment):
    """Run the cases in a process of their own: Triton reads the environment when imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(CASES)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@needs_triton
def test_in_the_interpreter():
    _run(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu():
    _run(TRITON_INTERPRET="0")


def _compiled(name, types, constants):
    """Return a program's PTX for compute capability 8.0; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    program = getattr(triton_kernel._programs(), name)
    constants = {"STEPS": 4, "DECAY_INPUT": False, "SOFT": False, "STRICT": False} | constants
    constants |= {"BLOCK": triton_kernel._block(4)}
    signature = dict.fromkeys(program.arg_names, "fp32") | types | {"size": "i32"}
    signature |= dict.fromkeys(constants, "constexpr")
    places = {(program.arg_names.index(key),): value for key, value in constants.items()}
    aligned = [argument for argument in types if types[argument].startswith("*")] + ["size"]
    aligned = {(program.arg_names.index(key),): [["tt.divisibility", 16]] for key in aligned}
    options = {"num_warps": triton_kernel.WARPS, "enable_fp_fusion": False}
    source = ASTSource(program, signature, places, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]


@needs_triton
@not_interpreted
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_what_is_fused_is_fused_by_hand(kind, fused):
    half = {"current_at": f"*{kind}", "spikes_at": f"*{kind}"}
    types = half | {"v_first_at": "*fp32", "v_last_at": "*fp32"}
    ptx = _compiled(
        "forward", types, {"LEARNT": False, "FUSED": fused, "FROM_REST": True, "KEEP_LAST": True}
    )
    neurons = triton_kernel._block(4) // (32 * triton_kernel.WARPS)
    assert ptx.count("fma.rn.f32") == (4 * neurons if fused else 0)


@needs_triton
@not_interpreted
@pytest.mark.parametrize("kept", [False, True])
def test_membranes_that_are_not_kept_are_not_written(kept):
    types = dict.fromkeys(("current_at", "spikes_at", "v_first_at", "v_last_at"), "*fp32")
    constants = {"LEARNT": False, "FUSED": True, "FROM_REST": True, "KEEP_LAST": kept}
    stores = triton_kernel._block(4) // (32 * triton_kernel.WARPS) // 4  # of four values, a step
    assert _compiled("forward", types, constants).count("st.global.v4") == (4 + kept) * stores


@needs_triton
@not_interpreted
@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_the_backward_pass_compiles_and_keeps_no_memory(kind, learnt):
    half = dict.fromkeys(("current_at", "grad_spikes_at", "grad_at"), f"*{kind}")
    types = half | {"share_at": "*fp32"} | ({"decay": "*fp32"} if learnt else {})
    constants = {"LEARNT": learnt, "FUSED": not learnt, "WITH_DECAY": learnt}
    constants |= {"DETACH_RESET": False, "SURROGATE": "sigmoid"}
    assert ".local" not in _compiled("backward", types, constants)


@not_interpreted
def test_a_cpu_does_not_suit():
    current = torch.zeros(2, 3)
    assert not triton_kernel.suits(current, Dynamics())
    assert kernel_for(current, Dynamics()) in ("native", "reference")


@not_interpreted
def test_forced_where_it_cannot_run():
    with using("triton"), pytest.raises(UserError, match="triton kernel: it is missing"):
        IF()(torch.zeros(2, 3))


def test_without_triton(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_kernel, "_programs", lambda: None)
    assert not triton_kernel.suits(torch.zeros(2, 3), Dynamics())


class _Unknown:
    def derivative(self, z):
        return z


def test_what_does_not_suit(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_kernel, "_programs", object)
    assert triton_kernel.suits(torch.zeros(32, 3), Dynamics())
    assert not triton_kernel.suits(torch.zeros(33, 3), Dynamics())
    assert not triton_kernel.suits(torch.zeros(2, 3, dtype=torch.float64), Dynamics())
    assert not triton_kernel.suits(torch.zeros(2, 3), Dynamics(v_negative=1.0))
    assert not triton_kernel.suits(torch.zeros(2, 3), Dynamics(surrogate=_Unknown()))


@pytest.mark.parametrize("steps", range(1, 33))
def test_blocks_are_powers_of_two_and_fit_into_registers(steps):
    block = triton_kernel._block(steps)
    threads = 32 * triton_kernel.WARPS
    assert block % threads == 0
    assert block & (block - 1) == 0
    assert steps * block // threads <= 64
