"""Reading what searches found, and decouplings, from files.

What the authors of SEDONA published comes with this project: ``published:vgg19`` and the like name
its files wherever the path of one can be given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, TypeAdapter, ValidationError

from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.files import read_json, user_path
from sedona_nni.searches.kind import SEARCHES

__all__ = [
    "AnyOutcome",
    "document_path",
    "load_decoupling",
    "load_document",
    "load_outcome",
    "parse_result",
]


def _formats() -> dict[str, type[SearchOutcome]]:
    """Return the outcomes of all searches by the format of their documents."""
    outcomes = [SEARCHES[name].outcome for name in SEARCHES]
    return {outcome.format_name(): outcome for outcome in outcomes}


def _by_format(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    formats, format_ = _formats(), content.get("format")
    if not isinstance(format_, str) or format_ not in formats:
        raise ValueError(f"format must be one of {', '.join(formats)}, but got {format_!r}")
    return formats[format_].model_validate(content)


AnyOutcome = Annotated[SerializeAsAny[SearchOutcome], BeforeValidator(_by_format)]
"""The outcome of any search that is known, by the ``format`` of its document."""

_AnyOutcome: TypeAdapter[SearchOutcome] = TypeAdapter(AnyOutcome)


def parse_result(content: Any) -> SearchOutcome:
    """Return whichever search's outcome some JSON is.

    Raises:
        ValidationError: if it is of none that is known, or breaks a rule.
    """
    return _AnyOutcome.validate_python(content)


_PUBLISHED = "published:"
_PUBLISHED_FOLDER = Path(__file__).parents[1] / "experiments" / "published"


def document_path(text: str | Path, folder: Path = Path()) -> Path:
    """Return the file of a decoupling or of a search's outcome that a user names.

    Args:
        text: Its path, or ``published:`` and the backbone of what was published.
        folder: What a relative path is relative to.

    Raises:
        InputError: if nothing was published of the backbone.
    """
    if not str(text).startswith(_PUBLISHED):
        return folder / user_path(text)
    name = str(text).removeprefix(_PUBLISHED)
    names = sorted(path.stem for path in _PUBLISHED_FOLDER.glob("*.json"))
    if name not in names:
        raise InputError.rule("published", f"must be one of {', '.join(names)}", name)
    return _PUBLISHED_FOLDER / f"{name}.json"


def load_outcome(path: Path | str) -> SearchOutcome:
    """Read what a search found.

    Raises:
        InputError: if the file is nothing of this sort.

    Examples:
        >>> from pathlib import Path
        >>> from sedona_nni import SearchResult, load_outcome
        >>> found = SearchResult(
        ...     backbone="dgl-cnn4", dataset="digits", aux_choices=["conv1", "conv2"],
        ...     alpha=[(3, 0), (2, 0), (0, 1)], beta=[(0, 1), (1, 0), (1, 0)],
        ... )
        >>> found.save(Path("search-result.json"))
        >>> load_outcome(Path("search-result.json")) == found
        True
    """
    try:
        return parse_result(read_json(Path(path)))
    except ValidationError as error:
        raise InputError.from_validation(error, str(path)) from None


def load_document(path: Path | str) -> Decoupling | SearchOutcome:
    """Read whichever of these documents a file is.

    Raises:
        InputError: if it is none.
    """
    content = read_json(Path(path))
    format_ = content.get("format") if isinstance(content, dict) else None
    is_outcome = isinstance(format_, str) and format_ in _formats()
    return load_outcome(path) if is_outcome else Decoupling.load(path)


def load_decoupling(
    path: Path | str,
    num_blocks: int | None = None,
    derive: Callable[[SearchOutcome, int], Decoupling] = discretise,
) -> Decoupling:
    """Read a decoupling or derive it from a search result.

    Args:
        path: Of either kind of document.
        num_blocks: K; 0 leaves it to the search, see `decouplings.choice.discretise`. Needed with
            what a search found, and only there.
        derive: Makes the decoupling of a search's outcome for K.

    Raises:
        InputError: if the file is neither or does not go with ``num_blocks``.

    Examples:
        >>> from pathlib import Path
        >>> from sedona_nni import Decoupling, load_decoupling
        >>> Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"]).save(Path("two.json"))
        >>> load_decoupling(Path("two.json")).in_words()
        'cut after layer 2 (conv1)'
    """
    document = load_document(path)
    if isinstance(document, SearchOutcome):
        if num_blocks is None:
            raise InputError(f"num_blocks: must be given, as {path} is a search result")
        return derive(document, num_blocks)
    if num_blocks is not None:
        raise InputError.rule(
            "num_blocks", f"must not be given, as {path} is a decoupling", num_blocks
        )
    return document
