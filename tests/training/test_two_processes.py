"""Two processes (gloo, CPU) train one model."""

import subprocess
import sys
from dataclasses import replace

import torch

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


def launch(program, *arguments):
    command = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(program)]
    return subprocess.run(
        [sys.executable, "-m", *command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_two_processes_agree_and_resume(small, with_steps, tmp_path):
    program, recipe = tmp_path / "program.py", tmp_path / "recipe.yaml"
    program.write_text(PROGRAM)
    save_recipe(small, recipe)
    done = launch(program, recipe, tmp_path / "whole")
    assert done.returncode == 0, done.stderr[-6000:]
    held = [torch.load(tmp_path / "whole" / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    assert torch.equal(*held), "the processes hold different weights"
    save_recipe(with_steps(small, 4), recipe)
    done = launch(program, recipe, tmp_path / "parts")
    assert done.returncode == 0, done.stderr[-6000:]
    save_recipe(small, recipe)
    done = launch(program, recipe, tmp_path / "parts", "--resume")
    assert done.returncode == 0, done.stderr[-6000:]
    whole = load_latest(tmp_path / "whole" / "checkpoints")
    parts = load_latest(tmp_path / "parts" / "checkpoints")
    assert whole.step == parts.step == 6
    for group, tensors in whole.tensors.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, parts.tensors[group][name], atol=0, rtol=0)


def test_a_batch_that_cannot_be_shared_is_told(small, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    save_recipe(replace(small, data=replace(small.data, batch_size=7)), recipe)
    program = tmp_path / "program.py"
    program.write_text("import sys; from spikediff.cli import main; sys.exit(main(sys.argv[1:]))")
    done = launch(program, "train", recipe, "--output", tmp_path / "run")
    assert done.returncode != 0
    assert "must be a positive multiple of 2" in done.stderr
    assert not (tmp_path / "run" / "recipe.yaml").exists()
