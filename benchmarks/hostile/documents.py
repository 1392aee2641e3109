"""Documents with something wrong in them: JSON, YAML, lines of text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hostile.values import MARKUP, hostile_text, hostile_value

__all__ = ["change_json", "change_json_lines", "change_lines", "change_tree", "change_yaml"]

Place = tuple[Any, Any]  # a mapping or a list, and a key or a number in it


def change_json(source: random.Random, path: Path) -> str:
    """Change a file of JSON; return in words how."""
    text = path.read_text(encoding="utf-8")
    if source.random() < 0.7:
        tree = json.loads(text)
        done = change_tree(source, tree := [tree])
        path.write_text(json.dumps(*(tree or [None])), encoding="utf-8")
        return done
    name = source.choice([*_JSON_TEXTS])
    path.write_text(_JSON_TEXTS[name](source, text), encoding="utf-8")
    return name


def change_json_lines(source: random.Random, path: Path) -> str:
    """Change a line of a file of JSON lines; return in words how."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    at = source.randrange(len(lines))
    path.write_text(lines[at], encoding="utf-8")
    done = change_json(source, path)
    lines[at] = path.read_text(encoding="utf-8").rstrip("\n") + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    return f"line {at + 1}: {done}"


def change_yaml(source: random.Random, path: Path) -> str:
    """Change a file of YAML; return in words how."""
    text = path.read_text(encoding="utf-8")
    if source.random() < 0.7:
        tree = yaml.safe_load(text)
        done = change_tree(source, tree := [tree])
        text = yaml.safe_dump(*(tree or [None]), sort_keys=False, allow_unicode=True)
        path.write_bytes(text.encode(errors="surrogatepass"))
        return done
    name = source.choice([*_YAML_TEXTS])
    path.write_text(_YAML_TEXTS[name](source, text), encoding="utf-8")
    return name


def change_tree(source: random.Random, tree: list[Any]) -> str:
    """Change something within, in place; the root is the one member of a list."""
    inner, key = source.choice([*_places(tree)])
    where = "the whole" if inner is tree else repr(key)
    done = source.choice([*_TREES])
    _TREES[done](source, inner, key)
    return f"{done} at {where}"


def _places(tree: Any) -> Iterator[Place]:
    entries = [*tree.items()] if isinstance(tree, dict) else [*enumerate(tree)]
    for key, value in entries:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _put(source: random.Random, inner: Any, key: Any) -> None:
    inner[key] = hostile_value(source)


def _put_text(source: random.Random, inner: Any, key: Any) -> None:
    inner[key] = hostile_text(source)


def _put_markup(source: random.Random, inner: Any, key: Any) -> None:
    inner[key] = MARKUP


def _drop(source: random.Random, inner: Any, key: Any) -> None:
    del inner[key]


def _rename(source: random.Random, inner: Any, key: Any) -> None:
    if isinstance(inner, dict):
        inner[hostile_text(source)] = inner.pop(key)
    else:
        inner.reverse()


def _add(source: random.Random, inner: Any, key: Any) -> None:
    target = inner[key]
    if isinstance(target, dict):
        target[hostile_text(source)] = hostile_value(source)
    elif isinstance(target, list):
        target.append(hostile_value(source))
    else:
        inner[key] = [target]


def _swap_kind(source: random.Random, inner: Any, key: Any) -> None:
    value = inner[key]
    if isinstance(value, dict):
        inner[key] = [*value.items()]
    elif isinstance(value, list):
        inner[key] = {str(number): each for number, each in enumerate(value)}
    else:
        inner[key] = str(value) if not isinstance(value, str) else [value]


def _negate(source: random.Random, inner: Any, key: Any) -> None:
    value = inner[key]
    inner[key] = -value if isinstance(value, int | float) else f"-{value}"


def _enlarge(source: random.Random, inner: Any, key: Any) -> None:
    value = inner[key]
    if isinstance(value, bool) or value is None:
        inner[key] = 10**12
    elif isinstance(value, int | float):
        inner[key] = value * 10 ** source.randint(1, 12)
    elif isinstance(value, list | str):
        inner[key] = value * source.choice((2, 50, 1000))
    elif isinstance(value, dict):
        value.update(
            {f"{name}{number}": each for number in range(100) for name, each in value.items()}
        )


_TREES: dict[str, Callable[[random.Random, Any, Any], None]] = {
    "a hostile value": _put,
    "a hostile text": _put_text,
    "markup": _put_markup,
    "nothing": _drop,
    "another name": _rename,
    "something more": _add,
    "another type": _swap_kind,
    "the negative": _negate,
    "much more": _enlarge,
}


def _deep(opening: str, closing: str) -> Callable[[random.Random, str], str]:
    def deep(source: random.Random, text: str) -> str:
        depth = source.choice((100, 2000, 200_000))
        return opening * depth + closing * depth

    return deep


def _twice(source: random.Random, text: str) -> str:
    """Give the first key of an object twice."""
    head, _, rest = text.partition("{")
    key = rest.split(":", 1)[0].strip()
    return f"{head}{{{key}: 1, {rest}"


