"""Arguments of a verb: a thin typed layer over :mod:`argparse`.

Options may be spelled with hyphens or underscores and be shortened as long as they are unambiguous. A flag stands alone
or takes true or false. A list's values stand apart or are joined by commas. Whatever is wrong with them is one
:class:`UsageError`, whose message is a single line that says what may have been meant.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from crossstage import errors
from crossstage.errors import ConfigError, did_you_mean

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

LEAST_SIDE = 16  # pixels; a smaller number after a size is something else

Convert = Callable[[str], Any]


class UsageError(ConfigError):
    """Arguments that do not fit the verb."""


def boolean(word: str) -> bool:
    """Read true or false, yes or no, on or off.

    Raises:
        ArgumentTypeError: The word is none of these.
    """
    if word.lower() not in BOOLEANS:
        raise argparse.ArgumentTypeError(f"is {word!r}; expected true or false")
    return BOOLEANS[word.lower()]


def whole_number(word: str) -> int:
    """Read an integer.

    Raises:
        ArgumentTypeError: The word is none.
    """
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {word!r}; expected a whole number") from None


def number(word: str) -> float:
    """Read a number.

    Raises:
        ArgumentTypeError: The word is none.
    """
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {word!r}; expected a number") from None


def pixels(word: str) -> int | tuple[int, int]:
    """Read one side in pixels, or height and width with a comma between.

    Raises:
        ArgumentTypeError: The word is no such thing.
    """
    parts = word.strip("[]() ").split(",")
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"is {word!r}; expected one side, or height and width")
    sides = [whole_number(part.strip()) for part in parts]
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def one_of(names: Sequence[str]) -> Convert:
    """Return what reads one of some names, and says which may have been meant."""

    def read(word: str) -> str:
        if word not in names:
            raise argparse.ArgumentTypeError(f"is {word!r}; {errors.one_of(word, names)}")
        return word

    return read


_READERS: dict[type, Convert] = {str: str, int: whole_number, float: number, bool: boolean}


class Parser(argparse.ArgumentParser):
    """The parser of one verb.

    Args:
        prog: The command and the verb, as a person types them.
        description: What the verb does, in a sentence.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=_Formatter, allow_abbrev=False, exit_on_error=False
        )
        self._flags: set[str] = set()
        self._sizes: set[str] = set()
        self.choices: dict[str, Sequence[str]] = {}
        """The values that there are of options that have some, for the help and for shells; readers check them."""
        self.declare_unknown: Callable[[str], bool] = lambda _: False
        """Is given the name of an option that is not declared, may declare it, and returns whether it did."""

    def positional(self, name: str, help: str, *, many: bool = False, default: str | None = None) -> None:
        """Declare an argument that stands without a name.

        Args:
            name: Its name for the verb.
            help: What it is, in sentences.
            many: It takes one value or more, which become a list.
            default: What it is if it is left out; without one it is required.
        """
        count = "+" if many else None if default is None else "?"
        self.add_argument(name, nargs=count, default=default, help=_escaped(help))

    def option(
        self,
        name: str,
        help: str,
        kind: type = str,
        default: Any = None,
        *,
        choices: Sequence[str] | None = None,
        required: bool = False,
    ) -> None:
        """Declare an option with one value.

        Args:
            name: Its name, with underscores.
            help: What it is, in sentences.
            kind: Type of the value: str, int or float.
            default: What it is if it is not given; an option whose default is None takes "null" as well.
            choices: The values that there are.
            required: It has to be given.
        """
        convert = one_of(choices) if choices else _READERS[kind]
        convert = convert if required or default is not None else nullable(convert)
        self.declare(name, help, convert, choices=choices, default=default, required=required)

    def declare(
        self, name: str, help: str, convert: Convert, *, choices: Sequence[str] | None = None, **settings: Any
    ) -> None:
        """Declare an option whose words a function of one's own reads.

        Args:
            name: Its name, with underscores.
            help: What it is, in sentences.
            convert: Turns a word into a value, or raises :class:`argparse.ArgumentTypeError`, see :func:`number`.
            choices: The values that there are, for the help.
            **settings: See :meth:`argparse.ArgumentParser.add_argument`.
        """
        if choices:
            self.choices[name] = choices
        shown = f"{{{','.join(choices)}}}" if choices else name.rpartition(".")[2].upper()
        settings = {"dest": name, "metavar": shown, **settings}
        self.add_argument(_spelled(name), type=convert, help=_escaped(help), **settings)

    def flag(self, name: str, help: str, default: Any = False, **settings: Any) -> None:
        """Declare an option that is true if it stands alone, and takes true or false.

        Args:
            name: Its name, with underscores.
            help: What it does, in sentences.
            default: What it is if it is not given.
            **settings: See :meth:`argparse.ArgumentParser.add_argument`.
        """
        self._flags.add(_spelled(name))
        self.declare(name, help, boolean, choices=("true", "false"), default=default, **settings)

    def size(self, name: str, help: str, **settings: Any) -> None:
        """Declare an option for a size in pixels: one side, or height and width, apart or with a comma between.

        Args:
            name: Its name, with underscores.
            help: What it is the size of, in sentences.
            **settings: See :meth:`argparse.ArgumentParser.add_argument`.
        """
        self._sizes.add(_spelled(name))
        self.declare(name, help, nullable(pixels), **settings)

    def several(
        self,
        name: str,
        help: str,
        kind: type = str,
        default: Sequence[Any] | None = None,
        *,
        choices: Sequence[str] | None = None,
        commas: bool = True,
    ) -> None:
        """Declare an option with one value or more, which become a list.

        Args:
            name: Its name, with underscores.
            help: What the values are, in sentences.
            kind: Type of each: str, int or float.
            default: What they are if none is given.
            choices: The values that there are.
            commas: They may be joined by commas; not so for the names of files, which may hold some.
        """
        convert = one_of(choices) if choices else _READERS[kind]
        self.declare(
            name,
            help,
            (lambda word: [convert(part) for part in word.split(",")]) if commas else lambda word: [convert(word)],
            choices=choices,
            nargs="+",
            action=_Joined,
            default=None if default is None else list(default),
        )

    def options(self) -> dict[str, argparse.Action]:
        """Return what is declared: options by ``--`` and their names with underscores, other arguments by theirs."""
        return {f"--{action.dest}" if action.option_strings else action.dest: action for action in self._actions}

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the values of a verb's arguments.

        Raises:
            UsageError: They do not fit; the message is one line.
        """
        words = self._spelled_out(words)
        try:
            given, rest = self.parse_known_args(words)
        except argparse.ArgumentError as error:
            self.error(_sentence(error))
        if rest:
            self.error(f"{rest[0]!r} is one argument too many")
        return given

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, with how the verb is used."""
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            message = f"{missing} {'are' if ',' in missing else 'is'} missing"
        raise UsageError(f"{message}; usage: {self.short_usage()}")

    def short_usage(self) -> str:
        """Return the command with what it needs."""
        needed = [action for action in self._actions if action.required]
        words = [f"{''.join(each.option_strings[:1])} {each.dest.upper()}".strip() for each in needed]
        return " ".join([self.prog, *words, "[options]"])

    def _spelled_out(self, words: Sequence[str]) -> list[str]:
        """Return the words with options as they are declared, and a value for each flag."""
        result: list[str] = []
        plain = iter(range(len(words)))
        for index in plain:
            word = words[index]
            if word == "--":
                return [*result, *words[index:]]
            if not _is_option(word):
                result.append(word)
                continue
            name, equals, value = word.partition("=")
            name = self._declared(name)
            if name in self._flags and not equals:
                following = words[index + 1] if index + 1 < len(words) else ""
                value = following if following.lower() in BOOLEANS else "true"
                if following.lower() in BOOLEANS:
                    next(plain)
                equals = "="
            elif name in self._sizes and not equals and _are_sides(words[index + 1 : index + 3]):
                equals, value = "=", f"{words[next(plain)]},{words[next(plain)]}"
            result.append(f"{name}{equals}{value}")
        return result

    def _declared(self, name: str) -> str:
        """Return the declared name of an option as it was typed."""
        name = "--out" if name == "-o" else name
        known = [option for action in self._actions for option in action.option_strings]
        plain = _spelled(name[2:]) if name.startswith("--") else name
        if plain in known:
            return plain
        begun = [option for option in known if option.startswith(plain)] if plain.startswith("--") else []
        if len(begun) == 1:
            return begun[0]
        if self.declare_unknown(plain.removeprefix("--").replace("-", "_")):
            return plain
        close = f"; did you mean {' or '.join(begun)}?" if begun else did_you_mean(plain, known)
        raise UsageError(f"option {name} is unknown{close}; usage: {self.short_usage()}")


