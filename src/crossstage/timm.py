"""timm's view of our backbones: importing this module registers each as ``crossstage_<name>``.

    import crossstage.timm
    import timm

    model = timm.create_model("crossstage_csppeleenet", features_only=True, out_indices=(1, 2, 3))

Needs the extra ``crossstage[timm]``. Settings of a row, such as ``partial`` and ``act``, are passed on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crossstage.errors import ConfigError, not_installed
from crossstage.models.backbones import BACKBONES, BackboneConfig, StagedBackbone, build_backbone
from crossstage.models.registry import backbone_config

try:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.layers.classifier import ClassifierHead
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models._features import feature_take_indices as take_indices
except ImportError:
    raise not_installed("timm", "timm") from None

PREFIX = "crossstage_"


class TimmBackbone(nn.Module):
    """One of our backbones with timm's head and timm's interface.

    Shape: ``(N, in_chans, H, W) -> (N, num_classes)`` logits.

    Args:
        name: A name of :data:`crossstage.models.backbones.BACKBONES`.
        num_classes: Number of classes of the head; 0 leaves the pooled features.
        in_chans: Number of channels of the input.
        global_pool: Any of timm's poolings; ``""`` leaves the map.
        drop_rate: Probability of dropout before the linear layer; by default the network's own.
        drop_path_rate: Probability that the last residual block is left out in training, see
            :class:`~crossstage.models.backbones.BackboneConfig`.
        **settings: Other values for fields of the network's row.

    Raises:
        ConfigError: A setting is unknown or a value does not fit.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float | None = None,
        drop_path_rate: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__()
        config = replace(backbone_config(name, settings), in_chans=in_chans, drop_path=drop_path_rate)
        count = len(_on_meta(config).stages)
        self.backbone = build_backbone(config, out_indices=range(count))
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.backbone.channels[-1]
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"backbone.stages.{index}"}
            for index, (channels, stride) in enumerate(zip(self.backbone.channels, self.backbone.strides, strict=True))
        ]
        rate = config.dropout if drop_rate is None else drop_rate
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=rate)
        self.grad_checkpointing = False

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:  # noqa: ARG002 (timm's signature)
        """Return patterns that group the parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^backbone\.stem", "blocks": r"^backbone\.stages\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm should not decay beyond norms and biases: none."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether only the stages' inputs are kept for the backward pass, which computes the rest again."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer, and the pooling if one is named."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def _maps(self, x: Tensor, count: int) -> list[Tensor]:
        maps = []
        x = self.backbone.stem(x)
        for index, stage in enumerate(self.backbone.stages[:count]):
            checkpointed = self.grad_checkpointing and self.training
            x = checkpoint(stage, x, use_reentrant=False) if checkpointed else stage(x)  # pyright: ignore[reportAssignmentType]
            read = self.backbone.read_channels[index]
            maps.append(x if read is None else x[:, -read:])
        return maps

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,  # noqa: ARG002 (timm's signature)
        stop_early: bool = False,
        output_fmt: Literal["NCHW"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of the chosen stages, with the last map before them unless ``intermediates_only``.

        Raises:
            ConfigError: Another order than NCHW is asked for.
        """
        if output_fmt != "NCHW":
            raise ConfigError(f"output_fmt is {output_fmt!r}; expected NCHW")
        chosen, last = take_indices(len(self.backbone.stages), indices)
        maps = self._maps(x, last + 1 if stop_early or intermediates_only else len(self.backbone.stages))
        intermediates = [maps[index] for index in chosen]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,  # noqa: ARG002 (timm's signature)
        prune_head: bool = True,
    ) -> list[int]:
        """Leave out what the chosen stages do not need; return their indices, counted from the first."""
        chosen, last = take_indices(len(self.backbone.stages), indices)
        self.backbone.stages = self.backbone.stages[: last + 1]
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map."""
        return self._maps(x, len(self.backbone.stages))[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or the pooled features before them."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.forward_head(self.forward_features(x))


def _on_meta(config: BackboneConfig) -> StagedBackbone:
    with torch.device("meta"):
        return build_backbone(config)


def _default_cfg(name: str) -> dict[str, Any]:
    """Return what a row says; what only the network tells is added when one is created, see :func:`_details`."""
    row = BACKBONES[name]
    return {
        "url": "",
        "num_classes": row.about.classes,
        "input_size": (3, row.size, row.size),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head.fc",
        "license": "apache-2.0",
    }


def _details(config: BackboneConfig, backbone: StagedBackbone) -> dict[str, Any]:
    side = -(-config.size // backbone.strides[-1])  # where sizes are no multiples, such as DSOD's, maps are rounded up
    first_conv = next(f"backbone.{path}" for path, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    return {"pool_size": (side, side), "first_conv": first_conv}


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(
        pretrained: bool = False, pretrained_cfg_overlay: dict[str, Any] | None = None, **kwargs: Any
    ) -> nn.Module:
        plain = _on_meta(BACKBONES[name])
        return build_model_with_cfg(
            TimmBackbone,
            f"{PREFIX}{name}",
            pretrained,
            pretrained_cfg_overlay=_details(BACKBONES[name], plain) | (pretrained_cfg_overlay or {}),
            feature_cfg={"feature_cls": "getter", "out_indices": tuple(range(len(plain.stages)))},
            name=name,
            **kwargs,
        )

    create.__name__ = create.__qualname__ = f"{PREFIX}{name}"
    create.__doc__ = f"{BACKBONES[name].about.summary}."
    return create


default_cfgs = generate_default_cfgs({f"{PREFIX}{name}": _default_cfg(name) for name in BACKBONES})
for _name in BACKBONES:
    setattr(sys.modules[__name__], f"{PREFIX}{_name}", register_model(_entrypoint(_name)))
