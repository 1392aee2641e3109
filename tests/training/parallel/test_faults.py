"""What becomes of a training in parallel when something goes wrong: it ends, says why, goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from connections import listening
from launched_ranks import launched
from shell import QUICKSTART

from benchmarks.faults.parallel import (
    Round,
    check_checkpoint,
    check_same,
    disturb,
    finish,
    small,
)
from benchmarks.rivals.links import link
from benchmarks.small_training import SmallTraining, start
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.task import Task
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import DivergedError, train
from sedona_nni.training.parallel.launch import train_in_parallel
from sedona_nni.training.parallel.rank import Job
from sedona_nni.training.settings import TrainSettings

PATIENCE_S = 5.0
LIMIT_S = 60.0  # on a busy machine; it takes a few
EPOCHS = 60  # more than pass while a busy machine is slow to disturb it
WHAT = small(2, "greedy", epochs=EPOCHS, patience_s=PATIENCE_S)


RESTLESS = """
import os
import torch
from sedona_nni import AuxiliaryNetwork, register_auxiliary
from torch import nn

@register_auxiliary("restless")
class Restless(AuxiliaryNetwork):
    def __init__(self, context):
        super().__init__()
        self.head = nn.Linear(context.shape.channels, context.num_classes)
        torch.manual_seed(int.from_bytes(os.urandom(4), "big"))

    def forward(self, features):
        return self.head(features.mean((2, 3)))
"""


def matching(pattern: str, text: str) -> str:
    """Return a text if it is as a pattern says, else the pattern."""
    return text if re.fullmatch(pattern, text) else pattern


def ended(training: SmallTraining, seconds: float = PATIENCE_S + 10) -> tuple[int, str]:
    """Return a training's exit code and its line; nothing is left of it."""
    try:
        code = training.wait(seconds)
        assert not training.left_after(PATIENCE_S + 10)
        return code, training.errors()
    finally:
        training.end()


@pytest.mark.slow(reason="a training that is started nine times")
def test_disturbed_again_and_again(tmp_path: Path) -> None:
    """Killed, stopped, interrupted, out of space: it goes on each time, to the same end."""
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    finish(start(whole, WHAT))
    epoch = 0
    faults: list[str | Callable[[SmallTraining], None]] = [
        *("rank killed", "rank stopped", "starter killed", "caller killed"),
        lambda training: training.process.send_signal(signal.SIGINT),
        lambda training: os.killpg(training.process.pid, signal.SIGTERM),
        fill_disk_of_rank_1,
    ]
    said = []
    for fault in faults:
        training = start(disturbed, WHAT)
        if isinstance(fault, str):
            disturb(Round(1, 2, "greedy", fault, 1, epoch + 2, 0.0), training, PATIENCE_S, LIMIT_S)
        else:
            training.wait_for_epoch(epoch + 2)
            fault(training)
            said.append(ended(training))
        epoch = check_checkpoint(disturbed / "trained", 2)
        assert 0 < epoch < EPOCHS
    assert said[0] == (130, "sedona-nni: interrupted\n")
    assert said[1] == (-signal.SIGTERM, "")
    code, line = said[2]
    path = rf"{disturbed}/trained/checkpoint/epoch-\d+\.rank-1\.pt"
    complaint = rf"rank 1 \(block 2 of 2\): {path}: cannot be written \(File too large\)"
    assert (code, line) == (2, matching(f"sedona-nni: {complaint}\n", line))
    finish(start(disturbed, WHAT))
    check_same(disturbed, whole)


def fill_disk_of_rank_1(training: SmallTraining) -> None:
    rank = training.rank(1)
    assert rank is not None
    rank.rlimit(psutil.RLIMIT_FSIZE, (1000, 1000))


