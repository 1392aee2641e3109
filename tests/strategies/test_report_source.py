"""`sedona_nni.strategies.report_source`; NNI's own experiments are in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_records import training

from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.report_source import read_sources


def ledger(path: Path, key: str = "uniform-000") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Ledger(path).start(training(key))
    return path


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("results/abc", "abc"),
        ("results/abc/trials.json", "abc"),
        ("nni/def", "def"),
        ("nni/def/checkpoint", "def"),
        ("nni/def/checkpoint/trials.json", "def"),
        ("kept.json", "kept"),
    ],
)
def test_what_a_target_may_be(
    target: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("results/abc/trials.json", "nni/def/checkpoint/trials.json", "kept.json"):
        ledger(Path(path))
    (source,) = read_sources([target])
    assert source.name == name
    assert [record.key for record in source.records] == ["uniform-000"]
    assert (source.is_running, source.planned) == (False, None)


def test_experiments_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    one = ledger(tmp_path / "1" / "result" / "trials.json").parent
    other = ledger(tmp_path / "2" / "result" / "trials.json", "uniform-001").parent
    assert [source.name for source in read_sources([str(one), str(other)])] == [
        str(one),
        str(other),
    ]


def test_the_same_experiment_twice_is_a_mistake(tmp_path: Path) -> None:
    one = ledger(tmp_path / "1" / "trials.json")
    copy = tmp_path / "2.json"
    copy.write_text(one.read_text())
    with pytest.raises(InputError, match=r"2\.json: is the same experiment as .*1"):
        read_sources([str(one.parent), str(copy)])


def test_a_folder_without_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has neither trials\.jsonl nor trials\.json$"):
        read_sources([str(tmp_path)])


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe\x00", b'{"trials": [{}]}'])
def test_a_damaged_ledger(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"trials\.json") as refused:
        read_sources([str(tmp_path)])
    assert "\n" not in str(refused.value)
