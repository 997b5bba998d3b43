"""What the commands do, as functions: load, train, evaluate, compare, export; what to choose."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
        source: Name of a model that ships (`list_models`), run folder, pipeline folder, or the
            id of a repository on the Hugging Face Hub. Of a run that is not finished, the newest
            whole checkpoint is taken; always the averaged weights.
        scheduler: Name of a sampler; None keeps the pipeline's own.
        device: "cpu", "cuda", "mps", or "auto": the first of cuda, mps and cpu that serves.
        execution: "counts", "spikes", "events" or "delta" of an integer network's deployment form.

    Returns:
        The pipeline, of the class that its network is sampled with.

    Raises:
        UserError: There is no model, its files are damaged, or an option does not fit it.

    Example:
        >>> pipe = load("digits")
        >>> type(pipe.unet).__name__
        'SpikingUNet'
    """
    from spikediff.hub.load import load_pipeline

    return load_pipeline(Path(source), scheduler, device, execution=execution)


def train(
    recipe: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Train by a recipe.

    Args:
        recipe: Name of a recipe that ships (`list_recipes`), a YAML file, or nested mappings.
        output: Run folder; runs/NAME where it is not given, or runs/FOLDER of a recipe without
            a name for images of your own.
        resume: Whether to go on with the run in the folder.
        overwrite: Whether to replace the run in the folder.
        **settings: Settings of the recipe by their dotted names, as in
            `train("integer/digits", **{"training.steps": 2000})`.

    Returns:
        The run folder, which `load` takes.

    Raises:
        UserError: A setting is unknown, data are missing, or the folder does not fit.
        KeyboardInterrupt: A signal stopped the run; a checkpoint is written, `resume` goes on.
    """
    from spikediff.cli.train import train_stages
    from spikediff.files.yaml import read_yaml
    from spikediff.pretrained import find_recipe
    from spikediff.training.own_images import named_by_data
    from spikediff.training.recipe import recipe_from

    where = "recipe" if isinstance(recipe, Mapping) else str(recipe)
    content = recipe if isinstance(recipe, Mapping) else read_yaml(find_recipe(str(recipe)))
    wanted = named_by_data(recipe_from(_with_settings(content or {}, settings), where))
    root = Path(output) if output is not None else Path("runs") / wanted.name
    if not train_stages(wanted, root, resume, overwrite):
        raise KeyboardInterrupt(f"{root}: stopped before its last step; train with resume=True")
    return root


def evaluate(source: str | Path, protocol: str = "fair", **options: Any) -> dict[str, Any]:
    """Measure a model's images, or images in a folder, by a protocol.

    Args:
        source: What `load` takes, or a folder of images.
        protocol: Name of a protocol, or a YAML file.
        **options: Those of `spikediff evaluate`, with underscores: `num_samples`, `repeats`,
            `num_inference_steps`, `features`, ...

    Returns:
        The result, as `spikediff evaluate --json` writes it; nothing in processes but the first.

    Raises:
        UserError: An option is unknown, too few images, or missing weights.
    """
    from spikediff.cli.arguments import build
    from spikediff.cli.evaluate import EvaluateOptions, measure
    from spikediff.pretrained import find_source

    given = {"source": find_source(Path(source)), "protocol": protocol, **options}
    return measure(build(EvaluateOptions, given)) or {}


def export(
    source: str | Path,
    output: str | Path,
    format: Literal["nir", "onnx", "torch"] = "nir",
    **options: Any,
) -> dict[str, Any]:
    """Hand a denoiser on as NIR graphs, or as one ONNX or torch.export program.

    Args:
        source: What `load` takes.
        output: Folder of the graphs, or the program's file.
        format: "nir", "onnx" or "torch".
        **options: Those of `spikediff export`, with underscores.

    Returns:
        What was written, as `spikediff export --json` says it.

    Raises:
        UserError: An option is unknown, or the network holds what the format has no word for.
    """
    from spikediff.cli.arguments import build
    from spikediff.cli.export import ExportOptions, write
    from spikediff.pretrained import find_source

    folder = find_source(Path(source))
    given = {"source": folder, "output": output, "format": format, **options}
    return write(build(ExportOptions, given))


def compare(sources: Sequence[str | Path], **options: Any) -> "ModelComparison":
    """Put models side by side: quality with its floor, energy, T x rate, speed and size.

    Args:
        sources: What `load` takes, each perhaps with options of its own: "runs/x@steps=10".
        **options: Those of `spikediff compare`, with underscores: `quality=False`,
            `num_inference_steps`, `protocol`, `figure`, ...

    Returns:
        The comparison: `table()`, `markdown()`, `latex()`, `plot(path)` and `to_dict()`. A notebook
        shows the table.

    Raises:
        UserError: An option is unknown or wrong, a source is no model or stands twice, or data are
            missing.
    """
    from spikediff.cli.arguments import build
    from spikediff.cli.compare import CompareOptions, measure

    return measure(build(CompareOptions, {"sources": tuple(map(str, sources)), **options}))


def list_models() -> dict[str, str]:
    """Return the models that ship with the package: name -> what it is.

    Example:
        >>> "mnist" in list_models()
        True
    """
    from spikediff.pretrained import PRETRAINED

    return dict(PRETRAINED)


def list_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package.

    Example:
        >>> "integer/digits" in list_recipes()
        True
    """
    from spikediff.pretrained import shipped_recipes

    return list(shipped_recipes())


def _with_settings(content: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings with the values of dotted names put in."""
    merged: dict[str, Any] = dict(content)
    for name, value in settings.items():
        section, _, rest = name.partition(".")
        inner = merged.get(section) or {}
        merged[section] = _with_settings(inner, {rest: value}) if rest else value
    return merged
