"""A detector straight from Darknet's files, for networks that have no native twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from crossstage.darknet.loading import load
from crossstage.darknet.names import read_names
from crossstage.darknet.network import DarknetNetwork
from crossstage.errors import ConfigError
from crossstage.models.detector import Detector
from crossstage.structures import Preprocessing


class DarknetDetector(Detector):
    """A Darknet network that predicts as native detectors do.

    Args:
        network: A network whose output layers hold boxes.
        class_names: Names by class id; None names them "0", "1", ...

    Raises:
        ConfigError: The network has no box output, the number of names is not its number of classes, or it reads
            neither colours nor grey.
    """

    def __init__(self, network: DarknetNetwork, class_names: Sequence[str] | None = None) -> None:
        classes = network.num_classes
        names = [str(index) for index in range(classes)] if class_names is None else class_names
        if len(names) != classes:
            raise ConfigError(f"{len(names)} class names for a network with {classes} classes")
        channels, height, width = network.input_shape
        if channels not in (1, 3):
            raise ConfigError(f"channels={channels} in [net]; expected 3, or 1 for grey, to find objects in images")
        preprocessing = Preprocessing(
            (height, width),
            "letterbox" if network.letter_box else "stretch",
            colour_order="grey" if channels == 1 else "rgb",
        )
        super().__init__(names, preprocessing, network.max_stride)
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the raw tensors in file order, see :meth:`crossstage.darknet.DarknetNetwork.forward`."""
        return {f"output{number}": tensor for number, tensor in enumerate(self.network(images))}

    def decode(self, raw: Mapping[str, Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Turn raw tensors into boxes and scores, see :meth:`Detector.decode`."""
        return self.network.decode(list(raw.values()), image_size)


def load_darknet_detector(
    cfg: str | Path, weights: str | Path | None = None, names: str | Path | None = None
) -> DarknetDetector:
    """Load a detector from Darknet's files.

    Args:
        cfg: The ``.cfg`` file.
        weights: The ``.weights`` file; by default the one beside the cfg with its name.
        names: Text file with a class name in each line; by default the one beside the cfg with its name and ``.names``,
            if there is one.

    Returns:
        The detector in evaluation mode.

    Raises:
        ConfigError: The cfg cannot be read, or its network cannot be built or holds no boxes.
        WeightsError: A file cannot be read, or the weights do not fit.
    """
    cfg = Path(cfg)
    network = load(cfg, weights or cfg.with_suffix(".weights"), whole=True)
    beside = cfg.with_suffix(".names")
    names = names or (beside if beside.is_file() else None)
    return DarknetDetector(network, read_names(names) if names else None).eval()
