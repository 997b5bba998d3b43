"""A system can be deleted: its folder, its row in `SYSTEMS`, and what the front door says of it."""

import ast
import re
import shutil
from pathlib import Path

import pytest

import spikediff

# Modules of other rooms that are about one system alone; they go with it.
OWN_MODULES = {"spiking_diffusion": ["editing/token_pipelines.py"]}
# No other system builds on these. One takes seconds of a core, so most are slow.
DELETABLE = [
    "spiking_diffusion",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("fsddim", "sdm", "fsvae", "converted", "integer")
    ),
]
OTHERS_GO_ON = """
import pkgutil, sys
from importlib import import_module
from pathlib import Path
import torch

sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
import spikediff
from spikediff.systems import SYSTEMS, load_system
from spikediff.training import recipe_from
from spikediff.training.build import Parts, build_items, build_model, build_objective

assert spikediff.__file__.startswith(sys.argv[1])
for module in pkgutil.walk_packages(spikediff.__path__, "spikediff."):
    name = module.name.rpartition(".")[2]
    if not name.startswith("_") and name != "triton_programs":  # no C, no Triton
        import_module(module.name)
for name in spikediff.__all__:
    getattr(spikediff, name)
for name in SYSTEMS:
    load_system(name)
recipe = recipe_from(
    {"model": {"base_channels": 8, "channel_mult": [1], "layers_per_block": 1, "spiking_steps": 1}},
    "test",
)
items = build_items(recipe, Path())
parts = Parts(recipe, items.image_size, items.channels, Path(), items)
model, objective = build_model(parts), build_objective(parts)
x = objective.prepare(torch.stack([items[i][0] for i in range(4)]))
drawn = objective.draw(tuple(x.shape), 0.0, torch.Generator().manual_seed(0))
optimizer = torch.optim.Adam(model.parameters())
before = [p.detach().clone() for p in model.parameters()]
sum(objective(model, x, *drawn).terms.values()).backward()
optimizer.step()
assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
"""


def delete(package, system):
    """Do what a maintainer would."""
    shutil.rmtree(package / "systems" / system)
    gone = [f"spikediff.systems.{system}"]
    for module in OWN_MODULES.get(system, ()):
        (package / module).unlink()
        gone.append(f"spikediff.{module.removesuffix('.py').replace('/', '.')}")
    table = package / "systems" / "__init__.py"
    text, rows = re.subn(rf'^    "{system}": \(.*\),\n', "", table.read_text(), flags=re.M)
    assert rows == 1
    table.write_text(text)
    door = package / "__init__.pyi"
    lines = door.read_text().splitlines()
    for statement in reversed(ast.parse(door.read_text()).body):
        if isinstance(statement, ast.ImportFrom) and statement.module.startswith(tuple(gone)):
            del lines[statement.lineno - 1 : statement.end_lineno]
    door.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("system", DELETABLE)
def test_without_a_system_everything_else_imports_and_trains(tmp_path, system, fresh_process):
    package = tmp_path / "spikediff"
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(Path(spikediff.__file__).parent, package, ignore=ignored)
    delete(package, system)
    ended = fresh_process.run(OTHERS_GO_ON, tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
