"""Our backbones in timm: what timm's own tests ask of a model."""

import pytest
import torch

from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES
from crossstage.nn import Partial
from tests.sweep import kind_of_model, sweep

timm = pytest.importorskip("timm", reason="needs the extra crossstage[timm]")
pytest.importorskip("crossstage.timm")  # registers

NAMES = [f"crossstage_{name}" for name in BACKBONES]
FAMILIES = [
    "crossstage_cspdarknet53_tiny",
    "crossstage_cspdensenet121",
    "crossstage_cspmobilenetv2",
    "crossstage_csppeleenet",
    "crossstage_cspresnext50",
    "crossstage_cspvovnet39",
    "crossstage_vovnet19_slim_dw_v2",
]


def small(model: torch.nn.Module) -> torch.Tensor:
    channels, height, width = model.default_cfg["input_size"]
    return torch.randn(1, channels, min(height, 128), min(width, 128))


def test_every_backbone_is_registered_with_its_cfg():
    assert set(NAMES) <= set(timm.list_models("crossstage_*"))
    assert len(timm.list_models("crossstage_*")) == len(BACKBONES)
    cfg = timm.get_pretrained_cfg("crossstage_cspresnet50")
    assert cfg.input_size == (3, 256, 256) and cfg.classifier == "head.fc"
    assert timm.create_model("crossstage_cspresnet10").pretrained_cfg["pool_size"] == (8, 8)


@pytest.mark.parametrize("name", sweep(NAMES, lambda name: kind_of_model(name.removeprefix("crossstage_"))))
def test_names_in_the_cfg_are_those_of_the_model(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        features = model.forward_features(torch.empty(1, *model.default_cfg["input_size"]))
    state, cfg = model.state_dict(), model.default_cfg
    assert f"{cfg['classifier']}.weight" in state and f"{cfg['first_conv']}.weight" in state
    assert state[f"{cfg['first_conv']}.weight"].shape[1] in (3, 12)  # 12 where 2 x 2 pixels are laid side by side
    assert features.shape[-2:] == cfg["pool_size"]


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_and_poolings(name):
    model = timm.create_model(name).eval()
    x = small(model)
    with torch.no_grad():
        assert model(x).shape == (1, 1000) and not model(x).isnan().any()
        model.reset_classifier(0)
        assert model(x).shape == (1, model.num_features)
        model.reset_classifier(0, "")
        assert model(x).shape == model.forward_features(x).shape
        model.reset_classifier(7, "avgmax")
        assert model(x).shape == (1, 7) and model.num_classes == 7
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (1, model.num_features)
    assert model.get_classifier().out_features == 7


@pytest.mark.parametrize("checkpointing", sweep([True, False], lambda _: "both"))
@pytest.mark.parametrize("name", FAMILIES)
def test_backward_reaches_every_parameter(name, checkpointing):
    model = timm.create_model(name, num_classes=42).train()
    model.set_grad_checkpointing(checkpointing)
    output = model(small(model).repeat(2, 1, 1, 1))
    output.mean().backward()
    assert output.shape == (2, 42) and not output.isnan().any()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_features_only(name):
    model = timm.create_model(name, features_only=True).eval()
    x = small(model)
    with torch.no_grad():
        maps = model(x)
    assert [m.shape[1] for m in maps] == model.feature_info.channels() and len(maps) >= 4
    assert [x.shape[-1] // m.shape[-1] for m in maps] == model.feature_info.reduction()
    chosen = timm.create_model(name, features_only=True, out_indices=(1, 2)).eval()
    assert [m.shape[1] for m in chosen(x)] == model.feature_info.channels()[1:3]
    assert len(chosen.model.backbone.stages) == 3
    with torch.no_grad():
        whole = timm.create_model(name).eval()
        last, between = whole.forward_intermediates(x, indices=[0, 2])
        torch.testing.assert_close(last, whole.forward_features(x))
        assert [m.shape[1] for m in between] == [model.feature_info.channels()[i] for i in (0, 2)]


@pytest.mark.parametrize("name", sweep(FAMILIES, bool))
def test_export(name):
    model = timm.create_model(name).eval()
    x = small(model)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x))


def test_settings_reach_the_row():
    model = timm.create_model(
        "crossstage_peleenet", in_chans=1, partial=Partial(0.25), act="mish", drop_rate=0.3, num_classes=0
    )
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, model.num_features)
    assert model.head.drop.p == 0.3 and any(isinstance(m, torch.nn.Mish) for m in model.modules())
    assert timm.create_model("crossstage_resnet18", drop_path_rate=0.1).backbone.config.drop_path == 0.1
    with pytest.raises(ConfigError, match="has no setting 'patch'"):
        timm.create_model("crossstage_peleenet", patch=3)
    with pytest.raises(ConfigError, match="expected NCHW"):
        model.forward_intermediates(torch.randn(2, 1, 64, 64), output_fmt="NHWC")


def test_layers_group_by_depth_and_optimisers_build():
    from timm.optim import create_optimizer_v2

    model = timm.create_model("crossstage_csppeleenet", num_classes=3)
    optimiser = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.7)
    assert len({group["lr_scale"] for group in optimiser.param_groups}) == 6


def test_there_are_no_weights_to_fetch_yet():
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("crossstage_csppeleenet", pretrained=True)
