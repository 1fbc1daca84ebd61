"""The grammar of Darknet's cfg files, and errors that name file, line and section."""

import contextlib
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.darknet import DarknetNetwork, describe
from crossstage.darknet.cfg import parse_cfg
from crossstage.errors import ConfigError
from tests.darknet.nets import conv, net, section, shortcut, yolo


def plan(text: str):
    with torch.device("meta"):
        return DarknetNetwork(parse_cfg(text, "net.cfg"))


def test_blanks_comments_duplicates_and_equals_signs():
    text = (
        "# a comment\r\n; another\r\n\r\n [ net ] \r\n wid th = 8\r\nheight=8\nchannels\t=\t3\n"
        "[convolutional]   \nfil ters = 4 \nfilters=9\nname=a=b\n"
    )
    first, second = parse_cfg(text)
    assert (first.kind, first.line, first.integer("width", 0)) == ("net", 4, 8)
    assert (second.kind, second.line, second.integer("filters", 1)) == ("convolutional", 8, 4)
    assert second.text("name", "") == "a=b"
    assert second.options["filters"].line == 9


def test_numbers_stop_at_the_first_foreign_character():
    (_, options) = parse_cfg("[net]\n[conv]\na=32abc\nb=1.5e1x\nc=-3;\nd=+.5\ne=7.9\n")
    assert options.integer("a", 0) == 32
    assert options.number("b", 0) == 15
    assert options.integer("c", 0) == -3
    assert options.number("d", 0) == 0.5
    assert options.integer("e", 0) == 7


def test_lists_stop_at_a_hash_and_ignore_blanks_and_a_last_comma():
    (_, options) = parse_cfg("[net]\n[yolo]\nmask = 0, 1,2 # 3,4\nanchors= 10,14,  23.5,27,\n")
    assert options.integers("mask") == [0, 1, 2]
    assert options.numbers("anchors") == [10, 14, 23.5, 27]
    assert options.integers("nothing") == []


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("conv", "convolutional"),
        ("conn", "connected"),
        ("max", "maxpool"),
        ("avg", "avgpool"),
        ("soft", "softmax"),
        ("lrn", "normalization"),
        ("local_avg", "local_avgpool"),
    ],
)
def test_aliases(short, long):
    options = {"output": 3} if short == "conn" else {}
    assert plan(net(8, channels=6) + section(short, **options)).table()[0].kind == long
    assert parse_cfg(f"[network]\n[{short}]\n")[0].kind == "net"


def test_byte_order_mark_and_latin_comments_are_read(tmp_path):
    file = tmp_path / "net.cfg"
    file.write_bytes(b"\xef\xbb\xbf" + b"# caf\xe9\n" + (net(8) + conv(2)).encode())
    assert describe(file)[0].output_shape == (2, 8, 8)


def test_defaults_are_darknets():
    network = plan(net(9) + section("convolutional") + section("maxpool", stride=2) + section("upsample"))
    assert [tuple(row.output_shape) for row in network.table()] == [(1, 9, 9), (1, 5, 5), (1, 10, 10)]
    assert "logistic" in repr(network.stack[0].act)


def test_vectors_may_be_the_input():
    network = plan("[net]\ninputs=10\n" + section("connected", output=4))
    assert network.input_shape == (10, 1, 1)


def test_lines_without_equals_sign_are_ignored_with_one_warning():
    with pytest.warns(UserWarning, match="net.cfg:3: ignored 'oops'.*, and 2 more such lines") as caught:
        parse_cfg("[net]\n[conv]\noops\nsize 3\nfilters=2\n...\n", "net.cfg")
    assert len(caught) == 1


