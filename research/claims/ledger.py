"""The ledger: what the papers claim, what came of it here, and the verdict that follows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from crossstage.errors import ConfigError
from crossstage.reading.yaml import read_yaml

LEDGER = Path(__file__).parent / "claims.yaml"
DIGITS = 4  # significant ones of what is stored; whole numbers keep all of theirs

Kind = Literal["structural", "empirical", "speed"]
Verdict = Literal["reproduced", "reproduced at small scale", "not reproduced", "not testable here", "not measured yet"]
Measured = float | tuple[float, ...]


@dataclass(frozen=True)
class Value:
    """A number of a claim.

    Attributes:
        published: What the paper says, in the claim's unit; a bound where it says no more than "more" or "less".
        ours: What was found here, one number or one for each seed; None if nothing was measured.
    """

    published: float
    ours: Measured | None = None


@dataclass(frozen=True)
class Rule:
    """When a value of ours agrees with the published one.

    Attributes:
        text: ``"within 1"`` (of the unit), ``"within 1%"`` (of the published value), ``"at least"``, ``"at most"``
            (the published value is a bound) or ``"same sign"``. Of several seeds each must agree.

    Raises:
        ConfigError: The text is none of these.
    """

    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"within \d+(\.\d+)?%?|at least|at most|same sign", self.text):
            raise ConfigError(f"rule {self.text!r}; expected within N, within N%, at least, at most or same sign")

    def agrees(self, value: Value) -> bool:
        """Whether all of our numbers agree."""
        if value.ours is None:
            return False
        ours = value.ours if isinstance(value.ours, tuple) else (value.ours,)
        return all(self._holds(value.published, number) for number in ours)

    def _holds(self, published: float, ours: float) -> bool:
        if self.text == "at least":
            return ours >= published
        if self.text == "at most":
            return ours <= published
        if self.text == "same sign":
            return published * ours > 0
        bound = self.text.removeprefix("within ")
        allowed = float(bound.rstrip("%"))
        return abs(ours - published) <= (allowed / 100 * abs(published) if bound.endswith("%") else allowed)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, or the part of one that is decided in one way.

    Attributes:
        id: Name; a claim about cost and accuracy has an entry for each.
        kind: ``"structural"``: decided by counting; ``"empirical"``: by training; ``"speed"``: by timing.
        claim: What is claimed.
        source: Where.
        values: By what they are of.
        unit: Of all values.
        command: What gives our values.
        rule: When a value agrees.
        untestable: Why nothing can be measured here, in place of command and rule.
        remark: What a reader should know beside the numbers.

    Raises:
        ConfigError: There are neither command and rule nor a reason why not, or both.
    """

    id: str
    kind: Kind
    claim: str
    source: str
    values: Mapping[str, Value]
    unit: str = ""
    command: str = ""
    rule: Rule | None = None
    untestable: str = ""
    remark: str = ""

    def __post_init__(self) -> None:
        if bool(self.untestable) == bool(self.command and self.rule):
            raise ConfigError("expected a command and a rule, or why it is untestable")

    @property
    def agreeing(self) -> int:
        """How many values agree with the published ones."""
        return sum(self.rule is not None and self.rule.agrees(value) for value in self.values.values())

    @property
    def verdict(self) -> Verdict:
        """What follows from the values."""
        if self.untestable:
            return "not testable here"
        if not self.values or any(value.ours is None for value in self.values.values()):
            return "not measured yet"
        if self.agreeing < len(self.values):
            return "not reproduced"
        return "reproduced at small scale" if self.kind == "empirical" else "reproduced"

    def measured(self, found: Found) -> Claim:
        """The claim with other values of ours, to the ledger's digits.

        Raises:
            ConfigError: A number comes without its published one, and there is none of its name yet.
        """
        values = {}
        for label, given in found.items():
            if not isinstance(given, Value) and label not in self.values:
                raise ConfigError(f"claim {self.id}: nothing published is called {label!r}")
            value = given if isinstance(given, Value) else Value(self.values[label].published, given)
            values[label] = Value(_rounded(value.published), _rounded(value.ours))
        return replace(self, values=values)


Found = Mapping[str, Measured | Value | None]


def _rounded(number: Any) -> Any:
    """A number, or each of several, to the ledger's digits."""
    if isinstance(number, tuple):
        return tuple(map(_rounded, number))
    if number is None:
        return None
    return float(round(number)) if abs(number) >= 10 ** (DIGITS - 1) else float(f"{number:.{DIGITS}g}")


def read_ledger(path: Path = LEDGER) -> list[Claim]:
    """The claims of a ledger, by default the package's, in order.

    Raises:
        ConfigError: The file cannot be read, or an entry is not as :class:`Claim` has it.
    """
    content = read_yaml(path, ConfigError, "the list of claims")
    claims = []
    for entry in content.get("claims", ()):
        try:
            claims.append(_claim(entry))
        except (TypeError, KeyError, AttributeError, ValueError, ConfigError) as error:
            shown = entry.get("id", entry) if isinstance(entry, dict) else entry
            raise ConfigError(f"{path}: claim {shown!r}: {error}") from None
    return claims


def _claim(entry: Mapping[str, Any]) -> Claim:
    given = {key: value for key, value in entry.items() if key not in ("verdict", "values", "rule")}
    values = {
        label: Value(value["published"], tuple(ours) if isinstance(ours := value.get("ours"), list) else ours)
        for label, value in (entry.get("values") or {}).items()
    }
    return Claim(**given, values=values, rule=Rule(entry["rule"]) if "rule" in entry else None)


def ledger_text(claims: list[Claim]) -> str:
    """The ledger as YAML, verdicts included; reading it gives the same claims."""
    import yaml

    entries = [_entry(claim) for claim in claims]
    body = yaml.safe_dump(
        {"claims": entries}, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None, indent=2
    )
    return HEAD + body.replace("\n- id:", "\n\n- id:")


def _entry(claim: Claim) -> dict[str, Any]:
    entry = {
        "id": claim.id,
        "kind": claim.kind,
        "claim": claim.claim,
        "source": claim.source,
        "unit": claim.unit,
        "values": {label: _value(value) for label, value in claim.values.items()},
        "rule": claim.rule and claim.rule.text,
        "command": claim.command,
        "untestable": claim.untestable,
        "verdict": claim.verdict,
        "remark": claim.remark,
    }
    return {key: value for key, value in entry.items() if value}


def _value(value: Value) -> dict[str, Any]:
    if value.ours is None:
        return {"published": value.published}
    return {"published": value.published, "ours": list(value.ours) if isinstance(value.ours, tuple) else value.ours}


HEAD = """\
# What the papers claim, and what came of it here.
#
# Words are written by hand, and so are published values, but for those that stand in the tables of research.claims.
# Our values, verdicts and this file's form are written by `python -m research.pages.claims`, and so is
# docs/claims/index.md.
# "ours" is a list where there are several seeds, each of which must agree.

"""