def _replaced(old: str, new: str) -> Callable[[random.Random, str], str]:
    return lambda source, text: text.replace(old, new)


_JSON_TEXTS: dict[str, Callable[[random.Random, str], str]] = {
    "a key twice": _twice,
    "deep lists": _deep("[", "]"),
    "deep objects": _deep('{"a":', "}"),
    "a list that does not end": lambda source, text: "[" * 100_000,
    "something behind it": lambda source, text: text + source.choice(("}", "x", text, "\x00")),
    "a comment": lambda source, text: "// hello\n" + text,
    "a trailing comma": _replaced("}", ",}"),
    "single quotes": _replaced('"', "'"),
    "NaN everywhere": lambda source, text: text.replace("0", "NaN"),
    "an endless number": lambda source, text: "9" * 5000,
    "numbers that are too long": lambda source, text: text.replace("1", "1" * 5000),
    "only a number": lambda source, text: "1",
    "only a text": lambda source, text: '"text"',
    "null": lambda source, text: "null",
    "a half of a character": lambda source, text: text.replace('"', '"\\ud800', 3),
    "blank": lambda source, text: " \n\t ",
}
_BOMB = "\n".join(
    [
        'a0: &a0 ["x","x","x","x","x","x","x","x","x"]',
        *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)),
    ]
)
_YAML_TEXTS: dict[str, Callable[[random.Random, str], str]] = {
    "a Python object": lambda source, text: text.replace(
        "experimentName: small",
        "experimentName: !!python/object/apply:os.system ['touch ../outside/run']",
    ),
    "a Python name": lambda source, text: "!!python/name:os.system\n" + text,
    "a bomb of aliases": lambda source, text: _BOMB + "\n" + text,
    "a bomb of aliases as a value": lambda source, text: (
        f"{_BOMB}\n" + text.replace("experimentName: small", "experimentName: *a9")
    ),
    "a bomb of aliases in the settings": lambda source, text: (
        f"{_BOMB}\n" + text.replace("    device: cpu", "    device: *a9")
    ),
    "a list in itself": lambda source, text: text.replace(
        "experimentName: small", "experimentName: &a [*a]"
    ),
    "settings in themselves": lambda source, text: text.replace(
        "classArgs:\n", "classArgs: &a\n    train_for: *a\n"
    ),
    "deep lists": _deep("[", "]"),
    "deep lists in the settings": lambda source, text: text.replace(
        "device: cpu", f"device: {'[' * 2000}{']' * 2000}"
    ),
    "two documents": lambda source, text: f"{text}\n---\n{text}",
    "a key twice": lambda source, text: text + "experimentName: again\n",
    "a tab": lambda source, text: text.replace("  ", "\t"),
    "a number for a name": lambda source, text: text + "1: 2\n",
    "a list for a name": lambda source, text: text + "? [a, b]\n: 2\n",
    "a mapping for a name": lambda source, text: text + "? {a: b}\n: 2\n",
    "a date": lambda source, text: text.replace("device: cpu", "device: 2001-12-14"),
    "a wrong date": lambda source, text: text.replace("device: cpu", "device: 2001-99-99"),
    "bytes": lambda source, text: text.replace("device: cpu", "device: !!binary aGVsbG8="),
    "a set": lambda source, text: text.replace("device: cpu", "device: !!set {a, b}"),
    "pairs": lambda source, text: text.replace("device: cpu", "device: !!pairs [a: b]"),
    "a merge of nothing": lambda source, text: "<<: 1\n" + text,
    "another version": lambda source, text: "%YAML 9.9\n---\n" + text,
    "an unknown alias": lambda source, text: text.replace("device: cpu", "device: *nobody"),
    "a number in base 60": lambda source, text: text.replace("threads: 1", "threads: 1:30"),
    "an octal number": lambda source, text: text.replace("threads: 1", "threads: 017"),
    "yes": lambda source, text: text.replace("device: cpu", "device: yes"),
    "only a text": lambda source, text: "text",
    "only a list": lambda source, text: "- a\n- b\n",
    "nothing but comments": lambda source, text: "# nothing\n",
    "blank": lambda source, text: " \n\n",
    "a NUL": lambda source, text: text.replace("small", "sm\x00all"),
}


def change_lines(source: random.Random, path: Path) -> str:
    """Change a file of lines; return in words how."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    number = source.randrange(len(lines))
    done = source.choice(
        ("a hostile line", "a line twice", "no tabs", "no line", "a path", "mixed")
    )
    changed = {
        "a hostile line": [hostile_text(source) + "\n"],
        "a line twice": [lines[number]] * 2,
        "no tabs": [lines[number].replace("\t", " ")],
        "no line": [],
        "a path": ["../../../outside/precious.txt\tn01\n"],
        "mixed": [*reversed(lines)],
    }[done]
    text = "".join([*lines[:number], *changed, *lines[number + 1 :]])
    path.write_bytes(text.encode(errors="surrogateescape"))
    return f"{done} for line {number + 1}"
