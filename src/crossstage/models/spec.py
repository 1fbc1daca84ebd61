"""What it takes to rebuild a model: its name, arguments, classes and preprocessing, and where its weights come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from crossstage.errors import ConfigError, WeightsError, first_line
from crossstage.models.rows import MAX_NUMBER, decode, encode
from crossstage.structures import Preprocessing

FORMAT = 1
HASH = "tensors_sha256"  # the key of a hash of the tensors, where a header has one


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Attributes:
        source: What was trained, by whom, and how it was obtained.
        licence: The licence the source states.
        source_file: Name of the file the weights were converted from.
        sha256: Hash of that file.
        trained_on: The training data.
    """

    source: str
    licence: str
    source_file: str = ""
    sha256: str = ""
    trained_on: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """Everything but the tensors.

    Attributes:
        name: Name in the registry.
        class_names: Names by class id; empty for a classifier without names.
        num_classes: Classes of the head.
        overrides: Fields of the table's row that differ from the published ones, such as ``partial`` or ``act``.
        preprocessing: How images become input.
        provenance: Where the weights come from, if there are any.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    provenance: Provenance | None = None

    def to_json(self, digest: str = "") -> str:
        """Return the spec as compact JSON with sorted keys, so that equal specs give equal bytes.

        Args:
            digest: A hash of the tensors that stand beside it; empty leaves it out.
        """
        content = {
            **({HASH: digest} if digest else {}),
            "format": FORMAT,
            "name": self.name,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "overrides": {key: encode(value) for key, value in self.overrides.items()},
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
            "provenance": asdict(self.provenance) if self.provenance else None,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: str) -> ModelSpec:
        """Read what :meth:`to_json` wrote; ``path`` is for messages.

        Raises:
            WeightsError: The text is no spec, or one of a newer format.
        """
        try:
            content = json.loads(text)
            if content["format"] > FORMAT:
                raise WeightsError(
                    f"{path}: format {content['format']}; this version of crossstage reads up to {FORMAT}"
                )
            classes, names = content["num_classes"], content["class_names"]
            if type(classes) is not int or not 1 <= classes <= MAX_NUMBER:
                raise ValueError(
                    f"num_classes is {str(classes)[:40]}; expected a whole number from 1 to {MAX_NUMBER:,}"
                )
            if not isinstance(names, list) or (names and len(names) != classes):
                raise ValueError(f"{len(names)} class names for num_classes={classes}; expected as many")
            return cls(
                name=str(content["name"]),
                num_classes=classes,
                class_names=tuple(str(name) for name in names),
                overrides={str(key): decode(value) for key, value in content["overrides"].items()},
                preprocessing=Preprocessing.from_dict(content["preprocessing"]) if content["preprocessing"] else None,
                provenance=Provenance(**content["provenance"]) if content["provenance"] else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ConfigError) as error:
            what = f"{type(error).__name__}: {first_line(error)}"
            raise WeightsError(f"{path}: its header does not describe a crossstage model: {what}") from None
