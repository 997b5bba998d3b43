"""Numbers made by running the authors' code: tensors, and the JSON that explains them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """One golden case."""

    def __init__(self, name: str) -> None:
        self.tensors = load_file(GOLDEN / f"{name}.safetensors")
        self.facts = json.loads((GOLDEN / f"{name}.json").read_text())

    def state(self) -> dict[str, torch.Tensor]:
        return {k.removeprefix("state/"): v for k, v in self.tensors.items() if "state/" in k}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]
