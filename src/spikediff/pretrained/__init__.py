"""Small trained models that ship with the package, so that `spikediff sample mnist` works at once.

A model is a run folder without its checkpoints: the recipe, and the pipeline with its weights in
half precision or as integers. The figures in its README.md were measured with these weights.
`benchmarks/ship_weights.py` makes one from a run.
"""

from pathlib import Path

from spikediff.errors import UserError, suggestion

PRETRAINED = {
    "digits": "the integer system on 8x8 digits, in integer arithmetic, by class",
    "digits-float": "the network behind digits, in half precision, for fine-tuning",
    "mnist": "the integer system on MNIST, in integer arithmetic, by class",
    "mnist-float": "the network behind mnist, in half precision, for fine-tuning",
    "fashion-mnist": "the integer system on Fashion-MNIST, in integer arithmetic, by class",
    "fashion-mnist-float": "the network behind fashion-mnist, in half precision, for fine-tuning",
}
"""Name -> description."""


def pretrained_folder(name: str) -> Path:
    """Return the folder of a model that ships with the package, a key of `PRETRAINED`.

    Example:
        >>> sorted(path.name for path in pretrained_folder("digits").iterdir())
        ['README.md', 'pipeline', 'recipe.yaml']
    """
    if name not in PRETRAINED:
        raise UserError(f"no model {name!r} ships with spikediff; {suggestion(name, PRETRAINED)}")
    return Path(__file__).parent / name


def ships(path: Path) -> bool:
    """Return whether a path is inside a shipped model.

    Example:
        >>> ships(pretrained_folder("digits") / "pipeline"), ships(Path("digits"))
        (True, False)
    """
    return path.resolve().is_relative_to(Path(__file__).resolve().parent)


def name_of(source: Path) -> str:
    """Return the name that a user types for a model's folder; the inverse of `find_source`.

    Example:
        >>> name_of(pretrained_folder("digits")), name_of(Path("runs/a"))
        ('digits', 'runs/a')
    """
    return source.name if source.parent == Path(__file__).parent else str(source)


def find_source(source: Path) -> Path:
    """Return the folder for a shipped model's name; other sources, and paths, as they are."""
    ships = str(source) in PRETRAINED and not source.exists()
    return pretrained_folder(str(source)) if ships else source


def check_source(source: Path) -> None:
    """Refuse a source that neither exists nor is a name on the Hub, before heavy imports.

    Raises:
        UserError: See `no_such_folder`.
    """
    found = find_source(source)
    is_data = str(source).startswith("data:")  # for `spikediff evaluate`
    if not (is_data or found.exists() or may_be_repository(found)):
        raise no_such_folder(source)


def no_such_folder(source: Path) -> UserError:
    """Return the error for a model that is not there; it names the shipped one that is meant.

    Example:
        >>> raise no_such_folder(Path("mnits"))
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: mnits: no such folder or shipped model; did you mean 'mnist'?
    """
    near = suggestion(str(source), PRETRAINED)
    other = "" if near.startswith("did") else ", or give a run folder or a pipeline's folder"
    return UserError(f"{source}: no such folder or shipped model; {near}{other}")


def may_be_repository(source: Path) -> bool:
    """Return whether a path may be USER/NAME on the Hugging Face Hub."""
    return len(source.parts) == 2 and not source.is_absolute() and source.parts[0] != ".."


_PACKAGE = Path(__file__).parents[1]
# A wheel carries the recipes inside the package; a checkout has them at its root.
_SHELVES = (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes")


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name: `sddpm/digits` and so on."""
    for shelf in _SHELVES:
        if shelf.is_dir():
            paths = sorted(shelf.glob("*/*.yaml"))
            return {path.relative_to(shelf).with_suffix("").as_posix(): path for path in paths}
    return {}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: A path, or the name of a shipped recipe, with or without `recipes/` and `.yaml`.

    Raises:
        UserError: There is no such file and no such recipe.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    short = name.removeprefix("recipes/").removesuffix(".yaml")
    if short in shipped:
        return shipped[short]
    near = suggestion(short, shipped)
    near = near if near.startswith("did") else "`spikediff info` lists those that ship"
    raise UserError(f"{name}: no such recipe; {near}")
