"""What is promised of any input: it is used or refused in one line, and nothing is left half."""

from __future__ import annotations

import hashlib
import html.parser
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from benchmarks.hostile.server import Ended
from benchmarks.hostile.world import Reader, Scene

__all__ = ["INERT", "Tree", "broken", "tree_of"]

INERT = "hostile"
"""Name of an element and of an attribute that must never become one of a page."""

Tree = Mapping[str, str]
"""What is in a folder: of each path what it is, and a hash of its content."""

_LONGEST = 3000  # characters of a line for a human
_SAID = re.compile(
    r"[\w-]+( in .*)?: \d[\d,]* classes \(.*"
    r"|left out: .*"
    r"|epoch \d+ of \d+, .*"
    r"|probe \d+ of \d+, .*"
    r"|step \d+ of \d+, .*"
    r"|report: .*|results: .*|pictures: .*|Optuna's studies: .*"
    r"|[\w-]+-\d+: .*|search: .*"
    r"|relaxed in release mode.*"
    r"|other images than .*"
    r"|libgomp: .*"
    r"|sedona-nni: block \d.*"  # that an auxiliary network is heavy
    r"|",
    re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u2028\u2029\u202e]")
_NOT_OURS = ("home/.cache", "home/nni-experiments")  # NNI makes its folder when it is asked
_CACHES = ("home/.cache/", "home/.config/", "tmp/torchinductor_")  # also matplotlib's, PyTorch's


def tree_of(scene: Scene) -> dict[str, str]:
    """Return what is in a scene, but for caches."""
    found = {}
    for root, folders, files in os.walk(scene.root):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            short = os.path.relpath(path, scene.root)
            if not f"{short}/".startswith(_CACHES):
                found[short] = _looks(path)
    return found


def _looks(path: str) -> str:
    try:
        status = os.lstat(path)
    except OSError as error:  # its path is too long
        return str(error.strerror)
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.readlink(path)!r}"
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    if not stat.S_ISREG(status.st_mode):
        return "special"
    if status.st_size > 2**26:
        return f"{status.st_size} bytes"
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def broken(reader: Reader, scene: Scene, before: Tree, ended: Ended) -> str | None:
    """Return which promise was not kept, None if all were."""
    if ended.code is None:
        return "it hangs"
    for text in (ended.out, ended.err):
        if "Traceback (most recent call last)" in text:
            last = [line for line in text.splitlines() if line.strip()][-1]
            return f"a traceback: {last[:300]}"
    if ended.code not in (0, 1, 2):
        return f"exit code {ended.code}"
    if ended.left:
        return f"processes are left: {ended.left[0][:200]}"
    after = tree_of(scene)
    paths = {*before, *after} - {*_NOT_OURS}
    changed = sorted(path for path in paths if before.get(path) != after.get(path))
    if outside := [path for path in changed if path.partition("/")[0] != "work"]:
        return f"changed outside of where it has to write: {', '.join(outside[:5])}"
    if said := _badly_said(ended, reader.words[:1] == ("run",)):
        return said
    if ended.code == 2 and not {*changed} <= {*reader.begins}:
        return f"refused, but changed {', '.join(changed[:5])}"
    if halves := [path for path in changed if path in after and _is_half(scene.root / path)]:
        return f"by halves: {', '.join(halves[:5])}"
    if ended.code == 0:
        return _not_whole(reader, scene, ended)
    return None


def _badly_said(ended: Ended, is_run: bool) -> str | None:
    """Return what is wrong with what was printed."""
    if control := _CONTROL.search(ended.err) or _CONTROL.search(ended.out):
        return f"control characters are printed: {control[0]!r}"
    lines = [line for line in ended.err.splitlines() if not _SAID.fullmatch(line)]
    if ended.code == 0:
        return None if not lines else f"said beside a result: {lines[0][:300]}"
    ours = [line for line in lines if line.startswith("sedona-nni: ")]
    if len(lines) != 1 and not (is_run and ours):  # which shows what a trial has said
        return f"{len(lines)} lines of complaint: {' | '.join(lines)[:400]}"
    if len(lines[0]) > _LONGEST:
        return f"a line of {len(lines[0])} characters"
    if not re.match(r"sedona-nni: [^:]+: .|sedona-nni: .+", lines[0]):
        return f"not a line of ours: {lines[0][:300]}"
    return None


def _is_half(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if re.match(r"\..*\.\w{8}$", path.name):  # as `sedona_nni.files` calls what it has begun
        return True
    if path.suffix == ".json":
        return not _is_json(path.read_text(encoding="utf-8"))
    return False


def _is_json(text: str) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


def _not_whole(reader: Reader, scene: Scene, ended: Ended) -> str | None:
    """Return what is missing of the result of a command that says it has succeeded."""
    if missing := [path for path in reader.writes if not (scene.root / path).is_file()]:
        return f"succeeded, but there is no {missing[0]}"
    if "--json" in reader.words and not _is_json(ended.out):
        return "what it printed is not JSON"
    for path in scene.work.glob("*.html"):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8", errors="replace"))
        if page.alive:
            return f"in the page, a name became {page.alive}"
    return None


class _Page(html.parser.HTMLParser):
    alive = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag.startswith(INERT) or any(name.startswith(INERT) for name, _ in attrs):
            self.alive = f"an element {tag} with {attrs}"[:200]
