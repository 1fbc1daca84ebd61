"""A classifier: a backbone's last map, pooled, and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn.contracts import Backbone


class Classifier(nn.Module):
    """Global average pooling and a linear layer on the deepest map.

    Shape: ``(N, 3, H, W) -> (N, num_classes)`` logits.

    Args:
        backbone: Its last returned map is classified.
        num_classes: Classes to tell apart, at least 1.

    Raises:
        ConfigError: ``num_classes`` is below 1.
    """

    def __init__(self, backbone: Backbone, num_classes: int = 1000) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes is {num_classes}; expected at least 1")
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.fc(self.pool(self.backbone(images)[-1]).flatten(1))
