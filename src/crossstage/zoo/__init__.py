"""The zoo: every model by name, its card, and its weights."""

from crossstage.zoo.darknet_detector import DarknetDetector, load_darknet_detector
from crossstage.zoo.files import pack
from crossstage.zoo.from_darknet import convert_darknet, load_darknet
from crossstage.zoo.loading import create_detector, create_model, load, load_detector, load_on
from crossstage.zoo.peers import from_detectron2, from_peer, peers
from crossstage.zoo.pretrained import PRETRAINED
from crossstage.zoo.profiling import profile
from crossstage.zoo.registry import ModelCard, backbone_config, list_models, model_info
from crossstage.zoo.resolving import Resolved, resolve
from crossstage.zoo.spec import ModelSpec, Provenance
from crossstage.zoo.starting import Started, start_model
from crossstage.zoo.transfer import Transfer

__all__ = [
    "PRETRAINED",
    "DarknetDetector",
    "ModelCard",
    "ModelSpec",
    "Provenance",
    "Resolved",
    "Started",
    "Transfer",
    "backbone_config",
    "convert_darknet",
    "create_detector",
    "create_model",
    "from_detectron2",
    "from_peer",
    "list_models",
    "load",
    "load_darknet",
    "load_darknet_detector",
    "load_detector",
    "load_on",
    "model_info",
    "pack",
    "peers",
    "profile",
    "resolve",
    "start_model",
]
