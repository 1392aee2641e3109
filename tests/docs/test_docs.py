"""The documents say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker() -> Any:
    """The script docs/make_reference.py."""
    spec = importlib.util.spec_from_file_location("maker", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date(maker: Any) -> None:
    """If not: python docs/make_reference.py."""
    assert (ROOT / "docs" / "reference.md").read_text() == maker.reference()


def test_every_option_has_a_meaning_a_source_and_a_place(maker: Any) -> None:
    text = maker.reference()
    used = set()
    for model in (part for section in maker.SECTIONS for part in section.parts):
        said = maker.meanings(model)
        for name, info in model.model_fields.items():
            assert said[name].endswith("."), name
            row = f"| `{name}` | {maker.default(info)} | {maker.markdown(said[name])}"
            assert row.replace("|", "") in text.replace("\\|", "").replace("|", "")
            used |= {f"{base.__name__}.{name}" for base in model.__mro__} & set(maker.SOURCES)
    assert used == set(maker.SOURCES)


def test_defaults_are_written_as_in_yaml(maker: Any) -> None:
    from sedona_nni.searches.sedona.settings import SearchSettings
    from sedona_nni.training.settings import TrainSettings

    fields = {**SearchSettings.model_fields, **TrainSettings.model_fields}
    for name, text in (
        ("meta_betas", "`[0.5, 0.999]`"),
        ("release_mode", "`false`"),
        ("classes_per_batch", "none"),
        ("ensemble", "`1`"),
        ("milestones", "`[]`"),
        ("schedule", "`cosine`"),
    ):
        assert maker.default(fields[name]) == text


def test_the_method_names_its_evidence() -> None:
    assert (ROOT / "docs" / "method.md").read_text().count("`tests/") > 12
