"""The benchmarks: that they compare the same mathematics, and report what they should. No times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_sides
import pytest
import torch
from relaxed_reference import (
    Case,
    naive_network,
    named_statistics,
    named_weights,
    unrolled_meta_loss,
)

from benchmarks import naive, record, scaling, side_by_side, start_up
from benchmarks.__main__ import main
from benchmarks.release import check_release
from benchmarks.search_steps import StepSetting, naively, ours
from benchmarks.side_by_side import Side, compare, comparison_table
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.losses import LabelSmoothing

ROOT = Path(__file__).parents[2]
SMALL = StepSetting(
    step="meta-step",
    backbone="vgg11",
    aux=("conv1", "conv4"),
    batch_size=2,
    inner_steps=1,
    validation_batch_size=2,
    width_multiplier=0.125,
)


def vgg_case(inner_steps: int) -> Case:
    """A small VGG-11 with ReLUs and all light networks, in float64."""
    torch.manual_seed(3)
    backbone = build_backbone("vgg11", num_classes=3, width_multiplier=0.125)
    network = RelaxedNetwork(backbone, ["conv3", "conv1", "mlp-sr", "conv2", "conv4"]).double()
    with torch.no_grad():
        network.alpha.normal_()
        network.beta.normal_()
    problem = InnerProblem(network, Sgd(0.9, 0.01), LabelSmoothing(0.1))

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.randint(3, (6,))

    start, _ = problem.step(problem.state(), batch(), 0.05, seed=8)
    batches = [batch() for _ in range(inner_steps)]
    return Case(problem, start, batches, batch(), lr=0.05, seed=1)


class TestNaive:
    def test_hypergradient_equals_ours(self) -> None:
        case = vgg_case(inner_steps=2)
        network = case.problem.network
        alpha, beta = (a.detach().clone().requires_grad_() for a in (network.alpha, network.beta))
        expected = torch.autograd.grad(unrolled_meta_loss(case, alpha, beta), [alpha, beta])
        got = hypergradient(
            case.problem, case.start, case.train_batches, case.validation_batch, lr=0.05, seed=1
        )
        # Another program with other kernels: rounding, magnified by a few steps of batch norms
        torch.testing.assert_close(got.alpha, expected[0], rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(got.beta, expected[1], rtol=1e-7, atol=1e-10)
        assert float(got.alpha.abs().max()) > 1e-4

    def test_relaxed_step_equals_ours(self) -> None:
        case = vgg_case(inner_steps=2)
        problem, state = case.problem, replace(case.start, slots=0 * case.start.slots)
        network = naive_network(problem.network)
        parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
        with torch.no_grad():
            for name, value in named_weights(problem, state.weights).items():
                parameters[name].copy_(value)
        optimizer = torch.optim.SGD(parameters.values(), lr=0.05, momentum=0.9, weight_decay=0.01)
        alpha, beta = problem.network.alpha.detach(), problem.network.beta.detach()
        for seed, batch in enumerate(case.train_batches):
            torch.manual_seed(seed)
            naive.relaxed_step(network, optimizer, alpha, beta, batch, problem.criterion)
            state, _ = problem.step(state, batch, 0.05, seed)
        for name, value in named_weights(problem, state.weights).items():
            torch.testing.assert_close(parameters[name].detach(), value, rtol=1e-7, atol=1e-10)
        assert set(named_statistics(problem, state.statistics)) <= set(buffers)

    @pytest.mark.parametrize("step", ["meta-step", "relaxed-step"])
    def test_both_sides_can_be_prepared_and_repeated(self, step: str) -> None:
        setting = SMALL.model_copy(update={"step": step})
        for prepare in (ours, naively):
            computation = prepare(setting)
            computation()
            computation()


class TestCompare:
    def test_sides_take_turns(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A first turn to warm up, then three that count; who goes first changes."""
        log = tmp_path / "log"
        sides = [
            Side(name, benchmark_sides.logged, (log, name), device="cpu", threads=1)
            for name in ("a", "b")
        ]
        document = compare(sides, repeats=3)
        assert log.read_text() == "baabbaab"
        for name in ("a", "b"):
            values = document[name]["values_s"]
            assert len(values) == 3
            assert document[name]["median_s"] == sorted(values)[1]
        assert document["ratio"] == document["b"]["median_s"] / document["a"]["median_s"]
        assert capsys.readouterr().out == ""

    def test_memory_and_failures(self) -> None:
        sides = [
            Side("ours", benchmark_sides.large, 300, device="cpu", threads=1),
            Side("boundless", benchmark_sides.large, 2**30, device="cpu", threads=1),
            Side("killed", benchmark_sides.killed, None, device="cpu", threads=1),
            Side("broken", benchmark_sides.broken, None, device="cpu", threads=1),
        ]
        document = compare(sides, repeats=1)
        mine = document["ours"]
        assert mine["peak_mib"] - mine["baseline_mib"] == mine["peak_above_baseline_mib"]
        assert 300 <= mine["peak_above_baseline_mib"] < 400
        assert document["boundless"] == {"failure": "out of memory"}
        assert document["killed"] == {"failure": "out of memory"}
        assert document["broken"] == {"failure": "ended with code 7"}

    def test_table_of_a_side_that_failed(self) -> None:
        fine = {"median_s": 2.0, "values_s": [1.0, 2.0, 3.0], "peak_mib": 1500.0}
        fine["peak_above_baseline_mib"] = 1000.0
        document: dict[str, Any] = {"ours": fine, "naive": {"failure": "out of memory"}}
        document |= dict.fromkeys(["ratio", "memory_ratio", "memory_above_baseline_ratio"])
        table = comparison_table("title", document, ["ours", "naive"])
        assert table.rows == [
            ["ours", "2.000", "1.000", "3.000", "1,500", "1,000"],
            ["naive", "out of memory", "-", "-", "-", "-"],
            ["naive / ours", "-", "-", "-", "-", "-"],
        ]


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        assert isinstance(exit.value.code, int)
        return exit.value.code

    def test_json(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = "relaxed-step --backbone vgg11 --batch-size 2 --width-multiplier 0.125 --aux conv1 "
        line += "--repeats 1 --threads 1 --against naive --json"
        assert self.run(monkeypatch, *line.split()) == 0
        document = json.loads(capsys.readouterr().out)
        head = document["header"]
        assert head["command"] == f"python -m benchmarks {line}"
        assert head["n"] == 1
        assert head["versions"]["torch"] == torch.__version__.partition("+")[0]
        for side in ("ours", "naive"):
            assert document[side]["median_s"] == document[side]["values_s"][0] > 0
            assert document[side]["peak_mib"] > document[side]["baseline_mib"] > 0
        assert document["ratio"] == document["naive"]["median_s"] / document["ours"]["median_s"]
        assert document["setting"]["backbone"] == "vgg11"
        assert document["threads"] == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["meta-step", "--backbone", "vgg12"], "must be one of"),
            (["relaxed-step", "--aux", "conv0"], "must be one of"),
            (["meta-step", "--batch-size", "1"], "batch_size"),
            (["meta-step", "--against", "higher"], "must be one of naive, release"),
            (["meta-step", "--against", "release"], "must be a clone"),
            (["meta-step", "--record", "../x"], "must be lower-case letters"),
            (["scaling", "--over", "depth", "--values", "1"], "must be one of inner-steps"),
            (["scaling", "--over", "threads", "--values", "0"], "must be whole numbers from 1"),
        ],
    )
    def test_mistakes(
        self,
        arguments: list[str],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.run(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


class TestRelease:
    @pytest.fixture
    def clone(self, tmp_path: Path) -> StepSetting:
        """A stand-in for the release: modules and functions of the same names."""
        (tmp_path / "models.py").write_text(
            "import sys, torch\n"
            "settings = sys.argv[1:]\n"
            "def get_model(arch, decoder, return_devices):\n"
            "    return [torch.nn.Linear(1, 1)]\n"
        )
        (tmp_path / "decoder.py").write_text("import six\nMixedPredConvLightDecoder = None\n")
        (tmp_path / "train.py").write_text(
            "def continuous_train_step(x, y, step, model, optimizer, alpha, beta, device):\n"
            "    print('trained on', len(x))\n"
        )
        (tmp_path / "sedona.py").write_text(
            "import models, torch\n"
            "class SEDONA:\n"
            "    def init_optimizers(self): self.optimizer = None\n"
            "    def init_variables(self): self.alpha = self.beta = torch.zeros(1, 2)\n"
            "    def diff_step(self, train, validation, steps, batches):\n"
            "        print('looked', len(train), steps, len(validation), batches)\n"
            "        print(*models.settings)\n"
        )
        values = {**SMALL.model_dump(), "aux": ["conv1", "conv2"], "width_multiplier": 2.0}
        return StepSetting.model_validate({**values, "inner_steps": 3, "release_path": tmp_path})

    def test_driver_does_the_same_work(self, clone: StepSetting) -> None:
        """In a process of its own, as it changes sys.path and sys.argv."""
        code = f"""if True:
            from benchmarks.release import check_release, release
            from benchmarks.search_steps import StepSetting
            setting = StepSetting.model_validate_json({clone.model_dump_json()!r})
            check_release(setting)
            release(setting)()
        """
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [
            "trained on 2",
            "looked 3 3 1 1",
            "--name vgg11 --max-dec-depth 2 --feat-mult 2 --lr 0.01 --momentum 0.9 "
            "--weight-decay 0.0001",
        ]

    @pytest.mark.parametrize(
        "change",
        [
            {"release_path": None},
            {"backbone": "dni-cnn"},
            {"image_size": 64},
            {"num_classes": 5},
            {"width_multiplier": 0.5},
            {"aux": ("conv2", "conv1")},
            {"aux": ("conv1", "mlp")},
        ],
    )
    def test_refuses_what_it_cannot_compute(
        self, change: dict[str, Any], clone: StepSetting
    ) -> None:
        check_release(clone)
        with pytest.raises(InputError):
            check_release(clone.model_copy(update=change))


class TestScaling:
    def test_one_size_is_replaced(self) -> None:
        changed, threads, size = scaling.with_value(SMALL, 2, "inner-steps", "7")
        assert (changed.inner_steps, threads, size) == (7, 2, 7)
        changed, threads, size = scaling.with_value(SMALL, 2, "batch-size", "16")
        assert (changed.batch_size, threads, size) == (16, 2, 16)
        changed, threads, size = scaling.with_value(SMALL, 2, "boundaries", "vgg19")
        assert (changed.backbone, threads, size) == ("vgg19", 2, 15)
        changed, threads, size = scaling.with_value(SMALL, 2, "threads", "4")
        assert (changed, threads, size) == (SMALL, 4, 4)

    def test_every_value_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def measured(sides: list[Side], *, repeats: int) -> dict[str, Any]:
            return {side.name: (side.setting.batch_size, side.threads) for side in sides}

        monkeypatch.setattr(scaling, "compare", measured)
        prepare = {"ours": ours, "naive": naively}
        assert scaling.points(SMALL, 2, "batch-size", ["4", "8"], prepare, repeats=1) == [
            {"value": "4", "size": 4, "ours": (4, 2), "naive": (4, 2)},
            {"value": "8", "size": 8, "ours": (8, 2), "naive": (8, 2)},
        ]

    def test_table_and_figure(self, tmp_path: Path) -> None:
        measured = [
            {
                "value": name,
                "size": size,
                "ours": {"median_s": 0.5 * size, "peak_mib": 1000.0},
                "naive": {"failure": "out of memory"},
                "ratio": None,
                "memory_ratio": None,
            }
            for name, size in (("vgg11", 7), ("vgg19", 15))
        ]
        names = ["ours", "naive"]
        table = scaling.scaling_table("title", "boundaries", measured, names)
        assert table.rows[1] == ["15 (vgg19)", "7.500", "1,000", "out of memory", "-", "-", "-"]
        scaling.draw(tmp_path / "figure.svg", "title", "boundaries", measured, names)
        assert "</svg>" in (tmp_path / "figure.svg").read_text()


class TestRecord:
    def test_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmarks", "meta-step", "--aux", "a b"])
        head = record.header(n=4, gpu="H100").model_copy(update={"commit": "abc", "dirty": True})
        table = record.Table("times, s", ["side", "median"], [["ours", "1.0"]])
        record.publish(
            head, {"ours": 1.0}, [table], as_json=True, record="vgg19_cpu", directory=tmp_path
        )
        document = json.loads((tmp_path / "vgg19_cpu.json").read_text())
        assert document["ours"] == 1.0
        assert record.Header.model_validate(document["header"]) == head
        text = (tmp_path / "vgg19_cpu.md").read_text()
        assert "    python -m benchmarks meta-step --aux 'a b'\n" in text
        assert "Commit: abc with uncommitted changes" in text
        assert "H100" in text
        assert "| side | median |\n| --- | ---: |\n| ours | 1.0 |\n" in text

    def test_commit_is_that_of_the_checkout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        git = ["git", "rev-parse", "HEAD"]
        try:
            done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("no git here")
        monkeypatch.setattr(sys, "argv", ["benchmarks"])
        head = record.header(n=1)
        assert head.commit == (done.stdout.strip() if done.returncode == 0 else None)

    def test_without_git(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        head = record.header(n=1)
        assert (head.commit, head.dirty) == (None, None)

    def test_records_kept_so_far_are_readable(self) -> None:
        for path in record.RECORDS.glob("*.json"):
            record.Header.model_validate(json.loads(path.read_text())["header"])
            assert path.with_suffix(".md").exists()


class TestStartUp:
    def test_import_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(start_up, "MODULES", ("sedona_nni.errors",))
        monkeypatch.setattr(start_up, "import_time", {"torch": 2.0, "sedona_nni.errors": 0.5}.get)
        measured = start_up.import_times(2)
        assert measured["torch"] == {"median_s": 2.0, "values_s": [2.0, 2.0]}
        rows = start_up.import_table(measured).rows
        assert rows[1] == ["sedona_nni.errors", "0.50", "0.50", "0.50"]

    def test_timed_trial_reaches_every_stage(self, tmp_path: Path) -> None:
        """The trial of the experiment, started without NNI."""
        experiment = start_up.search_experiment("vgg11", batch_size=8)["tuner"]["classArgs"]
        parameters = {
            "stage": "search",
            "key": "search",
            "task": experiment["task"],
            "aux": ["conv1"],
            "search": experiment["search"],
            "device": "cpu",
            "threads": 1,
        }
        code = f"""if True:
            import sedona_nni.trials.__main__ as trial
            from benchmarks import timed_trial
            trial.trial_parameters = lambda: {parameters!r}
            trial.report_final = trial.report_intermediate = lambda *numbers: None
            assert timed_trial.main() == 0
        """
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "NNI_OUTPUT_DIR": str(tmp_path)},
            check=True,
        )
        reached = json.loads((tmp_path / "start-up.json").read_text())
        assert list(reached) == ["process", *start_up.STAGES]
        assert sorted(reached.values()) == list(reached.values())

    def test_trial_table_adds_up(self) -> None:
        stages = dict.fromkeys(start_up.STAGES, 1.0)
        rows = start_up.trial_table([{"manager": 5.0, **stages}], "vgg19").rows
        assert rows[0][1] == "5.00"
        assert rows[-1][1] == f"{len(stages):.2f}"


def test_worker_memory_is_read_from_the_system() -> None:
    now, peak = map(side_by_side.resident_mib, ("VmRSS", "VmHWM"))
    assert 10 < now <= peak
