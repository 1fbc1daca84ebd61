"""A classifier: a backbone's last map, pooled, and one linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Backbone
from crossstage.structures import Preprocessing

if TYPE_CHECKING:
    from crossstage.inference.classify import Classification


class Classifier(nn.Module):
    """Global average pooling and a linear layer on the deepest map.

    Shape: ``(N, C, H, W) -> (N, num_classes)`` logits.

    Args:
        backbone: Its last returned map is classified.
        num_classes: Classes to tell apart, at least 1.
        dropout: Probability that a pooled feature is zeroed in training.
        preprocessing: How images become input; None if nobody knows, as before training.
        class_names: Names by class id; empty if they have none.

    Raises:
        ConfigError: ``num_classes`` is below 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 1000,
        *,
        dropout: float = 0.0,
        preprocessing: Preprocessing | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.preprocessing = preprocessing
        self.class_names = tuple(class_names)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = self._linear(num_classes)

    def _linear(self, num_classes: int) -> nn.Linear:
        if num_classes < 1:
            raise ConfigError(f"num_classes is {num_classes}; expected at least 1")
        layer = nn.Linear(self.backbone.channels[-1], num_classes)
        nn.init.normal_(layer.weight, std=0.01)  # MobileNetV2, PeleeNet, timm; Darknet and VoVNet scale by the fan in
        nn.init.zeros_(layer.bias)
        return layer

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the linear layer by a new one for other classes.

        Raises:
            ConfigError: ``num_classes`` is below 1.
        """
        self.fc = self._linear(num_classes).to(self.fc.weight)
        self.class_names = ()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.fc(self.dropout(self.pool(self.backbone(images)[-1]).flatten(1)))

    @property
    def size_divisor(self) -> int:
        """The number that sides of an input of varying size are padded to multiples of: the backbone's last stride."""
        return self.backbone.strides[-1]

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """Tell which rows of which tensors belong to a class; see :meth:`~crossstage.models.heads.Head.class_rows`."""
        rows = [[class_id] for class_id in range(num_classes)]
        return {"fc.weight": rows, "fc.bias": rows}

    def predict(self, source: Any, *, imgsz: int | None = None, top: int = 5) -> Iterator[Classification]:
        """Classify images, one at a time.

        Args:
            source: See :meth:`crossstage.Detector.predict`.
            imgsz: Side of the input in pixels; None takes the size the model was trained at.
            top: How many classes to tell of each image.

        Yields:
            The likeliest classes of each image that can be read.

        Raises:
            DataError: Nothing was found at ``source``.
            ConfigError: The model has no preprocessing, as before training.
        """
        from crossstage.inference.classify import Classification, ClassPredictor

        predictor = ClassPredictor(self, imgsz=imgsz, top=top)
        return (entry for entry in predictor.predict(source) if isinstance(entry, Classification))
