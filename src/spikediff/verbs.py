"""The commands as functions: load, train, evaluate, compare, export, and lists of choices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spikediff.errors import UserError, shown

if TYPE_CHECKING:
    from spikediff.cli.comparison import ModelComparison


def load(
    source: str | Path,
    scheduler: str | None = None,
    device: str = "cpu",
    execution: str | None = None,
) -> Any:
    """Load a pipeline, on the CPU and in evaluation mode.

    Args:
        source: Name of a shipped model (`list_models`), run folder, pipeline folder, or the
            id of a repository on the Hugging Face Hub. An unfinished run loads from its newest
            complete checkpoint. Weights are always the averaged ones.
        scheduler: Name of a sampler; None keeps the pipeline's own.
        device: "cpu", "cuda", "mps", or "auto": the first available of cuda, mps and cpu.
        execution: "counts", "spikes", "events" or "delta", for the deployment form of an integer
            network.

    Returns:
        The pipeline, in the class that belongs to its network.

    Raises:
        UserError: There is no such model, its files are damaged, or an option does not fit it.

    Example:
        >>> pipe = load("digits")
        >>> type(pipe.unet).__name__
        'DeployedIntegerUNet'
    """
    from spikediff.hub.load import load_pipeline

    return load_pipeline(Path(source), scheduler, device, execution=execution)


def train(
    recipe: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    first_stage_steps: int | None = None,
    **settings: Any,
) -> Path:
    """Train a recipe.

    Args:
        recipe: Name of a shipped recipe (`list_recipes`), a YAML file, or nested mappings.
        output: Run folder; by default runs/NAME, or runs/FOLDER for your own images and a recipe
            without a name.
        resume: Whether to continue the run in the folder.
        overwrite: Whether to replace the run in the folder.
        first_stage_steps: Optimizer steps of the first stage, of a recipe of two stages.
        **settings: Settings of the recipe by their dotted names, as in
            `train("integer/digits", **{"training.steps": 2000})`.

    Returns:
        The run folder, which `load` takes.

    Raises:
        UserError: A setting is unknown, data are missing, or the folder does not fit.
        KeyboardInterrupt: A signal stopped the run after a checkpoint; `resume` continues it.
    """
    from spikediff.cli.train import train_stages
    from spikediff.files.yaml import read_yaml
    from spikediff.pretrained import find_recipe
    from spikediff.training.own_images import named_by_data
    from spikediff.training.recipe import recipe_from

    where = "recipe" if isinstance(recipe, Mapping) else str(recipe)
    content = _plain(recipe) if isinstance(recipe, Mapping) else read_yaml(find_recipe(str(recipe)))
    wanted = named_by_data(recipe_from(_with_settings(content or {}, settings), where))
    root = Path(output) if output is not None else Path("runs") / wanted.name
    if not train_stages(wanted, root, resume, overwrite, first_stage_steps):
        raise KeyboardInterrupt(f"{root}: stopped before its last step; train with resume=True")
    return root


def evaluate(source: str | Path, protocol: str = "fair", **options: Any) -> dict[str, Any]:
    """Measure the quality of a model's images, or of images in a folder, by a protocol.

    Args:
        source: As for `load`, or a folder of images.
        protocol: Name of a protocol, or a YAML file.
        **options: Those of `spikediff evaluate`, with underscores: `num_samples`, `repeats`,
            `num_inference_steps`, `features`, ...

    Returns:
        The result, as written by `spikediff evaluate --json`; empty in all processes but the first.

    Raises:
        UserError: An option is unknown, there are too few images, or weights are missing.
    """
    from spikediff.cli.arguments import build
    from spikediff.cli.evaluate import EvaluateOptions, measure

    given = {"source": source, "protocol": protocol, **options}
    return measure(build(EvaluateOptions, given)) or {}


def export(
    source: str | Path,
    output: str | Path,
    format: Literal["nir", "onnx", "torch"] = "nir",
    **options: Any,
) -> dict[str, Any]:
    """Export a denoiser as NIR graphs, or as one ONNX or torch.export program.

    Args:
        source: As for `load`.
        output: Folder of the graphs, or the program's file.
        format: "nir", "onnx" or "torch".
        **options: Those of `spikediff export`, with underscores.

    Returns:
        The report, as written by `spikediff export --json`.

    Raises:
        UserError: An option is unknown, or the format cannot express a layer of the network.
    """
    from spikediff.cli.arguments import build
    from spikediff.cli.export import ExportOptions, write

    given = {"source": source, "output": output, "format": format, **options}
    return write(build(ExportOptions, given))


def compare(sources: str | Path | Sequence[str | Path], **options: Any) -> "ModelComparison":
    """Compare models: quality with its floor, energy, T x rate, speed and size.

    Args:
        sources: A model or several, as for `load`, each optionally with its own options:
            "runs/x@steps=10".
        **options: Those of `spikediff compare`, with underscores: `quality=False`,
            `num_inference_steps`, `protocol`, `figure`, ...

    Returns:
        The comparison: `table()`, `markdown()`, `latex()`, `plot(path)` and `to_dict()`. A notebook
        shows the table.

    Raises:
        UserError: An option is unknown or wrong, a source is not a model or is given twice, or data
            are missing.
    """
    from spikediff.cli.arguments import build
    from spikediff.cli.compare import CompareOptions, measure

    several = [sources] if isinstance(sources, str | Path) else sources
    return measure(build(CompareOptions, {"sources": tuple(map(str, several)), **options}))


def list_models() -> dict[str, str]:
    """Return the models shipped with the package: name -> description.

    Example:
        >>> "mnist" in list_models()
        True
    """
    from spikediff.pretrained import PRETRAINED

    return dict(PRETRAINED)


def list_recipes() -> list[str]:
    """Return the names of the recipes shipped with the package.

    Example:
        >>> "integer/digits" in list_recipes()
        True
    """
    from spikediff.pretrained import shipped_recipes

    return list(shipped_recipes())


def _with_settings(content: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings updated with the values of dotted names."""
    merged: dict[str, Any] = dict(content)
    for name, value in settings.items():
        section, _, rest = name.partition(".")
        inner = merged.get(section) or {}
        if rest and not isinstance(inner, Mapping):
            raise UserError(f"{name}: {section} is {shown(inner)}, which has no settings")
        merged[section] = _with_settings(inner, {rest: value}) if rest else _plain(value)
    return merged


def _plain(value: Any) -> Any:
    """Return a setting as it is read from YAML: paths as text, NumPy's numbers as Python's."""
    import numpy as np

    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value
