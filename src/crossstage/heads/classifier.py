"""A classifier: a backbone's last map, pooled, and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.inference.model import Preprocessing
from crossstage.nn.contracts import Backbone


class Classifier(nn.Module):
    """Global average pooling and a linear layer on the deepest map.

    Shape: ``(N, C, H, W) -> (N, num_classes)`` logits.

    Args:
        backbone: Its last returned map is classified.
        num_classes: Classes to tell apart, at least 1.
        dropout: Probability that a pooled feature is zeroed in training.
        preprocessing: How pictures become input; None if nobody knows, as before training.

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
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.preprocessing = preprocessing
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

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.fc(self.dropout(self.pool(self.backbone(images)[-1]).flatten(1)))
