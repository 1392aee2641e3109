"""A newcomer who follows a guide to the letter gets to its end.

The blocks of a guide are followed in their order, in one empty folder beside the experiments:
``yaml title="name"`` and ``python title="name"`` are saved under their names, what has the same one
to its end; ``python`` and ``sh`` are run. What a comment before it says ``not run: <reason>`` of is
not, nor is what has no language.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = {  # and how many blocks of each are saved or run
    "conformance.md": 5,
    "add-a-search.md": 6,
    "experiments.md": 3,
    "first-search.md": 6,
    "in-python.md": 8,
    "own-auxiliary-network.md": 6,
    "own-data.md": 6,
    "teachers.md": 3,
    "your-own-model.md": 7,
    "pretrained-weights.md": 7,
}
BLOCK = re.compile(
    r"(?:<!-- (?P<left>not run: [^\n]+) -->\n)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of a guide that is to be followed.

    Attributes:
        language: ``yaml``, ``python`` or ``sh``.
        title: The file that it is to be saved as, if any.
        text: What is in it.
    """

    language: str
    title: str
    text: str

    def follow(self, folder: Path) -> None:
        """Save or run it."""
        if self.title:
            with (folder / self.title).open("a") as file:
                file.write(self.text)
            return
        program = {"python": [sys.executable, "-"], "sh": ["sh", "-e"]}[self.language]
        here = Path(sys.executable).parent
        done = subprocess.run(
            program,
            cwd=folder,
            input=self.text,
            env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{self.text}\n{done.stdout}\n{done.stderr}"


def blocks(text: str) -> list[Block]:
    """Return what of a guide is to be followed."""
    return [
        Block(found["language"], found["title"] or "", found["text"])
        for found in BLOCK.finditer(text)
        if found["language"] in ("yaml", "python", "sh") and not found["left"]
    ]


def test_blocks_by_hand() -> None:
    guide = """
```sh
one
```

<!-- not run: a minute -->
```sh
two
```

```
three
```

```yaml title="x.yml"
a: 1

b: 2
```

```text
four
```

<!-- not run: a day -->
```sh
five
```
"""
    assert blocks(guide) == [Block("sh", "", "one\n"), Block("yaml", "x.yml", "a: 1\n\nb: 2\n")]


@pytest.mark.slow("every command starts Python, imports PyTorch, and some of them train")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_can_be_followed(guide: str, tmp_path: Path) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    to_follow = blocks((ROOT / "docs" / "guides" / guide).read_text())
    assert len(to_follow) == GUIDES[guide]
    for block in to_follow:
        block.follow(tmp_path)


def test_every_guide_with_something_to_follow_is_followed() -> None:
    guides = (ROOT / "docs" / "guides").glob("*.md")
    assert {each.name for each in guides if blocks(each.read_text())} == set(GUIDES)
