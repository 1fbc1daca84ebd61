"""The one parser of what names a model: for ``load``, ``create_model``, ``resolve``, trainings and the command line.

A text or path becomes a :class:`Ref`, its kind and its parts; nothing is loaded, fetched or run for that. In order:

===============================  =============================================================================
``timm:resnet50.a1_in1k``        weights of another library, in the network of ours that is the same
``timm-network:resnet50``        the other library's own network
``path/to/file.py:function``     a function or class of the user's, which gives a network
``net.cfg``                      a Darknet network
``model.safetensors``            a model file
``darknet53``, ``vovnet39_efm``  a model of ours, ``<backbone>_<neck>[_<head>]`` among them
``darknet53.tag``                weights of it, in the package or to be downloaded
``yolox:tiny``                   ``yolox_tiny``, as other libraries spell a family and a size
``runs/mine``                    the folder of a training, an exported file or folder, or another file
===============================  =============================================================================

So a name comes before a file of the same name in the current folder, which is ``./darknet53``; a ``Path`` that is there
is always a path.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossstage.errors import ConfigError, did_you_mean
from crossstage.models.backbones import BACKBONES
from crossstage.models.heads import HEADS
from crossstage.models.necks import NECKS
from crossstage.models.registry import REGISTRY, lookup
from crossstage.weights.peers import LIBRARIES, PEERS
from crossstage.weights.published import PRETRAINED, weights_of

Kind = Literal["model", "weights", "file", "run", "cfg", "peer", "peer-network", "function", "exported"]

_PEERS = " or ".join(f"{library}:<name>" for library in LIBRARIES)
_NETWORKS = " or ".join(f"{library}-network:<name>" for library in LIBRARIES)
KINDS: dict[Kind, str] = {
    "model": "a model's name",
    "weights": "weights (<model>.<tag>)",
    "file": "a model file",
    "run": "the folder of a training",
    "cfg": "a Darknet .cfg",
    "peer": f"weights of another library ({_PEERS})",
    "peer-network": f"another library's own network ({_NETWORKS})",
    "function": "a function of your own (path/to/file.py:function)",
    "exported": "an exported file",
}
"""What a reference can be, in the words of messages."""

NAMED: tuple[Kind, ...] = ("model", "weights")
"""Kinds that name something of ours."""

TRAINED: tuple[Kind, ...] = ("weights", "file", "run", "peer")
"""Kinds that have weights which a model of ours takes."""

NETWORKS: tuple[Kind, ...] = ("model", *TRAINED, "cfg", "peer-network", "function")
"""Kinds that give a network, with or without weights."""

_NETWORK = "-network"
_LONGEST = 250  # characters of a name; systems refuse longer ones of files


@dataclass(frozen=True)
class Ref:
    """What a text or path refers to.

    Attributes:
        text: The text, as it was given.
        kind: What it refers to; one of ``KINDS``.
        name: The model's name for "model" and "weights", the network's for "peer" and "peer-network", the function's
            for "function"; else empty.
        tag: The tag of the weights, empty if there is none.
        library: The other library's name for "peer" and "peer-network"; else empty.
        path: The file or folder; None for names.
    """

    text: str
    kind: Kind
    name: str = ""
    tag: str = ""
    library: str = ""
    path: Path | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def tagged(self) -> str:
        """The name with its tag."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    @property
    def peer(self) -> str:
        """A network of another library as :data:`~crossstage.weights.peers.PEERS` spells it, without a tag."""
        return f"{self.library}:{self.name}"

    @property
    def file(self) -> Path:
        """The path of a reference whose kind has one."""
        assert self.path is not None, f"{self.text} has no path"
        return self.path

    @property
    def stem(self) -> str:
        """A short name, without separators, for files that are made of it."""
        if self.path is None:
            return f"{self.library}_{self.tagged}" if self.library else self.tagged
        if self.kind == "function":
            return self.name
        path = self.path.resolve()
        return path.stem if self.kind in ("file", "cfg") else path.name


def parse(
    text: str | Path | Ref,
    accepted: Collection[Kind] = tuple(KINDS),
    is_exported: Callable[[Path], bool] = lambda _: False,
) -> Ref:
    """Find out what a text or path refers to.

    Args:
        text: What a user wrote; a ``Ref`` is only checked.
        accepted: The kinds that the caller can use.
        is_exported: Recognises exported files, and folders that hold one, by which the caller tells them from model
            files and trainings; by default nothing is "exported".

    Raises:
        ConfigError: It refers to nothing, or to something of another kind; the message says what was expected.

    Example:
        >>> ref = parse("timm:cspresnet50.ra_in1k")
        >>> ref.kind, ref.library, ref.name, ref.tag
        ('peer', 'timm', 'cspresnet50', 'ra_in1k')
    """
    ref = text if isinstance(text, Ref) else _parsed(text, is_exported)
    if ref.kind not in accepted:
        expected = [KINDS[kind] for kind in KINDS if kind in accepted]
        raise ConfigError(f"{ref} is {KINDS[ref.kind]}; expected {_listed(expected)}{_other_spelling(ref, accepted)}")
    return ref