@pytest.mark.slow(reason="a training, started by the command")
def test_ctrl_c(tmp_path: Path) -> None:
    """The terminal interrupts all in its foreground."""
    sets = ("epochs=1000", "batch_size=64", "validation_fraction=0.5")
    options = ["--decoupling", "uniform:2:conv1", "--parallel", "blocks", "--device", "cpu"]
    options += ["--directory", str(tmp_path / "trained")]
    options += [word for each in sets for word in ("--set", each)]
    words = [sys.executable, "-m", "sedona_nni.command_line", "train", QUICKSTART, *options]
    with (tmp_path / "errors.txt").open("w") as errors:
        process = subprocess.Popen(words, stderr=errors, start_new_session=True)
    try:
        starter: list[psutil.Process] = []
        while not starter or len(starter[0].children()) < 2:
            assert process.poll() is None, (tmp_path / "errors.txt").read_text()
            time.sleep(0.05)
            starter = psutil.Process(process.pid).children()
        ranks = starter[0].children()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 130
        _, left = psutil.wait_procs([*starter, *ranks], 10)
        assert not left
    finally:
        process.kill()
        process.wait()
    lines = (tmp_path / "errors.txt").read_text().splitlines()
    assert lines[-1] == "sedona-nni: interrupted"
    assert all(line.startswith(("digits: ", "epoch ")) for line in lines[:-1])


@pytest.mark.slow(reason="starts processes")
def test_a_folder_that_nobody_may_write_into(tmp_path: Path) -> None:
    """A file stands where checkpoints are to be kept: root may write into every other folder."""
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/checkpoint").write_text("")
    code, line = ended(start(tmp_path, WHAT), LIMIT_S)
    path = rf"{tmp_path}/trained/checkpoint/epoch-1\.rank-([01])\.pt"
    words = rf"rank [01] \(block [12] of 2\): {path}: cannot be written \(File exists\)"
    assert (code, line) == (2, matching(f"sedona-nni: {words}\n", line))


@pytest.mark.slow(reason="starts processes")
def test_a_block_diverges(tmp_path: Path) -> None:
    what = small(2, "greedy", epochs=1, lr=1e30)
    task = Task.model_validate(what["task"])
    decoupling = Decoupling.model_validate(what["decoupling"])
    settings = TrainSettings.model_validate(what["settings"])
    splits = load_splits(task, settings.validation_fraction)
    plain = settings.model_copy(update={"parallel": None})
    with pytest.raises(DivergedError) as alone:
        train(initial_network(task, decoupling, settings.seed), splits, plain)
    job = Job(task=task, decoupling=decoupling, settings=settings, devices=["cpu"] * 2, threads=1)
    with pytest.raises(DivergedError) as together:
        train_in_parallel(job, lambda numbers: None)
    assert str(together.value) == str(alone.value)


