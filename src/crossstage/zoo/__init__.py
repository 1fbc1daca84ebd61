"""The zoo: every model by name, its card, and its weights."""

from crossstage.zoo.darknet_detector import DarknetDetector, load_darknet_detector
from crossstage.zoo.from_darknet import convert_darknet, load_darknet
from crossstage.zoo.loading import create_model, load, load_detector
from crossstage.zoo.peers import from_detectron2, from_peer, peers
from crossstage.zoo.pretrained import PRETRAINED
from crossstage.zoo.registry import ModelCard, backbone_config, list_models, model_info
from crossstage.zoo.spec import ModelSpec, Provenance

__all__ = [
    "PRETRAINED",
    "DarknetDetector",
    "ModelCard",
    "ModelSpec",
    "Provenance",
    "backbone_config",
    "convert_darknet",
    "create_model",
    "from_detectron2",
    "from_peer",
    "list_models",
    "load",
    "load_darknet",
    "load_darknet_detector",
    "load_detector",
    "model_info",
    "peers",
]
