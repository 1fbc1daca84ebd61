"""XML of label tools, read in bounded memory: the children of the root element, one after the other.

No entity is expanded and nothing outside the file is read.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.parsers import expat

from crossstage.errors import DataError
from crossstage.reading.text import shown, visible

MAX_DEPTH = 50
MAX_ELEMENTS = 100_000  # in a child of the root
MAX_TEXT = 1 << 20  # characters in one element
BLOCK = 1 << 16
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")


@dataclass
class Element:
    """One XML element and the line it begins at."""

    name: str
    line: int
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def child(self, name: str) -> Element | None:
        """Return the first child of a name; None if there is none."""
        return next((child for child in self.children if child.name == name), None)

    def value(self, name: str) -> str | None:
        """Return the text of a child without the space around it; None if there is no such child."""
        child = self.child(name)
        return None if child is None else child.text.strip()


class _Builder:
    """Takes expat's events: children of the root become elements, and are handed out when they are complete."""

    def __init__(self, parser: expat.XMLParserType, most: int) -> None:
        self.parser, self.most = parser, most
        self.done: list[Element] = []
        self.stack: list[Element] = []
        self.words: list[str] = []
        self.length = self.count = self.total = 0
        self.root = ""
        parser.StartElementHandler, parser.EndElementHandler = self.start, self.end
        parser.CharacterDataHandler = self.text
        parser.EntityDeclHandler = self.refuse
        parser.buffer_text = True

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        if not self.root:
            self.root = name
        element = Element(name, self.parser.CurrentLineNumber, attributes)
        self.count = 0 if len(self.stack) <= 1 else self.count + 1
        if len(self.stack) >= MAX_DEPTH:
            raise DataError(f"elements are nested more than {MAX_DEPTH} deep")
        if self.count > MAX_ELEMENTS:
            raise DataError(f"an element of more than {MAX_ELEMENTS:,} elements; expected plain annotations")
        self.total += 1
        if self.total > self.most:
            raise DataError(f"more than {self.most:,} elements; expected plain annotations")
        if len(self.stack) > 1:
            self.stack[-1].children.append(element)
        self.stack.append(element)
        self.words.clear()
        self.length = 0

    def text(self, data: str) -> None:
        """Take a piece of the text of the element that began last."""
        self.length += len(data)
        if self.length > MAX_TEXT:
            raise DataError(f"an element with more than {MAX_TEXT:,} characters; expected plain annotations")
        self.words.append(data)

    def end(self, _: str) -> None:
        """End an element."""
        element = self.stack.pop()
        if not element.children:
            element.text = "".join(self.words)
        self.words.clear()
        self.length = 0
        if len(self.stack) == 1:
            self.done.append(element)

    def refuse(self, *_: object) -> None:
        """Refuse what could grow."""
        raise DataError("declares an entity; expected plain annotations")


def root_name(path: Path) -> str:
    """Return the name of a file's root element; nothing if it is no XML."""
    parser = expat.ParserCreate()
    builder = _Builder(parser, BLOCK)
    try:
        with path.open("rb") as file:
            parser.Parse(_as_parsed(file.read(BLOCK)), False)
    except (DataError, OSError, expat.ExpatError, ValueError, LookupError):
        pass  # the head may be cut in the middle of a letter
    return builder.root


def children(path: Path, max_bytes: int, most: int) -> Iterator[Element]:
    """Yield the children of a file's root element.

    Args:
        path: The file, in any encoding that it declares.
        max_bytes: How long it may be.
        most: How many elements it may have.

    Raises:
        DataError: The file is missing, too large or not well-formed, declares entities, or has an element that is
            larger than labels are; the message is that of the fault.
    """
    parser = expat.ParserCreate()
    builder = _Builder(parser, most)
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"larger than {max_bytes:,} bytes")
        with path.open("rb") as file:
            for block in _blocks(file):
                parser.Parse(block, False)
                yield from builder.done
                builder.done.clear()
            parser.Parse(b"", True)
            yield from builder.done
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"not well-formed XML: {visible(str(error)[:200])}") from None


def _blocks(file: IO[bytes]) -> Iterator[bytes | str]:
    """Yield a file in pieces, decoded where expat does not know its encoding by itself."""
    head = file.read(BLOCK)
    declared = _encoding(head)
    if declared is None:
        yield head
        while block := file.read(BLOCK):
            yield block
        return
    decoder = codecs.getincrementaldecoder(declared)()
    while head:
        yield decoder.decode(head)
        head = file.read(BLOCK)
    yield decoder.decode(b"", True)


def _as_parsed(head: bytes) -> bytes | str:
    declared = _encoding(head)
    return head if declared is None else codecs.getincrementaldecoder(declared)().decode(head)


def _encoding(head: bytes) -> str | None:
    """Return the encoding that a file declares, where it is one of several bytes that expat cannot read.

    Raises:
        LookupError: There is no such encoding of text.
    """
    found = _DECLARED.match(head.lstrip())
    if found is None:
        return None
    name = found[1].decode("ascii")
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # refuses what is no encoding of text, such as hex
    except (LookupError, UnicodeError):
        raise LookupError(f"encoding {shown(name)}; expected one of text, such as UTF-8") from None
    if codec.name in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "ascii", "iso8859-1", "utf-8-sig"):
        return None
    return codec.name
