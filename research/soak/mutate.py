"""Files made wrong: one to four seeded changes to their bytes, their text or the values that they hold."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

MAX_CHANGES = 4
MAX_COPIES = 2000  # of a piece that is repeated
WORDS = (
    *(
        "",
        "0",
        "-1",
        "1",
        "2147483648",
        "9" * 30,
        "1e999",
        "-1e999",
        "nan",
        "inf",
        "-inf",
        "0.1",
        "1.0",
        "1e-400",
        "0x10",
    ),
    *(
        "null",
        "true",
        "yes",
        "no",
        "None",
        "~",
        "007",
        "1_000",
        "\u0661",
        "NaN",
        "Infinity",
        "[]",
        "{}",
        '""',
        "&a [*a]",
    ),
    *(
        "*a",
        "<<:",
        "!!python/object:os.system",
        "!!binary x",
        "? ",
        "---",
        "<!ENTITY a 'b'>",
        "&a;",
        "]]>",
        "<![CDATA[",
    ),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "a" * 300,
        "\\x00",
        "\x1b[2J",
        "\r",
        "\n\n",
        "\t",
        "\u202e",
        "\ud800",
        "é",
        "[/red]",
    ),
    *("$\\frac$", "%s", "{0}", ";", ",", '"', "'", "#", ":", "\u2028", "\ufeff", "\x00", "C:\\Users", "file.txt ", "."),
)
NUMBERS = (0, 1, -1, 2, 0.5, -0.0, 1e308, 2**31, 2**40, 2**63, 2**64, -(2**31), 10**30, float("nan"), float("inf"))
ODD: tuple[Any, ...] = (*NUMBERS, None, True, "", "x", "1", "1.0", [], [[]], {}, {"x": 1}, [1, 2], "\x1b[31m\nerror: x")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp037", "utf-7")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return a file's content with some changes.

    Args:
        content: What the file holds, unharmed.
        chance: Decides on the changes, so that a seed makes the same ones again.
    """
    try:
        text = content.decode()
        choices = [_values, _values, _changed_text, _changed_text, _changed_bytes] if text.strip()[:1] in "{[" else []
        choices = choices or [_changed_text, _changed_text, _changed_bytes]
    except UnicodeDecodeError:
        choices = [_changed_bytes]
    for _ in range(chance.randint(1, MAX_CHANGES)):
        content = chance.choice(choices)(content, chance)
    return content


def _values(content: bytes, chance: random.Random) -> bytes:
    """Put something else in the place of a value of a JSON document."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _changed_text(content, chance)
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    if not places:
        return content
    holder, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * chance.choice((1, 2, 100))
    elif kind == 2:
        holder[key] = _nested(holder[key], chance.choice((1, 5, 200)))
    elif kind == 3:
        other, there = chance.choice(places)
        try:
            holder[key] = json.loads(json.dumps(other[there]))
        except (LookupError, ValueError, RecursionError):
            holder[key] = None
    else:
        holder[key] = chance.choice(ODD)
    try:
        return json.dumps(document).encode()
    except (ValueError, RecursionError):
        return content


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        places.append((value, key))
        _collect(inner, places)


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _changed_text(content: bytes, chance: random.Random) -> bytes:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _changed_bytes(content, chance)
    change: Callable[[str, random.Random], str] = chance.choice(
        (_replaced_number, _replaced_number, _inserted_word, _replaced_word, _shuffled_lines, _repeated, _without)
    )
    if chance.random() < 0.05:
        return text.encode(chance.choice(_ENCODINGS), "replace")
    return change(text, chance).encode("utf-8", "surrogatepass")


def _replaced_number(text: str, chance: random.Random) -> str:
    found = list(_NUMBER.finditer(text))
    if not found:
        return _inserted_word(text, chance)
    chosen = chance.choice(found)
    new = chance.choice((chance.choice(WORDS), str(chance.choice(NUMBERS))))
    return text[: chosen.start()] + new + text[chosen.end() :]


def _replaced_word(text: str, chance: random.Random) -> str:
    found = list(re.finditer(r"\w+", text))
    if not found:
        return _inserted_word(text, chance)
    chosen = chance.choice(found)
    new = chance.choice((chance.choice(WORDS), chance.choice(found)[0]))
    return text[: chosen.start()] + new + text[chosen.end() :]


def _inserted_word(text: str, chance: random.Random) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + chance.choice(WORDS) + text[at:]


def _shuffled_lines(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return text
    one, other = chance.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], chance.choice((lines[one], ""))
    return "".join(lines)


def _repeated(text: str, chance: random.Random) -> str:
    start = chance.randint(0, len(text))
    piece = text[start : start + chance.choice((1, 4, 40))]
    return text[:start] + piece * chance.choice((1, 2, 50, MAX_COPIES)) + text[start:]


def _without(text: str, chance: random.Random) -> str:
    start = chance.randint(0, len(text))
    return text[:start] + text[start + chance.choice((1, 3, 20, len(text))) :]


def _changed_bytes(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return bytes(chance.randrange(256) for _ in range(8))
    at = chance.randrange(len(content))
    before, after = content[:at], content[at:]
    from_ = chance.randrange(len(content))
    return chance.choice(
        (
            lambda: before,
            lambda: before + bytes([after[0] ^ 1 << chance.randrange(8)]) + after[1:],
            lambda: before + (number := _number(chance)) + after[len(number) :],
            lambda: before + after[:16] * chance.choice((2, 20, MAX_COPIES)) + after,
            lambda: before + after[chance.choice((1, 4, 64)) :],
            lambda: before + bytes(chance.randrange(256) for _ in range(chance.choice((1, 4, 64)))) + after,
            lambda: before + content[from_ : from_ + 32] + after[32:],
        )
    )()


def _number(chance: random.Random) -> bytes:
    """Return a length or a size as formats store them."""
    width = chance.choice((1, 2, 4, 8))
    value = chance.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), chance.randrange(2 ** (8 * width))))
    return value.to_bytes(width, chance.choice(("little", "big")))
