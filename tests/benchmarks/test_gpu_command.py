"""``python -m benchmarks gpu``: tried on a CPU, and what it does when something goes wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blocked_imports import run_blocking

from benchmarks import gpu
from benchmarks.__main__ import main
from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_models import MODEL_CHECKS
from benchmarks.gpu_ranks import RANK_CHECKS
from benchmarks.record import Header, Machine

CPU = torch.device("cpu")
NOT_NEEDED = ["nni", "pytorch_lightning", "lightning", "torchmetrics", "optuna", "sklearn", "scipy"]
NOT_NEEDED += ["psutil", "pytest", "matplotlib", "jinja2", "requests", "pandas", "yaml"]
HEAD = Header(
    command="python -m benchmarks gpu",
    date="2026-01-01T00:00:00+00:00",
    commit=None,
    dirty=None,
    versions={},
    machine=Machine(cpu="none", cores=1, memory_gib=1.0, gpu=None, load=0.0),
    n=1,
)
Do = Callable[[Any], None]


@pytest.mark.slow(reason="all parts of it, in a process of its own")
def test_all_parts_run_on_a_cpu_with_little_installed(tmp_path: Path) -> None:
    arguments = ["gpu", "--device", "cpu", "--record", "small", "--minutes", "20", "--json"]
    arguments += ["--despite", "dirty,busy"]
    code = f"""
        import sys
        sys.argv[1:] = {[*arguments, "--directory", str(tmp_path)]!r}
        from benchmarks.__main__ import main
        main()
    """
    done = run_blocking(NOT_NEEDED, code)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "small.json").read_text())
    assert json.loads(done.stdout) == document
    assert (tmp_path / "small.md").exists()
    parts = document["parts"]
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(
        ("checks", "models", "training", "search", "probing", "ranks", "steps"), "done"
    )
    values = {name: part["values"] for name, part in parts.items()}
    assert set(values["checks"]) == set(CHECKS)
    assert values["checks"].pop("device_claims")["not_run"] == "a CPU is not claimed"
    assert values["checks"].pop("launches")["not_run"] == "nothing is launched on a CPU"
    by_graphs = values["checks"].pop("hypergradient_by_graphs")
    assert by_graphs["not_run"] == "nothing is recorded on a CPU"
    assert set(values["ranks"]) == set(RANK_CHECKS)
    for check in values.pop("ranks").values():
        assert "scikit-learn is not there" in check["not_run"]
    assert not any({"error", "not_run"} & set(v) for part in values.values() for v in part.values())
    models = values["models"]
    assert set(MODEL_CHECKS) < set(models)
    for form in ("uncut", "one block", "K = 4"):
        step = models[f"torchvision:mobilenet_v3_small, {form}"]
        assert step["images_per_s"] == pytest.approx(4 / step["median_s"])
    assert len(values["training"]) == 7
    for step in values["training"].values():
        # So small a network that what kernels take for themselves counts, more or less of it as
        # processors have them: 0.8 MiB are predicted where one with AVX2 takes 0.66
        assert step["predicted_mib"] == pytest.approx(step["peak_allocated_mib"], rel=0.1, abs=0.2)
        assert step["images_per_s"] == pytest.approx(8 / step["median_s"])
        assert step["peak_allocated_mib"] > 0
    (search,) = values["search"].values()
    hours = (40_000 * search["pretraining_step_s"] + 2_000 * search["meta_step_s"]) / 3600
    assert search["published_search_h"] == pytest.approx(hours)
    (probing,) = values["probing"].values()
    assert (probing["probes"], probing["probes_timed"]) == (1 + 3 * 2, 2)
    for both in values["steps"].values():
        assert both["ratio"] == pytest.approx(both["naive"]["median_s"] / both["ours"]["median_s"])


@pytest.mark.slow(reason="starts processes that learn")
@pytest.mark.parametrize("name", ["greedy", "rank killed"])
def test_checks_of_ranks_hold_on_a_cpu(name: str) -> None:
    assert RANK_CHECKS[name](CPU)


def run(monkeypatch: pytest.MonkeyPatch, directory: Path, minutes: float, **parts: Do) -> Any:
    """Run made-up parts of equal shares; return the document and what failed."""
    monkeypatch.setattr(gpu, "PARTS", {name: (1.0, do) for name, do in parts.items()})
    failed = gpu.run(HEAD, CPU, gpu.SMALL, minutes, record="made-up", directory=directory)
    return json.loads((directory / "made-up.json").read_text()), failed


@pytest.mark.slow(reason="measures")
def test_what_fails_is_recorded_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def fails(part: Any) -> None:
        part.measure("good", lambda: {"value": 1.0})
        part.measure("bad", lambda: {"value": 1 / 0})
        raise RuntimeError("the device is gone")

    def looks(part: Any) -> None:
        seen.append(json.loads((tmp_path / "made-up.json").read_text()))
        part.measure("after", lambda: {"value": 2.0})

    document, failed = run(monkeypatch, tmp_path, 1, first=fails, second=looks)
    first, second = document["parts"].values()
    assert first["state"] == "failed"
    assert first["error"].startswith("RuntimeError: the device is gone (test_gpu_command.py:")
    assert first["values"]["good"]["value"] == 1
    assert first["values"]["bad"]["error"].startswith("ZeroDivisionError: ")
    assert (second["state"], second["values"]["after"]["value"]) == ("done", 2)
    assert failed == ["first", "first: bad"]
    (early,) = seen  # while the second part was under way
    assert early["parts"]["first"] == first
    assert early["parts"]["second"] == {"state": "under way", "values": {}}


def test_some_parts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    parts = {name: (1.0, lambda part, name=name: done.append(name)) for name in ("a", "b", "c")}
    monkeypatch.setattr(gpu, "PARTS", parts)
    gpu.run(HEAD, CPU, gpu.SMALL, 1, record="made-up", directory=tmp_path, parts=["c", "a"])
    assert done == ["c", "a"]
    assert [*json.loads((tmp_path / "made-up.json").read_text())["parts"]] == done


@pytest.mark.slow(reason="measures")
def test_a_part_has_its_share_of_the_time_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleeps(part: Any) -> None:
        part.measure("short", lambda: {"value": 1.0})
        part.measure("long", lambda: time.sleep(60))

    def waits(part: Any) -> None:
        part.ends_at = time.perf_counter()
        part.measure("late", lambda: {"value": 1.0})

    started = time.perf_counter()
    document, failed = run(monkeypatch, tmp_path, 0.15, first=sleeps, second=waits)
    assert time.perf_counter() - started < 30
    first, second = document["parts"].values()
    assert first["state"] == "cut short"
    assert first["values"]["short"]["value"] == 1
    assert first["values"]["long"] == {"not_run": "there was not enough time"}
    assert first["allowed_s"] == pytest.approx(4.5, abs=1)  # a busy machine is slow to begin
    assert second["values"]["late"]["not_run"] == "no time was left"
    assert failed == []


@pytest.mark.slow(reason="measures")
def test_a_side_that_needs_too_much_memory_leaves_the_other_alone() -> None:
    part = gpu.Part(CPU, gpu.SMALL, 60, None)

    def too_large() -> Callable[[], object]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = part.timed(ours=lambda: lambda: torch.ones(2**18), naive=too_large)
    assert found["naive"] == {"failure": "out of memory"}
    assert len(found["ours"]["values_s"]) == 1
    assert found["ours"]["peak_allocated_mib"] == pytest.approx(1, abs=0.01)
    assert "ratio" not in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--record", "No", "--device", "cpu"], "--record: must be lower-case letters"),
        (["--record", "a", "--device", "tpu"], "--device: must be cpu or cuda"),
        (
            ["--record", "a", "--device", "cpu", "--parts", "rest", "--despite", "dirty,busy"],
            "--parts: must be of training, models, ",
        ),
        (["--record", "a", "--release-path", "/nowhere"], "--release-path: must be a clone of"),
    ],
)
def test_wrong_input(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
