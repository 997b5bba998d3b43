"""Make the shipped models NAME and NAME-float from a run of the integer system.

    python benchmarks/ship_weights.py RUN NAME

NAME is the deployment form with 8-bit weights. NAME-float has the weights in half precision, norms
and whatever else has one axis in single; loading gives single precision. Each README.md is written
by hand, with figures of what was shipped.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.pretrained import PRETRAINED, pretrained_folder
from spikediff.systems.integer import to_integer
from spikediff.training.recipe import load_recipe, save_recipe
from spikediff.training.trained import load_trained


def halve(path: Path) -> None:
    """Store the tensors of a file in half precision where they have more than one axis."""
    tensors = load_file(path)
    small = {
        name: tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        for name, tensor in tensors.items()
    }
    error = max(float((small[name].float() - tensors[name]).abs().max()) for name in tensors)
    save_file(small, path, metadata={"format": "pt"})
    print(f"rounded by {error:.1e}")


def without_code(pipeline: Path) -> None:
    """Remove the code by which plain diffusers finds our classes, and where they came from."""
    for code in sorted(pipeline.rglob("*.py")):
        code.unlink()
    for path in (pipeline / "model_index.json", *pipeline.glob("*/config.json")):
        content = json.loads(path.read_text())
        content.pop("auto_map", None)
        content.pop("_name_or_path", None)
        if isinstance(content["_class_name"], list):
            content["_class_name"] = content["_class_name"][1]
        path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Copy and halve, deploy, tell the sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "name", choices=[name for name in PRETRAINED if f"{name}-float" in PRETRAINED]
    )
    args = parser.parse_args()
    recipe = load_recipe(args.run / "recipe.yaml")
    start = Path(recipe.init_from).name if recipe.init_from else None
    recipe = replace(recipe, data=replace(recipe.data, data_dir=None), init_from=start)
    trained = load_trained(args.run)
    deployed = SpikingDiffusionPipeline(to_integer(trained.unet), trained.scheduler)
    for name, pipe in ((f"{args.name}-float", trained), (args.name, deployed)):
        folder = pretrained_folder(name)
        shutil.rmtree(folder / "pipeline", ignore_errors=True)
        pipe.save_pretrained(folder / "pipeline")
        without_code(folder / "pipeline")
        save_recipe(recipe, folder / "recipe.yaml")
        (weights,) = (folder / "pipeline").rglob("*.safetensors")
        if pipe is trained:
            halve(weights)
        print(f"{name}: {weights.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    with torch.no_grad():
        main()
