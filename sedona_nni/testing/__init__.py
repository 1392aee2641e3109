"""Suites that every auxiliary network, method and search passes: ours, and yours.

A suite is a class. Subclass it in a test of your own, say what is to be tested, and run pytest,
which nothing else of the library needs: docs/guides/conformance.md.
"""

from __future__ import annotations

import pytest

# So that a suite that fails shows the values, as a test does
pytest.register_assert_rewrite(
    *(f"{__name__}.{suite}" for suite in ("auxiliary_networks", "methods", "searches"))
)
