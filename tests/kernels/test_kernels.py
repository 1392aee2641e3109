"""Where kernels come from: a compiler, a cache, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sedona_nni import kernels
from sedona_nni.errors import InputError
from sedona_nni.kernels import batch_norm


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is kept yet, and what a test finds is forgotten."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SEDONA_NNI_KERNELS", raising=False)
    kernels.kernels.cache_clear()
    batch_norm.kernel.cache_clear()
    yield
    kernels.kernels.cache_clear()
    batch_norm.kernel.cache_clear()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/sedona-nni/kernels").glob("*"))


def forget_process() -> None:
    kernels.kernels.cache_clear()


def test_they_are_compiled_once(needs_compiler: None, tmp_path: Path) -> None:
    first = kernels.kernels()
    assert first.library is not None
    assert first.origin == "compiled by cc"
    (file,) = kept(tmp_path)
    when = file.stat().st_mtime_ns
    forget_process()
    assert kernels.kernels().library is not None
    assert [path.stat().st_mtime_ns for path in kept(tmp_path)] == [when]


def test_another_compiler_has_kernels_of_its_own(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels.kernels()
    forget_process()
    monkeypatch.setenv("CC", "cc -DANOTHER")
    assert kernels.kernels().origin == "compiled by cc -DANOTHER"
    assert len(kept(tmp_path)) == 2


def test_a_home_that_cannot_be_written_to(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kernels.kernels().library is not None


@pytest.mark.parametrize(
    ("variable", "value", "origin"),
    [
        ("SEDONA_NNI_KERNELS", "off", "none: SEDONA_NNI_KERNELS=off"),
        ("CC", "no-such-compiler -O2", "none: no C compiler (no-such-compiler -O2)"),
        ("CC", "", "none: no C compiler (CC is empty)"),
    ],
)
def test_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, origin: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert kernels.kernels() == (None, origin, False)
    assert not batch_norm.fits(torch.zeros(2, 3), None)
    assert not kept(tmp_path)


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert kernels.kernels() == (None, f"none: {compiler} failed (out of order)", False)
    assert not kept(tmp_path)


def test_a_wrong_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEDONA_NNI_KERNELS", "no")
    with pytest.raises(InputError, match=r"^SEDONA_NNI_KERNELS: must be on or off.*no"):
        kernels.kernels()


@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(4, 3, 2, 2),  # channels lie apart
        torch.zeros(4, 3, dtype=torch.bfloat16),
        torch.zeros(4, 3, device="meta"),
        torch.zeros(1, 3),  # one number has no variance
        torch.zeros(0, 3),
        torch.zeros(3, 0),
    ],
)
def test_what_they_are_not_for(needs_compiler: None, features: torch.Tensor) -> None:
    assert not batch_norm.fits(features, None)


def test_mixed_types_are_not_for_them(needs_compiler: None) -> None:
    assert batch_norm.fits(torch.zeros(4, 3), torch.zeros(3))
    assert not batch_norm.fits(torch.zeros(4, 3), torch.zeros(3, dtype=torch.float64))
