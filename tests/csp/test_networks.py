"""The networks of other libraries that must convert: cheaper, trainable, exportable, as source."""

import importlib.util

import pytest
import torch

from crossstage import Partial
from crossstage.csp import Trace, carry_out, origin_of, plan_network, write_source
from crossstage.weights.resolving import resolve
from research.studies.convert import GAMMAS, KINDS, NETWORKS, losses, onnx_difference, saved

IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_converts(name, images, tmp_path):
    torch.manual_seed(0)
    plain = resolve(name, "cpu").module
    trace = Trace(plain, torch.empty(1, 3, 224, 224))
    plan = plan_network(trace, Partial())
    converted, report = carry_out(plain, plan)
    assert report.flops_after < 0.9 * report.flops_before
    assert not report.warnings
    assert converted(IMAGES).shape == plain(IMAGES).shape

    for fusion, split in KINDS:
        costs = [saved(plan_network(trace, Partial(gamma, fusion, split))) for gamma in GAMMAS]
        assert costs[0] < costs[1] < costs[2] and costs[1] > 0

    file = tmp_path / "partial.py"
    file.write_text(write_source(plain, plan, report, origin_of(name, file), "A test."))
    spec = importlib.util.spec_from_file_location("partial", file)
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    twin = written.build().eval()
    twin.load_state_dict(converted.state_dict())
    torch.testing.assert_close(twin(IMAGES), converted(IMAGES), rtol=0, atol=0)

    assert onnx_difference(converted) < 1e-4
    found = losses(converted, *images)
    assert found[-1] < 0.7 * found[0]
