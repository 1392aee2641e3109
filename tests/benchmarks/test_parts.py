"""Where a step's time goes: everything belongs somewhere, and the products are counted."""

from __future__ import annotations

import pytest
import torch
from benchmark_sides import SMALL

from benchmarks.parts import Flops, parts, parts_table


@pytest.mark.slow(reason="the profiler")
@pytest.mark.parametrize("step", ["relaxed-step", "meta-step"])
def test_all_time_belongs_to_a_part(step: str) -> None:
    threads = torch.get_num_threads()
    try:
        measured = parts(SMALL.model_copy(update={"step": step, "aux": ("conv1", "conv2")}))
    finally:
        torch.set_num_threads(threads)
    of = measured["parts"]
    assert sum(part["share"] for part in of.values()) == pytest.approx(1)
    assert all(part["calls"] > 0 for name, part in of.items() if name != "Python")
    assert measured["least_s"] == measured["flops"] / measured["flops_per_s"] > 0
    table = parts_table("title", measured)
    assert [row[0] for row in table.rows] == [*of]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_products_of_a_convolution(groups: int) -> None:
    """8 to 16 channels in groups, 3x3, from 6x6 to 3x3 pixels, 4 images: forwards, and backwards to
    the weights, and to the input as well."""
    convolution = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups, bias=False)
    each = 2 * 4 * 16 * 9 * (8 // groups) * 9
    for wanted in (False, True):
        images = torch.randn(4, 8, 6, 6, requires_grad=wanted)
        with Flops() as counter:
            convolution(images).sum().backward()
        assert counter.total == each * (3 if wanted else 2)


@pytest.mark.slow(reason="the profiler")
def test_products_are_those_of_the_batch() -> None:
    """Twice the images are twice the products, but for those of weights alone."""
    settings = [
        SMALL.model_copy(update={"step": "relaxed-step", "batch_size": size}) for size in (4, 8)
    ]
    one, two = (parts(setting)["flops"] for setting in settings)
    assert 1.9 < two / one <= 2
