"""The folder of a model's repository: pipeline, card, picture, recipes and results."""

import json
from pathlib import Path
from typing import Any

from spikediff.errors import UserError
from spikediff.hub.card import GRID, model_card, recipe_file
from spikediff.hub.facts import ModelFacts
from spikediff.hub.own_files import own_file
from spikediff.hub.pictures import choose_picture
from spikediff.reading import read_json
from spikediff.training.recipe import save_recipe

# What other commands leave beside a pipeline, and what belongs to it.
_COMPANIONS = {
    "calibration.json": {"weights_sha256", "measured", "settings"},
    "origin.json": {"system", "checkpoint", "first_stage", "options"},
}


def write_repository(
    folder: Path,
    pipe: Any,
    facts: ModelFacts,
    source: Path,
    repository: str,
    num_inference_steps: int,
) -> list[Path]:
    """Write all that is uploaded.

    Args:
        folder: Where to; it is made.
        pipe: The pipeline.
        facts: What is known of it.
        source: The run's or pipeline's folder that it was loaded from.
        repository: USER/NAME on the Hub.
        num_inference_steps: Network calls per image of a grid that is drawn now.

    Returns:
        The files, relative to the folder.
    """
    companions = _companions(source)
    pipe.save_pretrained(folder)
    for name, content in companions.items():
        _write_json(folder / name, content)
    for index, stage in enumerate(facts.stages):
        save_recipe(stage.recipe, folder / recipe_file(index, len(facts.stages)))
    _write_results(folder, "evaluation", facts.results.evaluations)
    _write_results(folder, "energy", facts.results.energies)
    picture = choose_picture(facts, source, pipe, num_inference_steps)
    if picture is not None:
        picture.image.save(folder / GRID)
    model_card(facts, repository, picture).save(folder / "README.md")
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _write_results(folder: Path, kind: str, results: tuple[dict[str, Any], ...]) -> None:
    for index, result in enumerate(results):
        name = f"{kind}.json" if index == 0 else f"{kind}-{index + 1}.json"
        _write_json(folder / name, result)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _companions(source: Path) -> dict[str, Any]:
    """Return the files beside a pipeline; refuse what no command writes there."""
    found = {}
    for name, known in _COMPANIONS.items():
        for beside in (source / name, source / "pipeline" / name):
            if beside.exists():
                content = read_json(own_file(beside, source))
                if not isinstance(content, dict) or not content.keys() <= known:
                    raise UserError(f"{beside}: is not what spikediff writes there; remove it")
                found[name] = content
    return found
