"""Numbers made by running the authors' code: tensors, and the JSON that explains them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"
IS_SDIST = (Path(__file__).parents[1] / "PKG-INFO").is_file()


class Golden:
    """One golden case."""

    def __init__(self, name: str) -> None:
        file = GOLDEN / f"{name}.safetensors"
        if IS_SDIST and not file.exists():
            pytest.skip("the sdist has no golden tensors; they are in the repository")
        self.tensors = load_file(file)
        self.facts = json.loads((GOLDEN / f"{name}.json").read_text())

    def state(self) -> dict[str, torch.Tensor]:
        return {k.removeprefix("state/"): v for k, v in self.tensors.items() if "state/" in k}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]