BROKEN = {
    "unknown section": (net(8) + conv(2) + "[convolution]\n", r"net.cfg:14: \[convolution\] is not a layer"),
    "no section": ("width=8\n", r"net.cfg:1: found 'width=8'; expected \[net\]"),
    "first is no net": (conv(2), r"net.cfg:1: the first section is '\[convolutional\]'"),
    "nothing": ("# only this\n", "no section"),
    "no layer": (net(8), "no layer after"),
    "unclosed header": ("[net]\n[conv\n", r"net.cfg:2: found '\[conv'"),
    "sizes missing": ("[net]\n" + conv(2), "expected positive sizes"),
    "xnor": (net(8) + conv(2, xnor=1), r"net.cfg:13: \[convolutional\] xnor=1 asks for binary weights"),
    "binary": (net(8) + conv(2, binary=1), "binary=1 asks for binary weights"),
    "flipped": (net(8) + conv(2, flipped=1), "flipped=1 asks for transposed weights"),
    "activation": (net(8) + conv(2, activation="relu7"), r"net.cfg:11: .*'relu7'; expected one of leaky, relu"),
    "groups": (net(8) + conv(4, groups=2), r"groups=2 does not divide 3 channels"),
    "word for number": (net(8) + conv("many"), r"filters='many'; expected a whole number"),
    "no filters": (net(8) + conv(0), r"filters='0'; expected 1 to"),
    "kernel too large": (net(8) + conv(2, 9, pad=0), "the output of layer 0 would be 2 x 0 x 0"),
    "yolo's filters": (
        net(8) + conv(20) + yolo("0,1", "1,2,3,4"),
        r"2 anchors x 85 values = 170 channels.* 20",
    ),
    "yolo's mask": (
        net(8) + conv(85) + yolo("2", "1,2,3,4"),
        r"net.cfg:15: \[yolo\] mask='2' picks from num=2 anchors; expected 0 to 1",
    ),
    "yolo's anchors": (net(8) + conv(85) + section("yolo", num=3, mask=0, classes=80, anchors="1,2"), "expected 6"),
    "negative anchor": (net(8) + conv(85) + yolo("0", "-1,2"), "not positive"),
    "route without layers": (net(8) + section("route"), r"layers= is missing"),
    "route of unequal sizes": (
        net(8) + conv(2) + conv(2, 3, 2) + section("route", layers="0,1"),
        "expected equal height",
    ),
    "route group": (net(8) + conv(4) + section("route", layers=-1, groups=2, group_id=2), "group_id=2 of groups=2"),
    "scale": (net(8) + conv(4) + conv(4) + section("scale_channels", **{"from": 0}), "expected 4 x 1 x 1"),
    "sam": (net(8) + conv(4) + conv(3) + section("sam", **{"from": 0}), "expected equal shapes"),
    "weights_type": (net(8) + conv(4) + conv(4) + shortcut(0, weights_type="some"), "weights_type='some'"),
    "weights_normalization": (
        net(8) + conv(4) + conv(4) + shortcut(0, weights_type="per_feature", weights_normalization="sum"),
        r"weights_normalization='sum'; expected none, relu or softmax",
    ),
    "share_index": (net(8) + conv(4) + section("maxpool", stride=1) + conv(4, share_index=1), "expected a convolution"),
    "share_index shape": (net(8) + conv(4) + conv(4, share_index=0), r"borrows weights of shape \(4, 3, 1, 1\)"),
    "reorg": (net(9) + section("reorg3d", stride=2), "stride=2 does not divide"),
    "detection": (net(8) + section("detection", side=2, num=1, classes=1, coords=4), "need 24 values"),
    "second net": (net(8) + conv(2) + "[net]\n", r"net.cfg:14: \[net\] is not a layer"),
    "yolo_point": (net(8) + section("Gaussian_yolo", anchors="1,2", yolo_point="left_top"), "'left_top'; only center"),
    "crop": (net(8) + section("crop", crop_height=9, crop_width=8), "crops 9 x 8 out of 8 x 8"),
    "region's coords": (net(8) + section("region", anchors="1,2", coords=5), "coords=5; expected 4"),
    "softmax groups": (net(8) + section("softmax", groups=5), "groups=5 does not divide 192 values"),
    "local": (net(8) + section("local", size=5, pad=1), "pad=1 with size=5; expected size=3"),
    "out_channels": (net(8) + section("maxpool", maxpool_depth=1, out_channels=4), "out_channels=4 of 3 channels"),
    "reverse": (net(8) + section("reorg", stride=2, reverse=1), "reverse=1 is not supported"),
    "normalization": (net(8) + section("normalization", size=7), "size=7 spans more than the 3 channels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_mistakes_are_named_with_file_and_line(name):
    text, message = BROKEN[name]
    with pytest.raises(ConfigError, match=message):
        plan(text)


def test_trees_of_classes_give_raw_tensors_but_no_boxes():
    text = net(8) + conv(14, bn=0) + section("region", anchors="1,1,2,2", num=2, classes=2, tree="data/9k.tree")
    network = plan(text)
    with torch.device("meta"):
        x = torch.empty(1, 3, 8, 8)
        assert network(x)[0].shape == (1, 14, 8, 8)
        with pytest.raises(ConfigError, match="form a tree"):
            network.detections(x)
        (logits,) = plan(net(8) + section("avgpool") + section("softmax", tree="data/9k.tree"))(x)
    assert logits.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("kind", ["rnn", "crnn", "gru", "lstm", "conv_lstm", "history"])
def test_recurrent_layers_are_refused_by_name_and_line(kind):
    with pytest.raises(ConfigError, match=rf"net.cfg:6: \[{kind}\] is a recurrent layer"):
        plan(net(8) + section(kind))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing.cfg: cannot be read: No such file"):
        describe(tmp_path / "missing.cfg")
    with pytest.raises(ConfigError, match="Is a directory"):
        describe(tmp_path)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_is_sections_or_our_error(text):
    with warnings.catch_warnings(), contextlib.suppress(ConfigError):
        warnings.simplefilter("ignore")
        assert parse_cfg(text)[0].kind == "net"


@given(st.text(alphabet=st.sampled_from("[]=#;,\n netcovlayrsu019-.\t\x00é٣²"), max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_lines_after_the_net_are_a_network_or_our_error(text):
    with warnings.catch_warnings(), contextlib.suppress(ConfigError):
        warnings.simplefilter("ignore")
        plan("[net]\nwidth=8\nheight=8\nchannels=3\n" + text)


KINDS = st.sampled_from(
    "conv max local_avg avg route shortcut upsample yolo reorg reorg3d soft conn crop local implicit sam "
    "scale_channels batchnorm dropout lrn activation".split()
)
LISTS = st.lists(st.integers(-5, 20), max_size=4).map(lambda values: ",".join(map(str, values)))
OPTION = st.tuples(
    st.sampled_from(
        "filters size stride stride_x pad padding dilation antialiasing groups layers from output anchors mask classes "
        "num group_id share_index maxpool_depth out_channels batch_normalize spatial crop_height crop_width".split()
    ),
    st.one_of(st.integers(-3, 9).map(str), st.integers(10, 300).map(str), LISTS),
)


@given(st.lists(st.tuples(KINDS, st.lists(OPTION, max_size=5)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_layers_are_our_error_or_a_network_of_the_planned_shapes(layers):
    text = "[net]\nwidth=16\nheight=12\nchannels=3\n"
    for kind, options in layers:
        text += f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options)
    try:
        network = plan(text).eval()
    except ConfigError:
        return
    shapes: list[tuple[int, ...]] = []
    for module in network.stack:
        module.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    with torch.device("meta"):
        network(torch.empty(2, 3, 12, 16))
    assert shapes == [(2, *row.output_shape) for row in network.table()]
