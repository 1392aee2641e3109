"""Whether what is installed is what this project runs with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from sedona_nni.errors import InputError

__all__ = ["check_versions"]

_CHECKED = ("torch", "torchvision", "nni")
"""What others install, too, and what fails far from the reason where its version is another."""


def check_versions(distribution: str = "sedona-nni") -> None:
    """Check what is installed against what a distribution asks for, extras included.

    What is not installed at all is another matter: a command that needs it says so. So is a
    checkout that nobody has installed, of which nothing is known.

    Raises:
        InputError: that names the first with another version.
    """
    try:
        asked = [Requirement(line) for line in requires(distribution) or []]
    except PackageNotFoundError:
        return
    for requirement in asked:
        if requirement.name not in _CHECKED:
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            rule = f"must be of version {requirement.specifier} for {distribution}"
            raise InputError.rule(requirement.name, rule, found)
