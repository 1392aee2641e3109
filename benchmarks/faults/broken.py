"""What a round of a campaign ends with if the product does not keep its word."""

from __future__ import annotations

__all__ = ["Broken"]


class Broken(Exception):
    """What was promised of something with a fault does not hold."""
