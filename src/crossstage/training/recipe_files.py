"""The files of recipes: those in the package, by their names, and anybody's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossstage.errors import ConfigError, did_you_mean
from crossstage.reading.yaml import read_yaml

RECIPES = Path(__file__).parent / "recipes"


def load_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """Return those options that a recipe's file holds.

    Args:
        name_or_path: A file, or the name of one in the package, see :func:`recipe_names`.

    Raises:
        ConfigError: There is none, or it is no mapping.
    """
    return read_yaml(recipe_path(name_or_path), ConfigError, "options")


def recipe_path(name_or_path: str | Path) -> Path:
    """Find the file of a recipe.

    Raises:
        ConfigError: There is none.
    """
    for path in (Path(name_or_path), RECIPES / f"{name_or_path}.yaml"):
        if path.is_file():
            return path
    known = recipe_names()
    close = did_you_mean(str(name_or_path), known)
    raise ConfigError(f"recipe {str(name_or_path)!r}: no such file; the package has {', '.join(known)}{close}")


def recipe_names() -> list[str]:
    """List the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))
