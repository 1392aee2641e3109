"""Blocks in parallel and their rivals: what is compared, how it is told, nothing left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rival_sides import TINY, one_fails
from torch import nn

from benchmarks.__main__ import main
from benchmarks.rivals import compare, links
from benchmarks.rivals.pipelines import Stage
from benchmarks.rivals.processes import Measurement, Rival, RivalError, run
from benchmarks.rivals.setting import RivalSetting, choose_cuts
from benchmarks.rivals.sides import in_words, rivals
from benchmarks.rivals.single import accumulated, checkpointed, in_turn, plain
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.errors import InputError

MEASURED = Measurement(
    step_s=0.5,
    first_step_s=3.0,
    busy_s=None,
    block_s=None,
    peak_mib=300.0,
    baseline_mib=200.0,
    weights_mib=4.0,
    optimizer_mib=4.0,
    gradient_mib=4.0,
    held_mib=9.0,
    step_mib=11.0,
    sent_bytes=None,
)


class TestSetting:
    def test_cuts(self) -> None:
        fields = {"backbone": "vgg19", "batch_size": 4, "width_multiplier": 0.125, "image_size": 32}
        fields["num_classes"] = 10
        assert choose_cuts("uniform", 2, "conv1", **fields) == (7,)
        assert choose_cuts("5,12", 3, "conv1", **fields) == (5, 12)
        assert len(choose_cuts("published", 4, "conv1", **fields)) == 3
        assert choose_cuts("macs", 1, "conv1", **fields) == ()

    def test_parts_have_to_be_whole(self) -> None:
        with pytest.raises(ValueError, match="microbatches must divide batch_size, 8"):
            RivalSetting(**{**TINY.model_dump(), "microbatches": (8,)})

    def test_bytes_of_a_cut(self) -> None:
        """vgg11 at width 1/8, after its third layer: 8 channels of 8 x 8, float32."""
        assert TINY.cut_bytes() == [4 * 8 * 8 * 8 * 8]


class TestSides:
    def test_what_is_sent(self) -> None:
        four = RivalSetting(**{**TINY.model_dump(), "cuts": (1, 2, 4)})
        sides = rivals(four)
        low, middle, high = four.cut_bytes()
        assert sides["blocks"].bytes_per_step == low + middle + high
        assert sides["blocks_bf16"].bytes_per_step == (low + middle + high) // 2
        assert sides["1f1b/4"].bytes_per_step == 2 * (low + middle + high)
        assert sides["zero_bubble_v/4"].bytes_per_step == 2 * (low + high)  # the middle one stays
        weights = sum(weight.numel() for weight in four.network().parameters())
        assert sides["ddp"].bytes_per_step == 2 * 4 * weights  # a ring of 2
        assert sides["zero_bubble_v/4"].processes == 2

    def test_parts_matter_to_batch_norms_alone(self) -> None:
        assert rivals(TINY)["accumulate"].statistics_of == TINY.batch_size // TINY.accumulate
        transformer = 'torchvision:vit_b_16 {"args": {"image_size": 32}}'
        changed = {"backbone": transformer, "width_multiplier": 1, "cuts": (5,)}
        setting = RivalSetting(**{**TINY.model_dump(), **changed})
        exact = {name: side for name, side in rivals(setting).items() if side.exact}
        assert {side.statistics_of for side in exact.values()} == {setting.batch_size}

    def test_what_cannot_be(self) -> None:
        sides = rivals(RivalSetting(**{**TINY.model_dump(), "cuts": (), "processes": 1}))
        assert sides["ddp"].impossible == "needs 2 processes or more"
        assert sides["blocks"].impossible == sides["1f1b/4"].impossible == "needs 2 blocks or more"
        assert "even number of blocks" in str(sides["zero_bubble_v/4"].impossible)
        with pytest.raises(RivalError, match="needs 2 blocks"):
            run(sides["blocks"], TINY)

    def test_names_for_readers(self) -> None:
        assert in_words("1f1b/4", TINY) == "1F1B, 4 parts"
        assert in_words("backprop_threads", TINY) == "back-propagation, 2 threads"

    def test_checkpoints_change_no_weight(self) -> None:
        """A step from the same weights on the same batch; sums are the same ones."""
        first, second = (_after_a_step(prepare) for prepare in (plain, checkpointed))
        assert len(first) == len(second) > 0
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(one, other)

    def test_accumulation_is_the_mean_over_parts(self) -> None:
        """By hand: the mean gradient of the parts, each with its own batch norm."""
        setting = RivalSetting(**{**TINY.model_dump(), "accumulate": 2})
        network = setting.network().train()
        _without_dropout(network)
        images, labels = setting.batch()
        losses = [
            nn.functional.cross_entropy(network(part), wanted)
            for part, wanted in zip(images.chunk(2), labels.chunk(2), strict=True)
        ]
        weights = list(network.parameters())
        gradients = torch.autograd.grad(sum(losses, torch.zeros(())) / 2, weights)
        after = _after_a_step(accumulated, setting)
        for weight, gradient, got in zip(weights, gradients, after, strict=True):
            torch.testing.assert_close(got, weight - 0.01 * gradient)

    def test_blocks_in_turn_take_parts(self) -> None:
        """Below the cut a block of the same loss by itself, in two parts, moves the same way."""
        work = in_turn(TINY, 0, parts=2)
        block = build_decoupled(TINY.network(), TINY.decoupling).blocks[0]
        images, labels = TINY.batch()
        losses = [
            block.local_loss(block(part), wanted, nn.functional.cross_entropy)[0]
            for part, wanted in zip(images.chunk(2), labels.chunk(2), strict=True)
        ]
        weights = list(block.parameters())
        gradients = torch.autograd.grad(sum(losses, torch.zeros(())) / 2, weights)
        work.step()
        network = work.modules[0]
        assert isinstance(network, DecoupledNetwork)
        after = list(network.blocks[0].parameters())
        for weight, gradient, got in zip(weights, gradients, after, strict=True):
            torch.testing.assert_close(got, weight - 0.01 * gradient)
        assert len(work.block_s[0]) == 2

    def test_stages_are_the_network(self) -> None:
        network = TINY.network().eval()
        first = Stage(nn.Sequential(*network.layers[:3]), first=True, last=False, copies=False)
        rest = nn.Sequential(*network.layers[3:], network.head)
        second = Stage(rest, first=False, last=True, copies=False)
        images, _ = TINY.batch()
        sent = first(images)
        assert sent.is_contiguous()
        torch.testing.assert_close(second(sent), network(images))


def _without_dropout(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


def _after_a_step(prepare: Any, setting: RivalSetting = TINY) -> list[torch.Tensor]:
    work = prepare(setting, 0)
    _without_dropout(work.modules[0])
    work.step()
    return list(work.modules[0].parameters())


class TestRun:
    @pytest.mark.slow(reason="two processes each")
    @pytest.mark.parametrize(
        ("killed", "reason"), [(False, "ValueError: broken"), (True, "out of memory")]
    )
    def test_who_fails_ends_all(self, killed: bool, reason: str) -> None:
        """The first process would wait for a minute."""
        rival = Rival(one_fails, 2, 1, True, 8, options={"killed": killed})
        started = time.monotonic()
        with pytest.raises(RivalError, match=f"^{reason}$"):
            run(rival, TINY)
        assert time.monotonic() - started < TINY.timeout_s
        assert not multiprocessing.active_children()

    @pytest.mark.slow(reason="four rivals of up to two processes")
    def test_command(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        line = "parallel --backbone vgg11 --batch-size 8 --width-multiplier 0.125 --cuts macs "
        line += "--num-blocks 2 --microbatches 4 --repeats 1 --steps 2 --json "
        line += "--sides backprop,1f1b/4,greedy,blocks"
        monkeypatch.setattr(sys, "argv", ["benchmarks", *line.split()])
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == 0
        printed = capsys.readouterr().out
        found = json.loads(printed)
        for name in ("backprop", "1f1b/4", "greedy", "blocks"):
            side = found[name]
            assert side["images_per_s"] == side["values_images_per_s"][0] > 0, name
            count = 2 if name in ("1f1b/4", "blocks") else 1
            assert len(side["peak_mib"]) == len(side["step_mib"]) == count
            assert side["peak_mib"][0] > side["baseline_mib"][0] > 0
            assert side["held_mib"][0] > side["weights_mib"][0] > 0
            assert side["exact"] == (name not in ("greedy", "blocks"))
        parts = found["blocks"]["weights_mib"]
        assert sum(parts) == pytest.approx(found["greedy"]["weights_mib"][0])  # each has its own
        assert found["blocks"]["bytes_per_step"] == sum(found["cut_bytes"]) > 0
        assert found["share_reached"] > 0
        assert not multiprocessing.active_children()
        (tmp_path / "measured.json").write_text(printed)
        arguments = ["benchmarks", "simulate", str(tmp_path / "measured.json"), "--json"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == 0
        simulated = json.loads(capsys.readouterr().out)
        assert simulated["simulated"] is True
        allowed = 8 / max(found["greedy"]["block_s"])
        assert simulated["images_per_s"] == pytest.approx(allowed)


class TestCompare:
    def test_turns_and_medians(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sides take turns, who goes first changes; one that fails is left out from then on."""
        log: list[str] = []
        sides = _sides()
        names = {id(rival): name for name, rival in sides.items()}
        seconds = iter([0.5, 0.4, 0.8])

        def measured(rival: Rival, _setting: RivalSetting, _by: object) -> list[Measurement]:
            name = names[id(rival)]
            log.append(name)
            if name == "ddp":
                raise RivalError("no network")
            if name == "greedy":
                return [replace(MEASURED, block_s=[0.3, 0.2])]
            if name == "blocks":
                last = replace(MEASURED, step_s=next(seconds), busy_s=0.25)
                return [replace(MEASURED, busy_s=0.4, peak_mib=500.0), last]
            return [MEASURED]

        monkeypatch.setattr(compare, "run", measured)
        found = compare.compare(sides, TINY, repeats=3)
        first, second = ["backprop", "ddp", "greedy", "blocks"], ["blocks", "greedy", "backprop"]
        assert log == [*first, *second, *reversed(second)]
        assert found["ddp"] == {"failure": "no network"}
        blocks = found["blocks"]
        assert blocks["values_images_per_s"] == [16.0, 16.0, 10.0]  # of the slowest process
        assert blocks["images_per_s"] == 16.0
        assert blocks["peak_mib"] == [500.0, 300.0]
        assert blocks["allocated_mib"] == [20.0, 20.0]
        assert blocks["sent_bytes"] is None
        assert found["greedy"]["block_s"] == [0.3, 0.2]
        assert found["share_reached"] == pytest.approx(16 * 0.4 / 8)
        assert found["share_reached_alone"] == pytest.approx(16 * 0.3 / 8)
        tables = compare.tables("title", found, TINY)
        assert tables["failures"][0].rows == [["DDP", "no network"]]
        rates, sent = tables["rates"]
        assert rates.rows[-1] == ["blocks in parallel", "16.0", "10.0", "16.0", "1.00", "3.0"]
        assert sent.rows[-1][-2:] == ["0.02", "no"]
        assert tables["memory"][0].rows[-1] == [
            *("blocks in parallel", "500", "300", "9", "11", "20", "1.00", "40")
        ]

    def test_without_what_shares_are_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def measured(*_: object) -> list[Measurement]:
            return [MEASURED]

        monkeypatch.setattr(compare, "run", measured)
        sides = {"checkpoint": _sides()["backprop"]}
        found = compare.compare(sides, TINY, repeats=1)
        assert found["share_reached"] is None
        assert compare.tables("title", found, TINY)["rates"][0].rows[0][4] == "-"


