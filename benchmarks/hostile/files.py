"""Files that are damaged, are something else, or are elsewhere."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from benchmarks.hostile.values import hostile_text

__all__ = ["change_bytes", "change_folder", "change_place"]


def change_bytes(source: random.Random, path: Path) -> str:
    """Damage the content of a file; return in words how."""
    content = path.read_bytes()
    place = source.randrange(len(content) + 1)
    noise = source.randbytes(source.choice((1, 8, 300)))

    def some_bits() -> bytes:
        changed = bytearray(content or b"\0")
        for _ in range(source.choice((1, 1, 3, 30))):
            changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
        return bytes(changed)

    def as_utf16() -> bytes:
        return content.decode("latin-1").encode(source.choice(("utf-16", "utf-16-be", "utf-32")))

    ways: dict[str, Callable[[], bytes]] = {
        "cut off": lambda: content[:place],
        "without its beginning": lambda: content[place:],
        "empty": lambda: b"",
        "one byte": lambda: source.randbytes(1),
        "noise": lambda: source.randbytes(max(1, len(content))),
        "other bits": some_bits,
        "noise in it": lambda: content[:place] + noise + content[place:],
        "noise over it": lambda: content[:place] + noise + content[place + len(noise) :],
        "a hole in it": lambda: content[:place] + content[place + len(noise) :],
        "zeros over it": lambda: content[:place] + bytes(300) + content[place + 300 :],
        "a NUL in it": lambda: content[:place] + b"\0" + content[place:],
        "a byte order mark": lambda: b"\xef\xbb\xbf" + content,
        "of 16 or 32 bits": as_utf16,
        "of Latin 1": lambda: content.replace(b"small", b"sm\xe4ll").replace(b"mlp", b"ml\xf6"),
        "twice": lambda: content * 2,
        "zeros": lambda: bytes(len(content)),
        "with lines of Windows": lambda: content.replace(b"\n", b"\r\n"),
    }
    done = source.choice([*ways])
    path.write_bytes(ways[done]())
    return f"{done} at byte {place} of {len(content)}" if "it" in done.split() else done


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fifo(path: Path) -> None:
    _remove(path)
    os.mkfifo(path)


def _socket(path: Path) -> None:
    _remove(path)
    before = os.getcwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(before)


def _link(to: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        _remove(path)
        path.symlink_to(to.format(name=path.name))

    return link


def _outside(path: Path) -> None:
    """Move it to where no command has any business, and let a link lead there."""
    outside = next(parent for parent in path.parents if parent.name in ("work", "home")).parent
    there = outside / "outside" / path.name
    shutil.move(path, there)
    path.symlink_to(there)


def _precious(path: Path) -> None:
    """Let a link lead to a file that no command has any business with."""
    root = next(parent for parent in path.parents if parent.name in ("work", "home")).parent
    _remove(path)
    path.symlink_to(root / "outside" / "precious.txt")


def _folder(path: Path) -> None:
    _remove(path)
    path.mkdir()


def _huge(path: Path) -> None:
    _remove(path)
    with path.open("wb") as file:
        file.truncate(2**33)


_PLACES: dict[str, Callable[[Path], None]] = {
    "missing": _remove,
    "a folder": _folder,
    "a FIFO": _fifo,
    "a socket": _socket,
    "a link to itself": _link("{name}"),
    "a link to nothing": _link("nowhere"),
    "a link to outside": _outside,
    "a link to something precious": _precious,
    "endless zeros": _link("/dev/zero"),
    "nothing ever": _link("/dev/null"),
    "a link to a file of the system": _link("/proc/self/mem"),
    "8 GiB of zeros": _huge,
}


def change_place(source: random.Random, path: Path) -> str:
    """Let a path lead to something else; return in words to what."""
    done = source.choice([*_PLACES])
    _PLACES[done](path)
    return done


def _named(source: random.Random, folder: Path) -> None:
    name = hostile_text(source).replace("/", "_").replace("\x00", "")[:200] or "x"
    first = next((each for each in sorted(folder.iterdir())), None)
    if first is not None and name not in (".", ".."):
        first.rename(folder / name)


def _circle(source: random.Random, folder: Path) -> None:
    for each in [folder, *(one for one in folder.rglob("*") if one.is_dir())]:
        for number in range(3):
            (each / f"circle{number}").symlink_to(folder)


def _deep(source: random.Random, folder: Path) -> None:
    before = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(200):  # longer than a path may be
            os.mkdir("d" * 50)
            os.chdir("d" * 50)
        Path("0.png").write_bytes(b"")
    finally:
        os.chdir(before)


def _many(source: random.Random, folder: Path) -> None:
    for number in range(2000):
        (folder / f"{number}").mkdir()


def _strange(source: random.Random, folder: Path) -> None:
    _PLACES[source.choice(("a FIFO", "a socket", "endless zeros", "a link to itself"))](
        folder / source.choice(("strange.png", "strange", "strange.json", "train.parquet"))
    )


def _upper(source: random.Random, folder: Path) -> None:
    for each in [*folder.iterdir()]:
        if not (each.with_name(each.name.swapcase())).exists():
            each.rename(each.with_name(each.name.swapcase()))


_FOLDERS: dict[str, Callable[[random.Random, Path], None]] = {
    "a hostile name in it": _named,
    "links in circles": _circle,
    "very deep": _deep,
    "very many folders": _many,
    "something strange in it": _strange,
    "other cases": _upper,
}


def change_folder(source: random.Random, path: Path) -> str:
    """Change what is in a folder; return in words how."""
    done = source.choice([*_FOLDERS])
    _FOLDERS[done](source, path)
    return done
