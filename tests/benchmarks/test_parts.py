"""Where a step's time goes: everything belongs somewhere, and the products are counted."""

from __future__ import annotations

import pytest
import torch
from benchmark_sides import SMALL

from benchmarks.parts import parts, parts_table


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


@pytest.mark.slow(reason="the profiler")
def test_products_are_those_of_the_batch() -> None:
    """Twice the images are twice the products, but for those of weights alone."""
    settings = [
        SMALL.model_copy(update={"step": "relaxed-step", "batch_size": size}) for size in (4, 8)
    ]
    one, two = (parts(setting)["flops"] for setting in settings)
    assert 1.9 < two / one <= 2
