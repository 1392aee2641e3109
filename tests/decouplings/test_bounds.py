"""`decouplings.bounds`: bounds as they are written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from pydantic import TypeAdapter, ValidationError

from sedona_nni.decouplings.bounds import BlockShare, allowed_share
from sedona_nni.errors import InputError


@pytest.mark.parametrize(
    ("text", "num_blocks", "share"),
    [
        ("0.4", 4, Fraction(2, 5)),
        ("1", 4, Fraction(1)),
        ("1.3/K", 4, Fraction(13, 40)),
        ("1/K", 3, Fraction(1, 3)),  # and not the float below it
        (" 2 / K ", 4, Fraction(1, 2)),
    ],
)
def test_bounds_as_users_write_them(text: str, num_blocks: int, share: Fraction) -> None:
    assert allowed_share(text, num_blocks) == share


@pytest.mark.parametrize(
    "text", ["0", "-0.1", "1.5", "0.4/k", "1.3/", "/K", "1.3/4", "much", "nan"]
)
def test_what_is_no_bound(text: str) -> None:
    with pytest.raises(InputError, match=r"max_block_share: must be a share .*e\.g\. 1\.3/K, but"):
        allowed_share(text, 4)
    with pytest.raises(ValidationError):
        TypeAdapter(BlockShare).validate_python(text)


def test_a_bound_in_yaml_may_be_a_number() -> None:
    assert TypeAdapter(BlockShare).validate_python(0.4) == "0.4"
