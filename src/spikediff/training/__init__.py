"""Training: a recipe, the loop over it, and what is kept of a run.

Only the recipe is imported here, so that reading one costs no import of torch.
"""

from spikediff.training.recipe import Recipe, load_recipe, recipe_from, save_recipe

__all__ = ["Recipe", "load_recipe", "recipe_from", "save_recipe"]
