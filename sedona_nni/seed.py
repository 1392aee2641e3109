"""What may be a seed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["Seed"]

Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""A seed: what JSON carries exactly wherever it is read, and torch and NumPy accept."""
