"""Training: the recipe, the training loop, and the run folder.

Only the recipe is imported here. Reading a recipe imports its network, and hence torch.
"""

from spikediff.training.recipe import Recipe, load_recipe, recipe_from, save_recipe

__all__ = ["Recipe", "load_recipe", "recipe_from", "save_recipe"]