def _sides() -> dict[str, Rival]:
    known = rivals(TINY)
    return {name: known[name] for name in ("backprop", "ddp", "greedy", "blocks")}


_SENDING = ("ddp", "blocks_bf16")


class TestLink:
    def test_rates(self) -> None:
        assert links.bits_per_s("1gbit") == 1e9
        assert links.bits_per_s("1.5mbit") == 1.5e6
        for wrong in ("0mbit", "1", "fast", "1gbit;reboot"):
            with pytest.raises(InputError, match="must be a rate like 1gbit"):
                links.bits_per_s(wrong)

    def test_who_may_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(InputError, match="must be run by root"), links.link("1gbit"):
            pass
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "tc" else tool)
        with pytest.raises(InputError, match="must find tc on"), links.link("1gbit"):
            pass

    @pytest.mark.slow(reason="two rivals of two processes")
    def test_what_passes_is_what_is_said_to_be_sent(self) -> None:
        """And the link is as slow as it should be, and gone at the end."""
        changes = {"width_multiplier": 0.5, "cuts": (0,), "warm_up": 4, "steps": 24}
        setting = RivalSetting(**{**TINY.model_dump(), **changes})
        sides = rivals(setting)
        try:
            with links.link("50mbit") as ends:
                holders = [str(end.namespace).split("/")[2] for end in ends]
                found = {name: run(sides[name], setting, ends) for name in _SENDING}
        except InputError as error:
            pytest.skip(str(error))
        for name, (low, high) in found.items():
            assert low.sent_bytes is not None
            assert high.sent_bytes is not None
            said = sides[name].bytes_per_step
            # Headers of packets and acknowledgements come on top; steps are not cut sharply
            assert 0.8 * said < low.sent_bytes + high.sent_bytes < 1.3 * said, name
            assert high.step_s > 0.8 * said / 2 / (50e6 / 8), name
        assert not any(Path("/proc", holder).exists() for holder in holders)

    @pytest.mark.slow(reason="a process")
    def test_nothing_is_left_when_killed(self) -> None:
        code = "import time\nfrom benchmarks.rivals.links import link\n"
        code += "with link('1gbit') as ends:\n"
        code += "    print(*(str(end.namespace) for end in ends), flush=True)\n    time.sleep(60)"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as process:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            process.kill()
        if not said:
            pytest.skip("no link can be made here")
        deadline = time.monotonic() + 10
        while any(_is_there(each) for each in said) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_is_there(each) for each in said)


def _is_there(namespace: str) -> bool:
    return Path(namespace).parents[1].exists()