class TestLaunched:
    """Ranks that a launcher has started, or somebody by hand."""

    @pytest.mark.slow(reason="starts processes")
    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"lr": 0.1}, "train.lr: must be that of rank 0, 0.05, but got 0.1"),
            ({"seed": 1}, "train.seed: must be that of rank 0, 2021, but got 1"),
        ],
    )
    def test_other_settings(self, changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
        other = {**WHAT, "settings": {**WHAT["settings"], **changes}}
        with launched(tmp_path, {"0": WHAT, "1": other}) as ranks:
            line = f"sedona-nni: rank 1 (block 2 of 2): {complaint}\n"
            assert [each.ended(LIMIT_S) for each in ranks.values()] == [(2, line)] * 2

    @pytest.mark.slow(reason="starts processes")
    def test_another_version(self, tmp_path: Path) -> None:
        plugin = tmp_path / "older.py"
        plugin.write_text('import torch\n\ntorch.__version__ = "1.0"\n')
        with launched(tmp_path, {"0": WHAT, "1": {**WHAT, "plugins": [str(plugin)]}}) as ranks:
            rule = f"must be that of rank 0, {torch.__version__!r}, but got '1.0'"
            line = f"sedona-nni: rank 1 (block 2 of 2): version of torch: {rule}\n"
            assert [each.ended(LIMIT_S) for each in ranks.values()] == [(2, line)] * 2

    @pytest.mark.slow(reason="starts processes")
    def test_other_weights_from_the_same_settings(self, tmp_path: Path) -> None:
        plugin = tmp_path / "restless.py"
        plugin.write_text(RESTLESS)
        decoupling = {**WHAT["decoupling"], "aux": ["restless"]}
        what = {**WHAT, "decoupling": decoupling, "plugins": [str(plugin)]}
        with launched(tmp_path, {"0": what, "1": what}) as ranks:
            found = [each.ended(LIMIT_S) for each in ranks.values()]
        rule = r"must have initial weights like those of rank 0, with a sum of [\d.]+"
        name = r"blocks\.[01]\.[\w.]+"
        line = rf"sedona-nni: rank 1 \(block 2 of 2\): {name}: {rule}, but got [\d.]+\n"
        assert found == [(2, matching(line, said)) for _, said in found]

    @pytest.mark.slow(reason="starts processes")
    def test_another_number_of_processes(self, tmp_path: Path) -> None:
        other = {**WHAT, "environment": {"WORLD_SIZE": "3"}}
        with launched(tmp_path, {"0": WHAT, "1": other}) as ranks:
            rule = "launcher: must start 2 processes, by block [1, 1], but got 3"
            line = f"sedona-nni: rank 1: {rule}\n"
            assert [each.ended(LIMIT_S) for each in ranks.values()] == [(2, line)] * 2

    @pytest.mark.slow(reason="starts processes")
    def test_one_is_started_twice(self, tmp_path: Path) -> None:
        with launched(tmp_path, {"0": WHAT, "1": WHAT, "1 again": WHAT}) as ranks:
            rule = "must be started once, but another process is this rank"
            line = f"sedona-nni: rank 1 (block 2 of 2): {rule}\n"
            assert [each.ended(LIMIT_S) for each in ranks.values()] == [(2, line)] * 3

    @pytest.mark.slow(reason="starts processes")
    @pytest.mark.parametrize(
        ("there", "said"),
        [
            ("0", r"rank 1 \(block 2 of 2\) did not start within 3 s"),
            ("1", r"rank 1 \(block 2 of 2\): rank 0 cannot be reached at 127.0.0.1:\d+ \(.*\)"),
        ],
    )
    def test_one_is_missing(self, there: str, said: str, tmp_path: Path) -> None:
        what = small(2, "greedy", parallel={"start_s": 3})
        with launched(tmp_path, {there: what}) as ranks:
            code, line = ranks[there].ended(LIMIT_S)
        assert (code, line) == (1, matching(f"sedona-nni: {said}\n", line))

    @pytest.mark.slow(reason="starts processes")
    def test_a_port_that_is_taken(self, tmp_path: Path) -> None:
        what = small(2, "greedy", parallel={"start_s": 3})
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            with launched(tmp_path, {"0": what, "1": what}, MASTER_PORT=port) as ranks:
                complaint = f"MASTER_PORT: must be a free port, but got '{port}'"
                assert ranks["0"].ended(LIMIT_S) == (2, f"sedona-nni: {complaint}\n")
                code, line = ranks["1"].ended(LIMIT_S)
        words = r"rank 1 \(block 2 of 2\): rank 0 cannot be reached at .*"
        assert (code, line) == (1, matching(f"sedona-nni: {words}\n", line))

    @pytest.mark.slow(reason="starts processes")
    @pytest.mark.parametrize(
        ("rank", "number", "said"),
        [
            ("1", signal.SIGKILL, r"rank 1 \(block 2 of 2\) is gone"),
            ("0", signal.SIGKILL, r"rank 0 \(block 1 of 2\) is gone"),
            ("1", signal.SIGSTOP, r"rank 1 \(block 2 of 2\) has given no sign of life for 5 s"),
            ("0", signal.SIGSTOP, r"the host of rank 0 \(block 1 of 2\) cannot be reached"),
        ],
    )
    def test_one_is_lost(
        self, rank: str, number: signal.Signals, said: str, tmp_path: Path
    ) -> None:
        """Rank 0 holds what all ranks know each other from."""
        what = small(2, "greedy", epochs=1000, patience_s=PATIENCE_S)
        with launched(tmp_path, {"0": what, "1": what}) as ranks:
            while not (tmp_path / "1/trained/checkpoint/manifest.json").exists():
                assert ranks["0"].process.is_alive()
                time.sleep(0.05)
            os.kill(ranks[rank].process.pid, number)
            code, line = ranks["1" if rank == "0" else "0"].ended(PATIENCE_S + 10)
        assert (code, line) == (1, matching(f"sedona-nni: {said}\n", line))


@pytest.mark.slow(reason="starts processes")
def test_under_torchrun(tmp_path: Path) -> None:
    """It says itself which process was lost; nothing is left."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    what = small(2, "greedy", epochs=1000, patience_s=PATIENCE_S)
    training = start(tmp_path, what, before=torchrun)
    try:
        training.wait_for_epoch(2)
        ranks = [
            each
            for each in training.all()
            if each.environ().get("RANK") == "1" and each.ppid() == training.process.pid
        ]
        ranks[0].kill()
        code, said = ended(training)
    finally:
        training.end()
    assert code == 1
    assert "Signal 9 (SIGKILL)" in said
    assert check_checkpoint(tmp_path / "trained", 2) >= 2


@pytest.mark.slow(reason="starts processes")
def test_stopped_under_torchrun(tmp_path: Path) -> None:
    """The other rank says which, and torchrun ends the one that cannot."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    what = small(2, "greedy", epochs=1000, patience_s=PATIENCE_S)
    training = start(tmp_path, what, before=torchrun)
    try:
        training.wait_for_epoch(2)
        (stopped,) = (
            each
            for each in training.all()
            if each.environ().get("RANK") == "1" and each.ppid() == training.process.pid
        )
        stopped.suspend()
        code = training.wait(PATIENCE_S + 40)  # torchrun gives the others 30 s to end
        said = training.errors()
        left = training.left_after(PATIENCE_S + 10)
    finally:
        training.end()
    assert code == 1
    assert "rank 1 (block 2 of 2) has given no sign of life for 5 s" in said
    assert not left
    assert check_checkpoint(tmp_path / "trained", 2) >= 2


@pytest.mark.slow(reason="starts processes")
def test_a_host_is_cut_off(tmp_path: Path) -> None:
    """Both sides end."""
    what = small(2, "greedy", epochs=1000, patience_s=PATIENCE_S)
    trainings = []
    with contextlib.ExitStack() as stack:
        try:
            interfaces = stack.enter_context(link("1gbit"))
        except InputError as error:
            pytest.skip(str(error))
        for rank, interface in enumerate(interfaces):
            assert interface.namespace is not None
            inside = ("nsenter", f"--net={interface.namespace}")
            environment = {
                **{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
                **{"MASTER_ADDR": "10.213.0.1", "MASTER_PORT": "29511"},
                "GLOO_SOCKET_IFNAME": interface.name,
            }
            before = (*inside, sys.executable)
            folder = tmp_path / str(rank)
            trainings.append(start(folder, what, before=before, environment=environment))
            stack.callback(trainings[-1].end)
        trainings[0].wait_for_epoch(2)
        down = ("ip", "link", "set", interfaces[0].name, "down")
        subprocess.run([*("nsenter", f"--net={interfaces[0].namespace}"), *down], check=True)
        found = [ended(training) for training in trainings]
    silent = "rank 1 (block 2 of 2) has given no sign of life for 5 s"
    assert found[0] == (1, f"sedona-nni: {silent}\n")
    assert found[1] == (1, "sedona-nni: the host of rank 0 (block 1 of 2) cannot be reached\n")


@pytest.mark.slow(reason="a training in processes")
def test_only_this_host_can_reach_it(tmp_path: Path) -> None:
    training = start(tmp_path, WHAT)
    try:
        training.wait_for_epoch(1)
        caller = psutil.Process(training.process.pid)
        addresses = listening([caller, *caller.children(recursive=True)])
        assert len(addresses) >= 3  # the store, and gloo in each rank
        assert {*addresses} <= {"127.0.0.1", "::1"}
        rank = training.rank(1)
        assert rank is not None
        # Whatever this host's name leads to, which may be this address here
        assert rank.environ()["GLOO_SOCKET_IFNAME"].startswith("lo")
    finally:
        training.end()
