"""Two processes (gloo, CPU) train one model."""

import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fresh import COMMAND
from spikediff.training import save_recipe
from spikediff.training.checkpoint import load_latest

PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from spikediff.training import load_recipe
from spikediff.training.trainer import Trainer
trainer = Trainer(load_recipe(sys.argv[1]), Path(sys.argv[2]), show_progress=False,
                  resume="--resume" in sys.argv)
assert trainer.accelerator.num_processes == 2
assert trainer.train()
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
rank = trainer.accelerator.process_index
torch.save(weights, Path(sys.argv[2]) / f"rank{rank}.pt")
"""


@pytest.fixture
def launch(fresh_process):
    """Run a program in two processes, as torchrun does; return what they said."""

    def run(program, *arguments):
        with socket.create_server(("localhost", 0)) as free:
            address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
        sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        started = [
            fresh_process.start(program, *arguments, RANK=rank, LOCAL_RANK=rank, **address, **sizes)
            for rank in ("0", "1")
        ]
        return [process.wait() for process in started]

    return run


def test_two_processes_agree_and_resume(small, with_steps, tmp_path, launch):
    recipe, part = tmp_path / "recipe.yaml", tmp_path / "part.yaml"
    save_recipe(small, recipe)
    save_recipe(with_steps(small, 4), part)
    for arguments in (
        (recipe, tmp_path / "whole"),
        (part, tmp_path / "parts"),
        (recipe, tmp_path / "parts", "--resume"),
    ):
        for done in launch(PROGRAM, *arguments):
            assert done.returncode == 0, done.stderr[-6000:]
    held = [torch.load(tmp_path / "whole" / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    assert torch.equal(*held), "the processes hold different weights"
    whole = load_latest(tmp_path / "whole" / "checkpoints")
    parts = load_latest(tmp_path / "parts" / "checkpoints")
    assert whole.step == parts.step == 6
    for group, tensors in whole.tensors.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, parts.tensors[group][name], atol=0, rtol=0)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_told(small, tmp_path, launch):
    recipe = tmp_path / "recipe.yaml"
    save_recipe(replace(small, data=replace(small.data, batch_size=7)), recipe)
    for done in launch(COMMAND, "train", recipe, "--output", tmp_path / "run"):
        assert done.returncode == 2
        assert "must be a positive multiple of 2" in done.stderr
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.slow
def test_torchrun_starts_them(small, tmp_path):
    save_recipe(small, tmp_path / "recipe.yaml")
    program = tmp_path / "program.py"
    program.write_text(COMMAND)
    command = ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", str(program)]
    arguments = ["train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", *command, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert load_latest(tmp_path / "run" / "checkpoints").step == 6
