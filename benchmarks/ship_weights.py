"""Make of a run one of the models that ship with the package.

    python benchmarks/ship_weights.py RUN NAME

Weights are stored in half precision, norms and whatever else has one axis in single; loading gives
single precision. The README.md of the model is written by hand, with figures of what was shipped.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spikediff.pretrained import PRETRAINED, pretrained_folder
from spikediff.training.recipe import load_recipe, save_recipe


def halve(path: Path) -> None:
    """Store the tensors of a file in half precision where they have more than one axis."""
    tensors = load_file(path)
    small = {
        name: tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        for name, tensor in tensors.items()
    }
    error = max(float((small[name].float() - tensors[name]).abs().max()) for name in tensors)
    save_file(small, path, metadata={"format": "pt"})
    print(f"{path.parent.name}: {path.stat().st_size / 2**20:.2f} MiB, rounded by {error:.1e}")


def without_code(pipeline: Path) -> None:
    """Remove the code by which plain diffusers finds our classes: here the package is there."""
    for code in sorted(pipeline.rglob("*.py")):
        code.unlink()
    for path in (pipeline / "model_index.json", *pipeline.glob("*/config.json")):
        content = json.loads(path.read_text())
        content.pop("auto_map", None)
        if isinstance(content["_class_name"], list):
            content["_class_name"] = content["_class_name"][1]
        path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Copy, halve, tell the sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=PRETRAINED)
    args = parser.parse_args()
    folder = pretrained_folder(args.name)
    shutil.rmtree(folder / "pipeline", ignore_errors=True)
    shutil.copytree(args.run / "pipeline", folder / "pipeline")
    without_code(folder / "pipeline")
    recipe = load_recipe(args.run / "recipe.yaml")
    start = Path(recipe.init_from).name if recipe.init_from else None
    recipe = replace(recipe, data=replace(recipe.data, data_dir=None), init_from=start)
    save_recipe(recipe, folder / "recipe.yaml")
    for weights in sorted((folder / "pipeline").rglob("*.safetensors")):
        halve(weights)


if __name__ == "__main__":
    with torch.no_grad():
        main()
