"""What a command that generates does not import, and that it works where it is used."""

import subprocess
import sys

import pytest

SCIPY, COMPILER = ("scipy.stats", "matplotlib"), ("torch._dynamo", "torch._inductor", "sympy")
FEW = ["--num-inference-steps", "2"]
COMMANDS = {
    "sample": (["mnist", "--class-labels", "3", "--output", "{}/images", *FEW], SCIPY + COMPILER),
    # Torch itself imports its compiler under the meter's dispatch mode.
    "energy": (["mnist", "--num-images", "1", "--json", "{}/energy.json", *FEW], SCIPY),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_generating_imports_nothing_that_it_does_not_use(command, tmp_path):
    """The lists are the law of a command's start, not a clock, which depends on the machine."""
    options, heavy = COMMANDS[command]
    arguments = [command, *(option.format(tmp_path) for option in options)]
    program = (
        "import sys; from spikediff.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {heavy} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_was_left_out_is_imported_where_it_is_used():
    program = """
import sys
from spikediff.cli.light_imports import light_imports
with light_imports():
    from diffusers import LMSDiscreteScheduler
    from diffusers.hooks.first_block_cache import FBCHeadBlockHook as Hook
    from spikediff.diffusion.schedulers import make_scheduler
    assert "dynamo" not in str(sys.modules["torch._dynamo"].__spec__)
assert "torch._dynamo" not in sys.modules and "scipy.stats" not in sys.modules

hook = Hook(None, 0.1)
hook.state_manager = Hook  # where a state is looked up
Hook.get_state, Hook.head_block_residual = (lambda: Hook), None
assert hook._should_compute_remaining_blocks(None) and "torch._dynamo" not in sys.modules

config = make_scheduler("dpmsolver++").config
make_scheduler("dpmsolver++", {**config, "use_beta_sigmas": True}).set_timesteps(5)
assert "scipy.stats" in sys.modules
LMSDiscreteScheduler().set_timesteps(5)
assert "scipy.integrate" in sys.modules

import torch
calls = []
Hook.get_state = lambda: calls.append(torch.compiler.is_compiling()) or Hook
compiled = torch.compile(lambda: hook._should_compute_remaining_blocks(None), backend="eager")
assert compiled() and calls == [False]  # the compiler leaves the marked function alone
"""
    subprocess.run([sys.executable, "-c", program], check=True)