def check_twin(ref: Ref) -> None:
    """Refuse weights of another library that no network of ours takes.

    Raises:
        ConfigError: The reference is a "peer" without a twin; the message names the spelling of its own network.
    """
    if ref.kind != "peer" or ref.peer in PEERS:
        return
    hint = did_you_mean(ref.peer, PEERS) or "; crossstage.weights.peers.peers() lists those that have"
    own = f"{ref.library}'s own network is spelled {ref.library}{_NETWORK}:{ref.tagged}"
    raise ConfigError(f"{ref.text!r} has no twin here, no network of ours that takes its weights; {own}{hint}")


def _parsed(text: str | Path, is_exported: Callable[[Path], bool]) -> Ref:
    name = str(text)
    if not name.strip() or max(map(len, Path(name).parts), default=0) > _LONGEST:
        raise ConfigError(f"{name[:60]!r} names no model; expected {_listed(list(KINDS.values()))}")
    if isinstance(text, Path) and text.exists():
        return _file(name) or _path(name, is_exported)
    return _peer(name) or _file(name) or _ours(name) or _path(name, is_exported)


def _peer(text: str) -> Ref | None:
    library, colon, rest = text.partition(":")
    kind: Kind = "peer-network" if library.endswith(_NETWORK) else "peer"
    library = library.removesuffix(_NETWORK)
    if not colon or library not in LIBRARIES:
        return None
    name, _, tag = rest.partition(".")
    if not name:
        raise ConfigError(f"{text!r}: expected the name of a network, such as {next(iter(PEERS))}")
    return Ref(text, kind, name, tag, library)


def _file(text: str) -> Ref | None:
    """Recognise what is a file by its suffix, whether it is there or not."""
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return Ref(text, "function", function, path=Path(file))
    suffix = Path(text).suffix
    if suffix == ".py":
        raise ConfigError(f"{text}: expected the name of a function too, as in {text}:build")
    kinds: dict[str, Kind] = {".cfg": "cfg", ".safetensors": "file"}
    return Ref(text, kinds[suffix], path=Path(text)) if suffix in kinds else None


def _ours(text: str) -> Ref | None:
    spelled = text.replace(":", "_", 1)
    name, _, tag = spelled.partition(".")
    if spelled in PRETRAINED:
        return Ref(text, "weights", name, tag)
    return Ref(text, "model", spelled) if lookup(spelled) else None


def _path(text: str, is_exported: Callable[[Path], bool]) -> Ref:
    path = Path(text)
    if is_exported(path):
        return Ref(text, "exported", path=path)
    if path.exists():
        return Ref(text, "run" if path.is_dir() else "file", path=path)
    raise ConfigError(_unknown(text))


def _unknown(text: str) -> str:
    name, dot, tag = text.partition(".")
    if dot and lookup(name):
        there = weights_of(name)
        expected = f"expected one of {', '.join(there)}" if there else "there are none of it yet"
        elsewhere = [f"{library}:{text}" for library in LIBRARIES if f"{library}:{name}" in PEERS]
        return f"{name} has no weights {tag!r}; {expected}{did_you_mean(text, [*there, *elsewhere])}"
    if "/" in text or "\\" in text:
        return f"{text}: no such file or folder"
    missing = " and there is no such file" if dot else ""
    return f"model {text!r} is unknown{missing}{_suggestions(text) or '; `crossstage models` lists what there is'}"


def _suggestions(text: str) -> str:
    spelled = text.lower().replace("-", "_")
    known = [*REGISTRY, *PRETRAINED, *(f"{backbone}_{part}" for backbone in BACKBONES for part in _parts())]
    if ":" in text:
        known = [
            *PEERS,
            *(f"{library}{_NETWORK}:{network}" for library, network in (peer.split(":") for peer in PEERS)),
        ]
        spelled = text.lower()
    return did_you_mean(spelled, dict.fromkeys(known))


def _parts() -> Iterable[str]:
    return [*NECKS, *(f"{neck}_{head}" for neck in NECKS for head in HEADS)]


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _other_spelling(ref: Ref, accepted: Collection[Kind]) -> str:
    """Return the end of a message that names the spelling of weights for a network, or the other way round."""
    if ref.kind == "peer-network" and "peer" in accepted and ref.peer in PEERS:
        return f"; its weights in our network are {ref.library}:{ref.tagged}"
    if ref.kind == "peer" and "peer-network" in accepted:
        return f"; {ref.library}'s own network is {ref.library}{_NETWORK}:{ref.tagged}"
    return ""
