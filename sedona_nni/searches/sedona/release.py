"""Reads the search results that the authors of SEDONA published as ``alpha.pt`` and ``beta.pt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from sedona_nni.errors import InputError
from sedona_nni.files import read_json, read_tensors, reading
from sedona_nni.models import num_layers
from sedona_nni.searches.sedona.result import SearchResult

__all__ = ["import_release"]

_MOST_NUMBERS = 10**6


def import_release(
    alpha: Path | str, beta: Path | str | None, *, backbone: str, dataset: str = "cifar10"
) -> SearchResult:
    """Read a published search result.

    Column c of beta is the release's auxiliary network of depth c + 1, our ``conv<c + 1>``.

    Args:
        alpha: ``alpha.pt``, the tensor (L-1, 2), or a JSON file with it.
        beta: ``beta.pt``, the tensor (L-1, C), or a JSON file with it; None if ``alpha`` is a JSON
            file with both, ``{"alpha": ..., "beta": ...}``.
        backbone: What was searched on.
        dataset: Which data set.

    Raises:
        InputError: if a file cannot be read, or does not fit the backbone.

    Examples:
        >>> import torch
        >>> from pathlib import Path
        >>> from sedona_nni import import_release
        >>> torch.save(torch.randn(7, 2), "alpha.pt")
        >>> torch.save(torch.randn(7, 4), "beta.pt")
        >>> found = import_release(Path("alpha.pt"), Path("beta.pt"), backbone="vgg11")
        >>> found.aux_choices, found.num_layers
        (['conv1', 'conv2', 'conv3', 'conv4'], 8)
    """
    alpha, beta = Path(alpha), None if beta is None else Path(beta)
    if beta is None:
        both = read_json(alpha)
        if not isinstance(both, dict) or not {"alpha", "beta"} <= both.keys():
            raise InputError(f"{alpha}: must have alpha and beta, or name the file of beta, too")
        values = both["alpha"], both["beta"]
    else:
        values = _read(alpha), _read(beta)
    try:
        result = SearchResult(
            backbone=backbone,
            dataset=dataset,
            aux_choices=[f"conv{column + 1}" for column in range(len(values[1][0]))],
            alpha=values[0],
            beta=values[1],
            provenance={
                "imported_from": [path.name for path in (alpha, beta) if path],
                "settings": {"release_mode": True},
            },
        )
    except ValidationError as error:
        raise InputError.from_validation(error, str(alpha)) from None
    except (TypeError, IndexError):
        raise InputError(f"{beta or alpha}: must hold a matrix (L-1, C)") from None
    if result.num_layers != num_layers(backbone):
        raise InputError.rule(
            "alpha", f"must have a row per boundary of {backbone}", result.num_layers - 1
        )
    return result


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return read_json(path)
    loaded = read_tensors(path)
    if not isinstance(loaded, torch.Tensor):
        raise InputError.rule(str(path), "must hold a tensor", type(loaded).__name__)
    if loaded.ndim != 2 or loaded.numel() > _MOST_NUMBERS:
        raise InputError.rule(str(path), "must hold a matrix (L-1, C)", tuple(loaded.shape))
    with reading(path):  # it may be sparse, or without numbers
        return loaded.tolist()
