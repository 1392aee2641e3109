"""What crosses a boundary, recognised and seen as a map."""

from __future__ import annotations

import pytest
import torch

from sedona_nni.errors import InputError
from sedona_nni.models.feature_shape import FeatureShape, shape_of_features


@pytest.mark.parametrize(
    ("shape", "image_size", "expected"),
    [
        ((64, 56, 56), 224, FeatureShape(64, 56)),
        ((64, 7, 14), (224, 448), FeatureShape(64, (7, 14))),
        ((7, 14, 768), (224, 448), FeatureShape(768, (7, 14), "channels-last")),
        ((8, 8, 8), 32, FeatureShape(8, 8)),  # either would do: a map
        ((768, 1, 1), 32, FeatureShape(768, 1)),
        ((197, 192), 224, FeatureShape(192, 14, "tokens", 1)),
        ((198, 192), 224, FeatureShape(192, 14, "tokens", 2)),
        ((196, 192), 224, FeatureShape(192, 14, "tokens")),
        ((33, 64), (32, 64), FeatureShape(64, (4, 8), "tokens", 1)),
        ((30, 64), 224, FeatureShape(64, (30, 1), "tokens")),  # no grid is known
        ((512,), 32, FeatureShape(512, 1, "vector")),
    ],
)
def test_recognised(
    shape: tuple[int, ...], image_size: int | tuple[int, int], expected: FeatureShape
) -> None:
    found = shape_of_features(shape, image_size)
    assert found == expected
    assert found.of_batch(3) == (3, *shape)
    assert found.as_maps(torch.zeros(found.of_batch(3))).shape == found.maps.of_batch(3)


def test_what_has_no_known_form() -> None:
    with pytest.raises(InputError, match=r"^model: must let maps, tokens or vectors cross"):
        shape_of_features((3, 4, 5, 6), 32)


def test_each_place_of_a_map_is_its_token_and_the_mean_of_those_of_the_image() -> None:
    shape = FeatureShape(channels=2, size=(2, 3), layout="tokens", extra=2)
    features = torch.arange(16.0).reshape(1, 8, 2)
    maps = shape.as_maps(features)
    # rows of the grid are tokens 2, 3, 4 and 5, 6, 7; the mean of the first two is (1, 2)
    expected = [[[5.0, 7, 9], [11, 13, 15]], [[7, 9, 11], [13, 15, 17]]]
    assert maps.tolist() == [expected]


def test_channels_come_first_in_a_map() -> None:
    shape = FeatureShape(channels=2, size=(1, 3), layout="channels-last")
    features = torch.arange(6.0).reshape(1, 1, 3, 2)
    assert shape.as_maps(features).tolist() == [[[[0, 2, 4]], [[1, 3, 5]]]]


def test_a_square_is_one_number() -> None:
    assert FeatureShape(3, (8, 8)) == FeatureShape(3, 8)
    assert FeatureShape(3, (8, 8)).size == 8
