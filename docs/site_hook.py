"""What MkDocs does beside reading ``docs/``: the site stands by itself.

Documents point to code, records and experiments by paths that hold in a checkout. Each file that a
page points to, directly or over others, becomes part of the site: documents as pages, code and
settings as pages of their text, all else as files. The README is the home page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
DOCUMENTS = {place: path for path, place in PLACES.items()}
TEXTS = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".cff": "yaml", ".sh": "sh", "": "text"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)#\s]+")


def place(path: str) -> str:
    """Return where in the site a file of the repository is, as MkDocs names sources."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    extra = ".md" if Path(path).suffix in TEXTS else ""
    return PLACES.get(path, f"source/{path}{extra}")


def document(place: str) -> str:
    """Return which file of the repository the page of a document is made from."""
    if place.startswith("source/"):
        return place.removeprefix("source/")
    return DOCUMENTS.get(place, f"docs/{place}")


def target(path: str, link: str) -> str:
    """Return the file of the repository that a link in another one points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages point to."""
    waiting = [*PLACES, *(document(page.src_uri) for page in files.documentation_pages())]
    while waiting:
        path = waiting.pop()
        if not (ROOT / path).is_file():
            continue  # MkDocs tells which page it was
        if files.get_file_from_path(place(path)) is None:
            files.append(_added(path, config))
        if path.endswith(".md"):
            for link in LINK.findall((ROOT / path).read_text(encoding="utf-8")):
                pointed = target(path, link)
                if files.get_file_from_path(place(pointed)) is None:
                    waiting.append(pointed)
    return files


def _added(path: str, config: MkDocsConfig) -> File:
    language = TEXTS.get(Path(path).suffix)
    if language is None:
        return File.generated(config, place(path), abs_src_path=str(ROOT / path))
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    page = (
        "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"
        f"# `{path}`\n\n~~~~~~~~{language}\n{text}\n~~~~~~~~\n"
    )
    return File.generated(config, place(path), content=page)


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Let the links of a document lead to the places in the site."""
    path = document(page.file.src_uri)
    if not (ROOT / path).is_file():
        return markdown  # a page of a file's text

    def moved(link: re.Match[str]) -> str:
        return posixpath.relpath(
            place(target(path, link[0])), posixpath.dirname(page.file.src_uri) or "."
        )

    return LINK.sub(moved, markdown)
