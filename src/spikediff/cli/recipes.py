"""Finding a recipe: a file, or the name of one that comes with the package."""

from pathlib import Path

from spikediff.errors import UserError, suggestion

_PACKAGE = Path(__file__).parents[1]
# A wheel carries the recipes inside the package; a checkout has them at its root.
_SHELVES = (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes")


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name: `sddpm/digits` and so on."""
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
    raise UserError(f"{name}: no such recipe; {suggestion(short, shipped)}")
