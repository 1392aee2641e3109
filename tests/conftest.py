"""What all tests have in common: what they may cost, and what they need."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

_STARTED = pytest.StashKey[float]()


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """Put back the number of torch's threads, which a command sets: sums are rounded by it."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _plugins_of_its_own() -> Iterator[None]:
    """Forget which plug-ins, and modules of models, tests of other files have loaded in this
    process: a rank is told to load them too, and might not find them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sedona_nni.plugins.LOADED", [])
        yield


@pytest.fixture
def needs_compiler() -> None:
    """Skip where the kernels in C cannot be had: torch's operations do their work there."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, and there is no cc")


@pytest.fixture(params=["compiled", "plain"])
def kernels_or_none(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: with the kernels in C, and with torch's operations in their place."""
    if request.param == "compiled":
        request.getfixturevalue("needs_compiler")
    else:
        from sedona_nni.kernels import batch_norm

        monkeypatch.setattr(batch_norm, "fits", lambda *_: False)
    return str(request.param)


@pytest.fixture
def torch_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batch norms be computed by torch's operations, as where there is no compiler."""
    from sedona_nni.kernels import batch_norm

    monkeypatch.setattr(batch_norm, "fits", lambda *_: False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--at-most",
        type=float,
        metavar="SECONDS",
        help="fail a test that takes more of a processor, so that those not marked slow stay fast",
    )
    parser.addoption("--nightly", action="store_true", help="run what takes an hour, too")


@pytest.hookimpl(tryfirst=True)  # before some are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--nightly"):
        _leave_out_nightly(config, items)
    _mark_further_cases(items)
    _skip_without_gpu(items)


def _leave_out_nightly(config: pytest.Config, items: list[pytest.Item]) -> None:
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=nightly)
    items[:] = [item for item in items if item not in nightly]


def _mark_further_cases(items: list[pytest.Item]) -> None:
    """Mark all but the first cases of a test slow, where it says how many are fast."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("fast_cases")
        if mark is not None:
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > mark.args[0]:
                item.add_marker(pytest.mark.slow(reason="a further case"))


def _skip_without_gpu(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and say so."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch finds none"))


def _processor_s() -> float:
    """Return the processor time of this process and of all that it has started and waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_STARTED] = _processor_s()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that took too long, its fixtures included, however busy the machine is."""
    yield
    limit, taken = item.config.getoption("--at-most"), _processor_s() - item.stash[_STARTED]
    if limit is not None and taken > limit:
        pytest.fail(
            f"took {taken:.1f} s of a processor, more than {limit:g}: make it quicker, or mark it "
            "slow",
            pytrace=False,
        )
