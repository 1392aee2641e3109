"""Registries: names, families of names, and who is first."""

from __future__ import annotations

import pytest

from sedona_nni.errors import InputError
from sedona_nni.registry import Registry


@pytest.fixture
def registry() -> Registry[str]:
    """Return one with two names, a family, and a name that is something else."""
    made: Registry[str] = Registry("thing", reserved=["none"])
    made.add("b", "the b")
    made.add_family("a", lambda number: f"a of {number}", listed=[1, 2], rest="a higher aN")
    made.add("c", "the c")
    return made


def test_names_in_the_order_of_their_registration(registry: Registry[str]) -> None:
    assert [*registry] == ["b", "a1", "a2", "c"]
    assert [registry[name] for name in registry] == ["the b", "a of 1", "a of 2", "the c"]


def test_a_family_has_more_than_is_listed(registry: Registry[str]) -> None:
    assert registry["a31"] == "a of 31"
    assert "a31" in registry


@pytest.mark.parametrize("name", ["a0", "a", "a01", "a-1", "none", "", "xa1", "a1x"])
def test_unknown_names(registry: Registry[str], name: str) -> None:
    assert name not in registry
    with pytest.raises(InputError) as caught:
        registry[name]
    assert str(caught.value) == (
        f"thing: must be one of b, a1, a2, c (or a higher aN), but got {name!r}"
    )


@pytest.mark.parametrize("name", ["b", "a2", "a77", "none"])
def test_taken_names(registry: Registry[str], name: str) -> None:
    with pytest.raises(InputError) as caught:
        registry.add(name, "another")
    assert str(caught.value) == f"thing: must have a name that is not taken, but got {name!r}"


def test_what_is_removed_can_be_registered_again(registry: Registry[str]) -> None:
    registry.remove("b")
    assert "b" not in registry
    registry.add("b", "a better b")
    assert registry["b"] == "a better b"