class _Formatter(argparse.HelpFormatter):
    """Help with the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or not action.option_strings or action.nargs == 0:
            return text
        default = action.default
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{text} (default: {_escaped(shown.lower() if default is True else shown)})"


class _Joined(argparse.Action):
    """Keep the values of lists in one list."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: Any = None) -> None:
        setattr(namespace, self.dest, [value for part in values for value in part])


def _spelled(name: str) -> str:
    """Return an option as help and messages show it: with hyphens."""
    return f"--{name.replace('_', '-')}"


def nullable(convert: Convert) -> Convert:
    """Return what reads "null" as None, and all else as before."""
    return lambda word: None if word == "null" else convert(word)


def _is_option(word: str) -> bool:
    """Tell whether a word is an option's name, and no number below 0 and no lone hyphen."""
    return word.startswith("-") and len(word) > 1 and not word[1].isdigit() and word[1] != "."


def _are_sides(words: Sequence[str]) -> bool:
    """Tell whether two words are height and width, and the second no camera's number."""
    return len(words) == 2 and all(word.isdigit() and int(word) >= LEAST_SIDE for word in words)


def _escaped(text: str) -> str:
    """Return help in which argparse replaces nothing."""
    return text.replace("%", "%%")


def _sentence(error: argparse.ArgumentError) -> str:
    """Return what is wrong with one argument."""
    message = str(error.message)
    if message.startswith("expected"):
        message = "has no value"
    return f"{error.argument_name} {message}" if error.argument_name else message
