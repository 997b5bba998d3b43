"""Small trained models that ship with the package, so that `spikediff sample mnist` works at once.

A model is a run folder without its checkpoints: the recipe, and the pipeline with its weights in
half precision or in whole numbers, which are what the figures in its README.md were measured with.
`benchmarks/ship_weights.py` makes one of a run.
"""

from pathlib import Path

from spikediff.errors import UserError, suggestion

PRETRAINED = {
    "digits": "SDDPM of 8x8 digits that can be asked for a digit",
    "mnist": "the integer system on MNIST, in whole numbers, that can be asked for a digit",
}
"""Name -> what it is."""


def pretrained_folder(name: str) -> Path:
    """Return the folder of a model that ships with the package.

    Args:
        name: A key of `PRETRAINED`.

    Raises:
        UserError: There is none of that name.

    Example:
        >>> sorted(path.name for path in pretrained_folder("digits").iterdir())
        ['README.md', 'pipeline', 'recipe.yaml']
    """
    if name not in PRETRAINED:
        raise UserError(f"no model {name!r} ships with spikediff; {suggestion(name, PRETRAINED)}")
    return Path(__file__).parent / name


def ships(path: Path) -> bool:
    """Return whether a path lies in a model that ships with the package.

    Example:
        >>> ships(pretrained_folder("digits") / "pipeline"), ships(Path("digits"))
        (True, False)
    """
    return path.resolve().is_relative_to(Path(__file__).resolve().parent)


def find_source(source: Path) -> Path:
    """Return the folder of a model that ships with the package for its name, else what was given.

    Args:
        source: A path, or a key of `PRETRAINED`; what is there in the working folder goes first.
    """
    ships = str(source) in PRETRAINED and not source.exists()
    return pretrained_folder(str(source)) if ships else source
