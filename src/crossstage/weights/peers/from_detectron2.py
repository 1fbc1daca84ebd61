"""Checkpoints of VoVNetV2 from its authors' detectron2 code (youngwanLEE/vovnet-detectron2), in our networks."""

from __future__ import annotations

from crossstage.models.classifier import Classifier
from crossstage.models.registry import default_spec, find
from crossstage.weights.peers.base import State
from crossstage.weights.peers.filling import fill
from crossstage.weights.peers.renaming import Rules, rename

_PREFIX = "backbone.bottom_up."
_OSA = r"stage(\d+)\.OSA\d+_(\d+)\."
DETECTRON2: Rules = (
    (r"stem\.stem_(\d+)/conv\.", "backbone.stem.{0:-1}.conv."),
    (r"stem\.stem_(\d+)/norm\.", "backbone.stem.{0:-1}.bn."),
    (r"stem\.stem_(\d+)/dw_conv3x3\.", "backbone.stem.{0:-1}.depthwise."),
    (r"stem\.stem_(\d+)/pw_conv1x1\.", "backbone.stem.{0:-1}.conv."),
    (r"stem\.stem_(\d+)/pw_norm\.", "backbone.stem.{0:-1}.bn."),
    (_OSA + r"conv_reduction\.\w+/conv\.", "backbone.stages.{0:-2}.1.{1:-1}.reduce.conv."),
    (_OSA + r"conv_reduction\.\w+/norm\.", "backbone.stages.{0:-2}.1.{1:-1}.reduce.bn."),
    (_OSA + r"layers\.(\d+)\.\w+/conv\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.conv."),
    (_OSA + r"layers\.(\d+)\.\w+/norm\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.bn."),
    (_OSA + r"layers\.(\d+)\.\w+/dw_conv3x3\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.depthwise."),
    (_OSA + r"layers\.(\d+)\.\w+/pw_conv1x1\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.conv."),
    (_OSA + r"layers\.(\d+)\.\w+/pw_norm\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.bn."),
    (_OSA + r"concat\.\w+/conv\.", "backbone.stages.{0:-2}.1.{1:-1}.aggregate.conv."),
    (_OSA + r"concat\.\w+/norm\.", "backbone.stages.{0:-2}.1.{1:-1}.aggregate.bn."),
    (_OSA + r"ese\.", "backbone.stages.{0:-2}.1.{1:-1}.attention."),
)


def from_detectron2(name: str, state: State) -> Classifier:
    """Fill a VoVNetV2 with a checkpoint whose classifier is gone.

    Args:
        name: Our name of the network, such as ``"vovnet39_v2"``: eSE in every module.
        state: The tensors, such as ``torch.load(file, weights_only=True)``. If some begin with
            ``backbone.bottom_up.``, these are taken and the others ignored. Frozen norms have no count of batches.

    Returns:
        A classifier in evaluation mode whose linear layer is as initialised.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: The tensors are not those of this network.
    """
    if any(key.startswith(_PREFIX) for key in state):
        state = {key.removeprefix(_PREFIX): tensor for key, tensor in state.items() if key.startswith(_PREFIX)}
    model = find(name).build(default_spec(name, 1000)).eval()
    assert isinstance(model, Classifier)
    fill(model, rename(state, DETECTRON2, name), name, spared=("fc.weight", "fc.bias"))
    return model
