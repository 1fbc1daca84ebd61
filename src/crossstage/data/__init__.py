"""Datasets: recognised, read, checked, augmented."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossstage.data.find import find_data as find_data


def __getattr__(name: str) -> Any:
    """Load what reads a dataset when it is first asked for: the formats below this room import it, too."""
    if name == "find_data":
        from crossstage.data.find import find_data

        return find_data
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
