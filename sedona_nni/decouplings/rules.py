"""Decouplings that follow from a rule, in words of one line.

- ``backprop``: no cut
- ``uniform:<K>:<aux>``: K blocks of about equal length, with the same auxiliary network at each cut
- ``every:<n>:<aux>``: a cut after every n layers; where n does not divide their number, the last
  block has fewer

Source: Belilovsky et al., ICML 2020 (blocks of n layers). The release of that paper forgets up to
n-1 last layers where n does not divide their number.
"""

from __future__ import annotations

from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.errors import InputError

__all__ = ["RULES", "cuts_every", "decoupling_by_rule", "is_rule"]

RULES = ("backprop", "uniform:<K>:<aux>", "every:<n>:<aux>")
_EXAMPLES = {"uniform": "uniform:4:mlp-sr", "every": "every:3:mlp-sr"}


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


def decoupling_by_rule(text: str, backbone: str, num_layers: int) -> Decoupling:
    """Return what a rule makes of a backbone.

    The auxiliary network's name is taken as it is.

    Args:
        text: One of `RULES`.
        backbone: Name of the backbone.
        num_layers: L, its number of layers.

    Raises:
        InputError: if the text is not a rule or its number does not fit the backbone.

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
    kind, number, aux = (*text.split(":"), "", "")[:3]
    if kind not in _EXAMPLES or not number.isdigit() or not aux:
        example = _EXAMPLES.get(kind, "backprop or uniform:4:mlp-sr")
        raise InputError.rule("decoupling", f"must be like {example}", text)
    make_cuts = uniform_cuts if kind == "uniform" else cuts_every
    cuts = make_cuts(num_layers, int(number))
    return Decoupling(backbone=backbone, cuts=cuts, aux=[aux] * len(cuts))
