"""The names that type checkers and editors know, written from the tables.

    python -m research.pages.names > src/crossstage/weights/names.py

With them ``load("yolox_tiny.coco")`` is a detector to a type checker, and an editor completes the name.
"""

from __future__ import annotations

from crossstage.models.registry import REGISTRY, TaskName
from crossstage.weights.published import PRETRAINED

HEAD = '''\
"""Names of models and of their weights as literal types, so that checkers know what a name stands for.

Written by `python -m research.pages.names`.
"""

from __future__ import annotations

from typing import Literal
'''


def named(task: TaskName) -> list[str]:
    """Return the names of models that do a task, and of their weights, sorted."""
    models = {name for name, entry in REGISTRY.items() if entry.task == task}
    return sorted(models | {name for name, weights in PRETRAINED.items() if weights.model in models})


def literal(name: str, values: list[str]) -> str:
    """Return the definition of a literal type."""
    lines = "".join(f'    "{value}",\n' for value in values)
    return f"\n{name} = Literal[\n{lines}]\n"


def main() -> None:
    print(HEAD + literal("DetectorName", named("detect")) + literal("ClassifierName", named("classify")), end="")


if __name__ == "__main__":
    main()
