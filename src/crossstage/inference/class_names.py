"""Classes by name: what people call them is found whatever list a model's names come from."""

from __future__ import annotations

from collections.abc import Sequence

from crossstage.errors import ConfigError, did_you_mean

# Darknet's class list keeps names of PASCAL VOC where COCO has others.
_OLD_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def plain(name: str) -> str:
    """Return a class's name as names are compared: without case, and COCO's where Darknet's list has another."""
    name = name.strip().casefold()
    return _OLD_NAMES.get(name, name)


def class_ids_of(classes: str | Sequence[str | int] | None, class_names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the ids of some classes.

    Args:
        classes: Name, names or ids; None means all classes.
        class_names: Names by class id.

    Raises:
        ConfigError: The model knows no such class.
    """
    wanted = [classes] if isinstance(classes, str) else classes
    return None if wanted is None else tuple(_class_id(name, class_names) for name in wanted)


def _class_id(name: str | int, class_names: Sequence[str]) -> int:
    if isinstance(name, str) and name in class_names:
        return class_names.index(name)
    if isinstance(name, str) and plain(name) in (names := [plain(known) for known in class_names]):
        return names.index(plain(name))
    if str(name).isdecimal() and 0 <= int(name) < len(class_names):
        return int(name)
    hint = did_you_mean(str(name), class_names) or f"; expected a name or 0 to {len(class_names) - 1}"
    raise ConfigError(f"class {name!r} is unknown to the model{hint}")
