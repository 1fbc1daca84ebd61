"""Networks of ours with the weights of other libraries."""

from __future__ import annotations

from dataclasses import replace

from crossstage.errors import ConfigError, WeightsError, did_you_mean
from crossstage.models.registry import Model, default_spec, find
from crossstage.models.spec import ModelSpec
from crossstage.structures import Preprocessing
from crossstage.weights.peers import LIBRARIES, PEERS
from crossstage.weights.peers.base import State
from crossstage.weights.peers.filling import fill
from crossstage.weights.ref import Ref, check_twin


def from_peer(
    name: str, state: State, *, num_classes: int | None = None, preprocessing: Preprocessing | None = None
) -> Model:
    """Build our network of a peer's name and fill it with the peer's tensors.

    Args:
        name: One of :func:`~crossstage.weights.peers.peers`, such as ``"timm:cspresnet50"``.
        state: The peer's state dict.
        num_classes: Number of classes of the state dict; by default read off its tensors.
        preprocessing: How the peer prepared images; None takes what its networks are known for.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: The tensors are not those of this network.
    """
    return _filled(name, state, num_classes, preprocessing)[0]


def load_peer(ref: Ref) -> tuple[Model, ModelSpec]:
    """Fetch a peer's trained weights and load them into our network.

    Args:
        ref: A reference of kind "peer", such as ``timm:cspresnet50.ra_in1k`` or
            ``torchvision:resnet50.IMAGENET1K_V2``.

    Returns:
        The model in evaluation mode, and what rebuilds it.

    Raises:
        ConfigError: The network has no twin here, the tag is unknown, or the library is not installed.
        WeightsError: The weights cannot be fetched or do not fit.
    """
    check_twin(ref)
    try:
        state, preprocessing = LIBRARIES[ref.library].fetch(ref.name, ref.tag)
    except (OSError, RuntimeError) as error:  # no network, no such file, a damaged download
        raise WeightsError(f"{ref}: its weights cannot be fetched: {error}") from error
    released = PEERS[ref.peer].released
    return _filled(ref.peer, released(state) if released else state, None, preprocessing)


def _filled(
    name: str, state: State, num_classes: int | None, preprocessing: Preprocessing | None
) -> tuple[Model, ModelSpec]:
    if name not in PEERS:
        hint = did_you_mean(name, PEERS) or "; crossstage.weights.peers.peers() lists those that have"
        raise ConfigError(f"{name!r} has no twin here{hint}")
    twin = PEERS[name]
    adapted = twin.adapt(state, name)
    classes = num_classes or twin.count_classes(adapted)
    if not classes:
        raise WeightsError(f"{name}: no layer among the tensors that tells the number of classes")
    names = twin.class_names if len(twin.class_names) == classes else None
    spec = default_spec(twin.model, classes, names, twin.settings)
    spec = replace(spec, preprocessing=preprocessing or twin.preprocessing)
    model = find(twin.model).build(spec).eval()
    fill(model, adapted, name)
    return model, spec
