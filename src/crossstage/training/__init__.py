"""Training: options, recipes, the loop, and what a run leaves behind."""

from crossstage.training.options import TrainOptions
from crossstage.training.recipe_files import load_recipe, recipe_names
from crossstage.training.run import TrainResult
from crossstage.training.signals import Interrupted
from crossstage.training.start import options_of, plan_of, result_of, resume, train

__all__ = [
    "Interrupted",
    "TrainOptions",
    "TrainResult",
    "load_recipe",
    "options_of",
    "plan_of",
    "recipe_names",
    "result_of",
    "resume",
    "train",
]
