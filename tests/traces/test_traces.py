"""The code computes what it did when the traces were recorded.

To the bit only on the machine that recorded them (``make traces && git diff --exit-code
tests/traces``). Elsewhere sums are rounded otherwise. Under kernels for SSE4.1 and AVX2 instead of
AVX-512 what is computed in float64 throughout differed by 7e-12 at most, though steps build on each
other; what the code itself computes in float32, as the logits that validate, by 2e-7. The tolerance
is ten times that. An error in a formula changes the first digits.
"""

from __future__ import annotations

from typing import Any

import pytest
import record
import torch

RELATIVE, ABSOLUTE = 2e-6, 1e-9


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the places at which two JSON values differ by more than the tolerance."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [each for key in old for each in differences(old[key], new[key], f"{where}/{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [each for i, (a, b) in pairs for each in differences(a, b, f"{where}/{i}")]
    if isinstance(old, float) and isinstance(new, float):
        same = new == pytest.approx(old, rel=RELATIVE, abs=ABSOLUTE)
    else:
        same = type(old) is type(new) and old == new
    return [] if same else [f"{where}: {old!r} became {new!r}"]


@pytest.mark.slow(reason="searches and trains")
@pytest.mark.parametrize("name", record.TRACES)
def test_as_recorded(name: str) -> None:
    if name in record.NEEDS_MKL and not torch.backends.mkl.is_available():
        pytest.skip("torch without MKL draws other random numbers from the same seed")
    assert differences(record.recorded(name), record.compute(name)) == []


def test_every_trace_is_one_of_ours() -> None:
    assert {path.stem for path in record.FOLDER.glob("*.json")} == set(record.TRACES)


def test_a_difference_is_found() -> None:
    old = {"loss": [1.0, 2.0], "cuts": "vgg11 1:conv1", "step": 3}
    assert differences(old, {**old, "loss": [1.0, 2.0 + 1e-6]}) == []
    assert differences(old, {**old, "loss": [1.0, 2.0 + 1e-5]}) == ["/loss/1: 2.0 became 2.00001"]
    assert differences(old, {**old, "step": 4}) == ["/step: 3 became 4"]
    assert len(differences(old, {**old, "cuts": "vgg11 2:conv1"})) == 1
    assert len(differences(old, {"loss": old["loss"]})) == 1
