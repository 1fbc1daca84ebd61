"""Networks with the habits that users have: converted and trainable, or refused in one line."""

import warnings

import pytest
import torch
from torch import nn

from crossstage import Partial, to_partial
from crossstage.csp import Trace, carry_out, make_plan, origin_of, write_source
from crossstage.csp.stages import find_stages
from crossstage.errors import ConfigError
from crossstage.nn import Copy, CrossStage
from research.soak import blocks, networks
from research.soak.conversions import NETWORKS, try_network
from research.soak.networks import Net
from tests.csp.test_source import opened

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EXAMPLE = torch.empty(1, 3, 32, 32, device="meta")


def outcome(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return try_network("a test", make, 32)


@pytest.mark.parametrize(
    "kinds",
    [
        ("SplitSizes", "SplitWidth", "Sliced"),
        ("Chunked", "Selective", "LayerScale"),
        ("ChannelsLast", "Shuffled", "Multiplied"),
        ("Gated", "Ghost", "DropPath"),
        ("Preactivated", "Preactivated"),
        ("ScaledInput", "ScaledInput"),
    ],
    ids="-".join,
)
def test_blocks_of_every_kind_are_converted_and_train(kinds):
    found = outcome(lambda: Net(*(getattr(blocks, kind) for kind in kinds), width=16))
    assert found.kind == "converted" and f"{len(kinds)} stages" in found.why, found.why
    assert "does not train" not in found.why


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_networks_of_every_kind_are_converted_or_refused(name):
    found = outcome(networks.NETWORKS[name])
    assert found.kind == ("refused" if name in ("Computed", "Listed", "Mixed") else "converted"), found.why


@pytest.mark.parametrize(
    ("kind", "why"),
    [("Listed", "list"), ("Mixed", "einsum is not an operation"), ("Computed", "channels are parted into")],
)
def test_what_cannot_be_narrowed_is_refused_in_one_line(kind, why):
    with pytest.raises(ConfigError, match=why) as error:
        to_partial(Net(getattr(blocks, kind)), example_input=EXAMPLE)
    assert "\n" not in str(error.value)


def test_outputs_keep_their_form():
    for form in (lambda *maps: [*maps], lambda *maps: {"a": maps}, networks.Maps, lambda _, coarse: [coarse]):
        plain = networks.Giving(form)
        converted, report = to_partial(plain, example_input=EXAMPLE)
        assert len(report.stages) == 2
        before, after = plain(IMAGES), converted(IMAGES)
        assert type(after) is type(before) and torch.utils._pytree.tree_map(lambda map: map.shape, before) == (
            torch.utils._pytree.tree_map(lambda map: map.shape, after)
        )


@pytest.mark.parametrize("kind", [networks.Supervised, networks.Watched])
def test_a_map_that_training_alone_reads_stays(kind):
    plain = kind()
    assert [stage.name for stage in find_stages(Trace(plain, EXAMPLE))][:2] == ["stage1.0", "stage1.1..2"]
    converted, _ = to_partial(plain, example_input=EXAMPLE)
    for mode in (True, False):
        found = [model.train(mode)(IMAGES) for model in (plain, converted)]
        assert isinstance(found[0], tuple) == isinstance(found[1], tuple) == mode


def test_what_writes_into_its_input_reads_a_copy():
    converted, _ = to_partial(networks.NETWORKS["Preactivated"](), Partial(split="project"), example_input=EXAMPLE)
    stages = [module for module in converted.modules() if isinstance(module, CrossStage)]
    assert all(any(isinstance(layer, Copy) for layer in stage.split.processed) for stage in stages)
    converted, _ = to_partial(Net(), example_input=EXAMPLE)
    assert not any(isinstance(module, Copy) for module in converted.modules())


@pytest.mark.parametrize("name", ["one activation for all", "aliased"])
def test_shared_modules(name):
    found = outcome(networks.NETWORKS[name])
    assert found.kind == "converted" and "does not train" not in found.why, found.why


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        ("SplitSizes", Partial()),
        ("ScaledInput", Partial(0.25, "both", "slice")),
        pytest.param("LayerScale", Partial(), marks=pytest.mark.slow),
        pytest.param("SplitSizes", Partial(0.25, "both", "slice"), marks=pytest.mark.slow),
        pytest.param("ScaledInput", Partial(), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_file_computes_what_to_partial_does(name, partial, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(f"from research.soak import networks\n\n\ndef build():\n    return networks.NETWORKS[{name!r}]()\n")
    plain = networks.NETWORKS[name]().eval()
    plan = make_plan(plain, partial, example_input=EXAMPLE)
    converted, report = carry_out(plain, plan)
    written = tmp_path / "partial.py"
    written.write_text(write_source(plain, plan, report, origin_of(f"{file}:build", tmp_path / "x" / "y"), "A test."))
    twin = opened(written).convert(networks.NETWORKS[name]().eval())
    twin.load_state_dict(converted.state_dict())
    torch.testing.assert_close(twin.eval()(IMAGES), converted.eval()(IMAGES), rtol=0, atol=0)


class Held(nn.Module):
    """A block whose code holds numbers: one that is computed with, one of a list, one that means something else."""

    def __init__(self, width, _outputs=None, stride=1):
        super().__init__()
        self.width, self.pieces, self.padding_of_mine = width, 4, width
        self.sizes = [width // 4, width - width // 4]
        self.one, self.two = nn.Conv2d(width, width, 3, stride, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.wide = torch.tensor(self.padding_of_mine)

    def forward(self, x):
        first, second = torch.split(self.one(x), self.sizes, 1)
        y = torch.cat([first, second.relu()], 1)
        pieces = [y[:, number * (self.width // self.pieces) :][:, : self.width // self.pieces] for number in range(4)]
        return x + self.two(torch.cat(pieces, 1))


def test_numbers_that_a_block_holds_follow_its_channels():
    plain = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.Sequential(Held(32), Held(32)))
    converted, _ = to_partial(plain, Partial(split="slice"), example_input=EXAMPLE)
    (block, _) = (module for module in converted.modules() if isinstance(module, Held))
    assert block.sizes == [4, 12] and block.width == 16
    assert (block.pieces, block.padding_of_mine) == (4, 32)
    assert converted(IMAGES).shape == plain(IMAGES).shape


def test_weights_of_other_types_are_converted_as_they_are(dtype=torch.float16):
    converted, report = to_partial(Net(width=16).to(dtype), example_input=EXAMPLE)
    assert {parameter.dtype for parameter in converted.parameters()} == {dtype}
    assert report.flops_after < report.flops_before


class Deciding(Net):
    def forward(self, x):
        y = super().forward(x)
        return y if float(y.sum()) > 0 else -y


def test_a_network_that_cannot_be_traced_is_refused_without_a_word_beside(capfd):
    with pytest.raises(ConfigError, match="cannot be traced") as error:
        to_partial(Deciding(width=8), example_input=EXAMPLE)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert capfd.readouterr() == ("", "")


def test_enough_networks_are_tried():
    assert len(NETWORKS["timm"]) + len(NETWORKS["torchvision"]) >= 60
    assert len(set(NETWORKS["timm"])) == len(NETWORKS["timm"])
