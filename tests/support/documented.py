"""Examples in docstrings."""

from __future__ import annotations

import doctest
import textwrap


def run_example(documented: object) -> None:
    """Run the code of a docstring's examples here, so that what it registers is registered."""
    for example in doctest.DocTestParser().get_examples(textwrap.dedent(documented.__doc__ or "")):
        exec(example.source, _names)


_names: dict[str, object] = {}
