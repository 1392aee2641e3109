"""Decouplings that follow from a rule, in words of one line.

- ``backprop``: no cut
- ``uniform:<K>:<aux>``: K blocks of about equal length, with the same auxiliary network at each cut
- ``every:<n>:<aux>``: a cut after every n layers; where n does not divide their number, the last
  block has fewer
- ``balanced:<K>:<aux>``: K blocks of which the largest has as few MACs as can be
- ``memory-balanced:<K>:<aux>``: K blocks of which the largest takes as little memory as can be; the
  auxiliary networks count in both, see `decouplings.balance`

Source: Belilovsky et al., ICML 2020 (blocks of n layers). The release of that paper forgets up to
n-1 last layers where n does not divide their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sedona_nni.decouplings.balance import balanced_decoupling
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.errors import InputError
from sedona_nni.teachers.auxiliary import check_plain

__all__ = ["RULES", "RuleCosts", "cuts_every", "decoupling_by_rule", "is_rule"]

RuleCosts = Callable[[Literal["macs", "memory"], str], Compute]
"""Counts what layers and one auxiliary network, given by name, cost."""

RULES = (
    "backprop",
    "uniform:<K>:<aux>",
    "every:<n>:<aux>",
    "balanced:<K>:<aux>",
    "memory-balanced:<K>:<aux>",
)
_EXAMPLES = {
    "uniform": "uniform:4:mlp-sr",
    "every": "every:3:mlp-sr",
    "balanced": "balanced:4:conv1",
    "memory-balanced": "memory-balanced:4:conv1",
}
_BALANCED: dict[str, Literal["macs", "memory"]] = {"balanced": "macs", "memory-balanced": "memory"}


def cuts_every(num_layers: int, block_size: int) -> list[int]:
    """Cut L layers after every ``block_size``; the last block has what is left.

    Raises:
        InputError: unless 1 <= block_size <= num_layers.
    """
    if not 1 <= block_size <= num_layers:
        raise InputError.rule(
            "block_size", f"must be from 1 to the number of layers, {num_layers}", block_size
        )
    return list(range(block_size - 1, num_layers - 1, block_size))


def is_rule(text: str) -> bool:
    """Say whether a text means to be one of `RULES`, and not, say, the name of a file."""
    return text == "backprop" or text.partition(":")[0] in _EXAMPLES


def decoupling_by_rule(
    text: str, backbone: str, num_layers: int, costs: RuleCosts | None = None
) -> Decoupling:
    """Return what a rule makes of a backbone.

    The auxiliary network's name is taken as it is, unless its costs are asked for.

    Args:
        text: One of `RULES`.
        backbone: Name of the backbone.
        num_layers: L, its number of layers.
        costs: What a balanced rule balances.

    Raises:
        InputError: if the text is not a rule, its number does not fit the backbone, or costs are
            missing.

    Examples:
        >>> from sedona_nni import decoupling_by_rule
        >>> decoupling_by_rule("uniform:4:mlp-sr", "vgg11", num_layers=8).cuts
        [1, 3, 5]
        >>> decoupling_by_rule("every:3:mlp-sr", "vgg11", num_layers=8).cuts
        [2, 5]
        >>> decoupling_by_rule("backprop", "vgg11", num_layers=8).cuts
        []
    """
    if text == "backprop":
        return Decoupling(backbone=backbone)
    kind, *rest = text.split(":")
    number, aux = rest if len(rest) == 2 else ("", "")
    if kind not in _EXAMPLES or not number.isdigit() or not aux:
        example = _EXAMPLES.get(kind, "backprop or uniform:4:mlp-sr")
        raise InputError.rule("decoupling", f"must be like {example}", text)
    if kind in _BALANCED:
        if costs is None:
            raise InputError.rule("decoupling", "must not be a balanced rule without costs", text)
        check_plain([aux], "in balanced blocks")  # before anything is counted
        return balanced_decoupling(costs(_BALANCED[kind], aux), int(number), aux)
    make_cuts = uniform_cuts if kind == "uniform" else cuts_every
    cuts = make_cuts(num_layers, int(number))
    return Decoupling(backbone=backbone, cuts=cuts, aux=[aux] * len(cuts))
