"""Two processes (gloo, CPU) train one model."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState
from children import Child

from spikediff.cli import main
from spikediff.data import load_images
from spikediff.training import save_recipe
from spikediff.training.checkpoint import load_latest
from spikediff.training.trainer import Trainer


def launch(function, folder):
    """Run a function in two processes, as torchrun does; return how they ended, what they said."""
    with socket.create_server(("localhost", 0)) as free:
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def of_rank(rank):
        os.environ.update(RANK=rank, LOCAL_RANK=rank, **address, **sizes)
        AcceleratorState._reset_state(reset_partial_state=True)
        return function()

    said = [folder / f"said-{rank}" for rank in "01"]
    children = [Child(partial(of_rank, rank), said[int(rank)]) for rank in "01"]
    return [(child.wait(), file.read_text()) for child, file in zip(children, said, strict=True)]


def train(recipe, folder, **options):
    trainer = Trainer(recipe, folder, show_progress=False, **options)
    assert trainer.accelerator.num_processes == 2
    assert trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    torch.save(weights, folder / f"rank{trainer.accelerator.process_index}.pt")


def test_two_processes_agree_and_resume(small, with_steps, tmp_path):
    three = with_steps(small, 3)
    load_images(small.data.dataset)  # every process has them then
    for recipe, name, options in (
        (three, "whole", {}),
        (with_steps(small, 2), "parts", {}),
        (three, "parts", {"resume": True}),
    ):
        for status, said in launch(partial(train, recipe, tmp_path / name, **options), tmp_path):
            assert status == 0, said[-6000:]
    held = [torch.load(tmp_path / "whole" / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    assert torch.equal(*held), "the processes hold different weights"
    whole = load_latest(tmp_path / "whole" / "checkpoints")
    parts = load_latest(tmp_path / "parts" / "checkpoints")
    assert whole.step == parts.step == 3
    for group, tensors in whole.tensors.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, parts.tensors[group][name], atol=0, rtol=0)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_told(small, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    save_recipe(replace(small, data=replace(small.data, batch_size=7)), recipe)
    command = ["train", str(recipe), "--output", str(tmp_path / "run")]
    for status, said in launch(partial(main, command), tmp_path):
        assert status == 2
        assert "must be a positive multiple of 2" in said
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.slow
def test_torchrun_starts_them(small, tmp_path):
    save_recipe(small, tmp_path / "recipe.yaml")
    program = tmp_path / "program.py"
    program.write_text("import sys; from spikediff.cli import main; sys.exit(main(sys.argv[1:]))")
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
