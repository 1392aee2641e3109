"""Files of some format that keep to it, and hold something hostile."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import random
import sqlite3
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile.documents import change_tree
from benchmarks.hostile.values import hostile_value

__all__ = [
    "change_packed",
    "change_picture",
    "change_safetensors",
    "change_sqlite",
    "change_tensors",
]


class _Trap:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ../outside/trapped",)


def change_tensors(source: random.Random, path: Path) -> str:
    """Change what ``torch.save`` wrote; return in words how."""
    import torch

    content = torch.load(path, weights_only=True)

    def saved(value: Any) -> bytes:
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    def repacked(change: Callable[[str, bytes], list[tuple[str, bytes]]], method: int = 0) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(file, "w", method) as new:
            for name in old.namelist():
                for entry, part in change(name, old.read(name)):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # about names that are there twice
                        new.writestr(entry, part)
        return file.getvalue()

    def changed() -> bytes:
        change_tree(source, tree := [_listed(content)])
        return saved(*(tree or [None]))

    def numbers() -> bytes:
        return saved(
            _map(content, lambda tensor: tensor * float(source.choice(("nan", "inf", "1e30"))))
        )

    ways: dict[str, Callable[[], bytes]] = {
        "a trap": lambda: saved(_Trap()),
        "a trap without an archive": lambda: pickle.dumps(_Trap()),
        "a trap in it": lambda: saved({"trap": _Trap(), "settings": content}),
        "a module": lambda: saved(torch.nn.Linear(2, 2)),
        "a text": lambda: saved("hello"),
        "nothing": lambda: saved(None),
        "another structure": changed,
        "no numbers": numbers,
        "other shapes": lambda: saved(_map(content, lambda tensor: tensor.flatten()[:1])),
        "more dimensions": lambda: saved(_map(content, lambda tensor: tensor[None])),
        "whole numbers": lambda: saved(_map(content, lambda tensor: tensor.to(torch.int8))),
        "complex numbers": lambda: saved(_map(content, lambda tensor: tensor.to(torch.complex64))),
        "sparse": lambda: saved(_map(content, lambda tensor: tensor.to_sparse())),
        "on no device": lambda: saved(_map(content, lambda tensor: tensor.to("meta"))),
        "of no numbers": lambda: saved(
            _map(content, lambda tensor: tensor[:0] if tensor.ndim else tensor)
        ),
        "packed": lambda: repacked(lambda name, part: [(name, part)], zipfile.ZIP_DEFLATED),
        "a bomb": lambda: repacked(
            lambda name, part: [(name, bytes(2**28) if name.endswith("/data/0") else part)],
            zipfile.ZIP_DEFLATED,
        ),
        "names that lead outside": lambda: repacked(
            lambda name, part: [(name, part), (f"../../../outside/{Path(name).name}", part)]
        ),
        "everything twice": lambda: repacked(lambda name, part: [(name, part), (f"{name}2", part)]),
        "without tensors": lambda: repacked(
            lambda name, part: [] if "/data/" in name else [(name, part)]
        ),
        "without a pickle": lambda: repacked(
            lambda name, part: [] if name.endswith(".pkl") else [(name, part)]
        ),
        "another archive": lambda: repacked(lambda name, part: [("hello.txt", b"hello")]),
        "of before archives": lambda: _old(content),
        "very large": lambda: saved(torch.zeros(1).expand(2**40)),
    }
    done = source.choice([*ways])
    path.write_bytes(ways[done]())
    return done


def _old(content: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def _listed(value: Any) -> Any:
    """Return it with plain dictionaries and lists, that can be changed."""
    if isinstance(value, dict):
        return {name: _listed(each) for name, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return function(value.detach())
    if isinstance(value, dict):
        return {name: _map(each, function) for name, each in value.items()}
    return [_map(each, function) for each in value] if isinstance(value, list | tuple) else value


def change_safetensors(source: random.Random, path: Path) -> str:
    """Change the head of a file of safetensors; return in words how."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    head, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = source.choice([name for name in head if name != "__metadata__"])

    def with_head(changed: Any) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + body

    def tree() -> bytes:
        change_tree(source, changed := [head])
        return with_head(*(changed or [None]))

    def entry(**changes: Any) -> bytes:
        return with_head({**head, name: {**head[name], **changes}})

    ways: dict[str, Callable[[], bytes]] = {
        "another head": tree,
        "a head of 2^60 bytes": lambda: struct.pack("<Q", 2**60) + content[8:],
        "a head of no bytes": lambda: struct.pack("<Q", 0) + content[8:],
        "a head of all bytes": lambda: struct.pack("<Q", len(content)) + content[8:],
        "an empty head": lambda: with_head({}),
        "another type": lambda: entry(dtype=source.choice(("F64", "I8", "BOOL", "F8_E4M3", "X"))),
        "another shape": lambda: entry(shape=source.choice(([], [0], [-1], [2**62, 4], ["a"]))),
        "other places": lambda: entry(data_offsets=source.choice(([0, 0], [8, 4], [0, 2**62]))),
        "a name less": lambda: with_head({key: head[key] for key in head if key != name}),
        "a hostile name": lambda: with_head({**head, "\x1b[31m\n": head[name]}),
        "no numbers": lambda: content[: 8 + length] + b"\xff" * len(body),
        "other metadata": lambda: with_head(
            {**head, "__metadata__": {"format": "pt", "x": str(hostile_value(source))[:5000]}}
        ),
    }
    done = source.choice([*ways])
    path.write_bytes(ways[done]())
    return done


