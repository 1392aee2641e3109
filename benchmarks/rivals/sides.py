"""All rivals by name: back-propagation in its forms, pipelines, and our blocks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from benchmarks.rivals.blocks import in_parallel
from benchmarks.rivals.data_parallel import ddp, fsdp
from benchmarks.rivals.pipelines import in_stages
from benchmarks.rivals.processes import Rival
from benchmarks.rivals.setting import RivalSetting
from benchmarks.rivals.single import (
    accumulated,
    checkpointed,
    in_turn,
    plain,
)
from sedona_nni.decouplings.cost import count_parameters
from sedona_nni.models.batch_norm import BatchNorm

__all__ = ["in_words", "rivals"]

_WORDS = {
    "backprop": "back-propagation",
    "backprop_threads": "back-propagation, {threads} threads",
    "checkpoint": "checkpointing",
    "accumulate": "accumulation x{accumulate}",
    "ddp": "DDP",
    "fsdp": "FSDP2",
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "zero_bubble": "zero bubble",
    "zero_bubble_v": "zero bubble, V",
    "greedy": "blocks in turn",
    "greedy_accumulate": "blocks in turn, x{accumulate}",
    "greedy_checkpoint": "blocks in turn, checkpoints",
    "blocks": "blocks in parallel",
    "blocks_bf16": "blocks in parallel, bf16",
    "blocks_accumulate": "blocks in parallel, x{accumulate}",
}


def in_words(name: str, setting: RivalSetting) -> str:
    """Return what a reader calls a rival."""
    words, _, parts = name.partition("/")
    said = _WORDS[words].format(threads=setting.threads, accumulate=setting.accumulate)
    return f"{said}, {parts} parts" if parts else said


def rivals(setting: RivalSetting) -> dict[str, Rival]:
    """Return all rivals by name; pipelines with so many microbatches are ``gpipe/4`` and so on."""
    n, whole, blocks = setting.processes, setting.batch_size, setting.num_blocks
    part = whole // setting.accumulate
    with torch.device("meta"):
        network = setting.network()
    gradients = 4 * count_parameters(network)
    # By a ring each process sends (n-1)/n of a sum or a gathering, all together n-1 times as much
    ring = (n - 1) * gradients
    single = partial(Rival, processes=1, threads=1)
    alone = "needs 2 processes or more" if n == 1 else None
    uncut = "needs 2 blocks or more" if blocks == 1 else None
    found = {
        "backprop": single(plain, exact=True, statistics_of=whole),
        "backprop_threads": Rival(plain, 1, setting.threads, exact=True, statistics_of=whole),
        "checkpoint": single(checkpointed, exact=True, statistics_of=whole),
        "accumulate": single(accumulated, exact=True, statistics_of=part),
        "ddp": Rival(ddp, n, 1, True, whole // n, 2 * ring, impossible=alone),
        "fsdp": Rival(fsdp, n, 1, True, whole // n, 3 * ring, impossible=alone),
    }
    features = sum(setting.cut_bytes())
    for schedule in ("gpipe", "1f1b", "zero_bubble"):
        for number in setting.microbatches:
            options = {"schedule": schedule, "microbatches": number}
            found[f"{schedule}/{number}"] = Rival(
                in_stages, blocks, 1, True, whole // number, 2 * features, options, uncut
            )
    folded = "needs an even number of blocks, 4 or more" if blocks % 2 or blocks < 4 else None
    for number in setting.microbatches:
        # Between the two stages of the last process nothing is sent
        sent = 2 * (features - (0 if folded else setting.cut_bytes()[blocks // 2 - 1]))
        options = {"schedule": "zero_bubble_v", "microbatches": number}
        found[f"zero_bubble_v/{number}"] = Rival(
            in_stages, max(1, blocks // 2), 1, True, whole // number, sent, options, folded
        )
    if not any(isinstance(module, BatchNorm) for module in network.modules()):
        found = {name: replace(rival, statistics_of=whole) for name, rival in found.items()}
    return found | {
        "greedy": single(in_turn, exact=False, statistics_of=whole),
        "greedy_accumulate": single(
            in_turn, exact=False, statistics_of=part, options={"parts": setting.accumulate}
        ),
        "greedy_checkpoint": single(
            in_turn, exact=False, statistics_of=whole, options={"checkpoints": True}
        ),
        "blocks": Rival(in_parallel, blocks, 1, False, whole, features, impossible=uncut),
        "blocks_bf16": Rival(
            in_parallel, blocks, 1, False, whole, features // 2, {"wire": "bf16"}, uncut
        ),
        "blocks_accumulate": Rival(
            in_parallel, blocks, 1, False, part, features, {"parts": setting.accumulate}, uncut
        ),
    }
