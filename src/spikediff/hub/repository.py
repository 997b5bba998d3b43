"""A model's repository (pipeline, card, picture, recipes and results), and its upload."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from spikediff.errors import UserError, suggestion
from spikediff.files.reading import read_json, read_regular
from spikediff.hub.card import GRID, choose_picture, model_card
from spikediff.hub.describe import ModelFacts
from spikediff.hub.results import own_file
from spikediff.training.recipe import save_recipe

# Files that other commands write beside a pipeline, and files that belong to it.
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
    """Write all files to upload to a repository USER/NAME; return the files in the folder.

    `source` is the run or pipeline folder from which the pipeline was loaded. If a grid must be
    drawn, it takes `num_inference_steps` network calls per image.
    """
    companions = _companions(source)
    pipe.save_pretrained(folder)
    for name, stage in facts.recipes.items():
        save_recipe(stage.recipe, folder / name)
    results = {"evaluation": facts.results.evaluations, "energy": facts.results.energies}
    measured = {
        f"{kind}-{number}.json" if number > 1 else f"{kind}.json": result
        for kind, found in results.items()
        for number, result in enumerate(found, 1)
    }
    for name, content in (companions | measured).items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    picture = choose_picture(facts, source, pipe, num_inference_steps)
    if picture is not None:
        picture.image.save(folder / GRID)
    model_card(facts, repository, picture).save(folder / "README.md")
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


_SPACE = """\
---
title: {name}
sdk: gradio
app_file: app.py
models:
- {repository}
---

Images by the spiking diffusion model
[{repository}](https://huggingface.co/{repository}), the spikes that make them, and what they cost.
The page is that of `spikediff web`.
"""
_SPACE_APP = """\
\"\"\"The page of {repository}: generate, inpaint, compare.\"\"\"

import sys

from spikediff.cli import main

sys.exit(main(["web", "{repository}", "--host", "0.0.0.0"]))
"""


def write_space(folder: Path, repository: str, requirement: str) -> list[Path]:
    """Write a Space that serves the page of a model on the Hub; return the files.

    `requirement` is the pip requirement for this package, with the extra `demo`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = {"repository": repository, "name": repository.partition("/")[2]}
    contents = {
        "README.md": _SPACE.format(**words),
        "app.py": _SPACE_APP.format(**words),
        "requirements.txt": f"{requirement}\n",
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return sorted(Path(name) for name in contents)


def _companions(source: Path) -> dict[str, Any]:
    """Return the files beside a pipeline; refuse files that no command writes there."""
    found = {}
    for name, known in _COMPANIONS.items():
        for beside in (source / name, source / "pipeline" / name):
            if beside.exists():
                content = read_json(own_file(beside, source))
                if not isinstance(content, dict) or not content.keys() <= known:
                    raise UserError(f"{beside}: is not what spikediff writes there; remove it")
                found[name] = content
    return found


def check_repository_name(repository: str) -> None:
    """Refuse an invalid repository name; a valid one is USER/NAME."""
    if repository.count("/") != 1:
        raise UserError(f"{repository!r}: is not a repository name; give USER/NAME")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository!r}: is not a repository name ({error})") from error


# https://huggingface.co/docs/hub/repositories-licenses
# fmt: off
LICENCES = (
    "apache-2.0", "mit", "openrail", "openrail++", "bigscience-openrail-m",
    "creativeml-openrail-m", "bigscience-bloom-rail-1.0", "bigcode-openrail-m", "afl-3.0",
    "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0",
    "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research",
    "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by",
    "odbl", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr",
    "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "unknown", "other",
)
# fmt: on


def stated_licence(source: Path) -> str | None:
    """Return the licence in the card of a repository folder; None without a card or a licence."""
    card = source / "README.md"
    text = read_regular(card).decode("utf-8", "replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    found = front and re.search(r"^license: (\S+)$", front[1], re.MULTILINE)
    return found[1] if found and found[1] in LICENCES else None


def check_licence(licence: str | None) -> None:
    """Refuse a licence identifier that the Hub does not know; None states no licence."""
    if licence is not None and licence not in LICENCES:
        hint = suggestion(licence, LICENCES)
        raise UserError(f"--license {licence}: no licence of the Hub; {hint}")


def upload_repository(
    folder: Path, repository: str, private: bool = False, space: bool = False
) -> str:
    """Upload a folder to a repository USER/NAME, creating it if needed; return its address.

    `space`: whether the repository is a Space with gradio instead of a model.

    Raises:
        UserError: The Hub refuses the upload, or is unreachable.
    """
    api = HfApi()
    try:
        kind = "space" if space else "model"
        made = api.create_repo(
            repository,
            private=private or None,
            exist_ok=True,
            repo_type=kind,
            space_sdk="gradio" if space else None,
        )
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type=kind,
            commit_message=f"Upload a spikediff {kind}",
        )
    except Exception as error:  # the client passes on all exceptions of its transport
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{repository}: the upload failed ({reason}); log in with `hf auth login`, and try "
            f"again: files already uploaded are not sent again"
        ) from error
    return str(made)