def change_sqlite(source: random.Random, path: Path) -> str:
    """Change rows or tables of a data base; return in words how."""
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        names = [
            row[0] for row in base.execute("select name from sqlite_master where type='table'")
        ]
        table = source.choice(names)
        columns = [row[1] for row in base.execute(f"pragma table_info('{table}')")]
        column = source.choice(columns)
        kind = source.choice(
            ("value", "value", "value", "value", "rows", "table", "column", "twice")
        )
        value = hostile_value(source)
        if not isinstance(value, str | int | float | None) or (
            isinstance(value, int) and abs(value) >= 2**63
        ):
            value = json.dumps(value) if not isinstance(value, int) else str(value)[:1000]
        if isinstance(value, str):
            value = value.encode(errors="surrogateescape").decode(errors="replace")
        with contextlib.suppress(sqlite3.Error):
            if kind == "value":
                base.execute(f"update '{table}' set '{column}' = ?", (value,))
            elif kind == "rows":
                base.execute(f"delete from '{table}'")
            elif kind == "table":
                base.execute(f"drop table '{table}'")
            elif kind == "column":
                base.execute(f"alter table '{table}' rename column '{column}' to 'other'")
            else:
                base.execute(f"insert into '{table}' select * from '{table}'")
    return f"another {kind} of {table}.{column}"


def change_packed(source: random.Random, path: Path) -> str:
    """Change what is in a file of gzip, arrays of bytes in IDX; return in words how."""
    content = gzip.decompress(path.read_bytes())

    def bomb() -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        parts = [packer.compress(content)]
        parts += [packer.compress(bytes(2**24)) for _ in range(192)]  # 3 GiB
        return b"".join([*parts, packer.flush()])

    def sizes() -> bytes:
        changed = bytearray(content)
        changed[4:8] = struct.pack(">I", source.choice((0, 1, 7, 2**31, 2**32 - 1)))
        return gzip.compress(bytes(changed))

    ways: dict[str, Callable[[], bytes]] = {
        "a bomb": bomb,
        "another number of images": sizes,
        "another kind": lambda: gzip.compress(b"\0\0" + source.randbytes(2) + content[4:]),
        "labels that there are not": lambda: gzip.compress(
            content[:8] + b"\xff" * (len(content) - 8)
        ),
        "cut off within": lambda: gzip.compress(content[: source.randrange(len(content))]),
        "not packed": lambda: content,
        "packed twice": lambda: gzip.compress(gzip.compress(content)),
        "two archives": lambda: gzip.compress(content) * 2,
        "rubbish behind": lambda: gzip.compress(content) + b"rubbish",
    }
    done = source.choice([*ways])
    path.write_bytes(ways[done]())
    return done


def change_picture(source: random.Random, path: Path) -> str:
    """Put another picture in place of one; return in words which."""
    from PIL import Image

    def png(width: int, height: int, data: bytes = b"") -> bytes:
        def chunk(kind: bytes, part: bytes) -> bytes:
            check = struct.pack(">I", zlib.crc32(kind + part))
            return struct.pack(">I", len(part)) + kind + part + check

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + parts

    def image(mode: str, size: tuple[int, int] = (12, 12), kind: str = "png", **more: Any) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size).save(file, kind, **more)
        return file.getvalue()

    red = Image.new("RGB", (12, 12), "red")
    ways: dict[str, Callable[[], bytes]] = {
        "of 60,000 x 60,000 pixels": lambda: png(60_000, 60_000),
        "of 13,000 x 13,000 pixels": lambda: png(13_000, 13_000, bytes(39_013_000)),
        "of no pixels": lambda: png(0, 0),
        "of 2^31 pixels": lambda: png(2**31 - 1, 1),
        "without pixels": lambda: png(12, 12),
        "one pixel": lambda: image("RGB", (1, 1)),
        "very wide": lambda: image("RGB", (5000, 1)),
        "a palette": lambda: image("P"),
        "floating-point": lambda: image("F", kind="tiff"),
        "CMYK": lambda: image("CMYK", kind="tiff"),
        "several frames": lambda: image("RGB", kind="gif", save_all=True, append_images=[red]),
        "a program": lambda: b"#!/bin/sh\ntouch ../outside/run\n",
        "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "HTML": lambda: b"<html><script>1</script></html>",
        "an icon": lambda: image("RGB", (16, 16), "ico"),
        "EXIF of noise": lambda: image("RGB", kind="jpeg", exif=b"Exif\0\0" + source.randbytes(40)),
    }
    done = source.choice([*ways])
    path.write_bytes(ways[done]())
    return done
