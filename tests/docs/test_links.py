"""What a document points to is there: files, headings, tests; in a checkout and in the site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *(
            path
            for room in ("docs", "experiments", "benchmarks")
            for path in (ROOT / room).rglob("*.md")
        ),
    )
)


def slugs(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^(```|~~~).*?^\1", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
        assert slug not in found, f"{document} has two headings {heading!r}"
        found.add(slug)
    return found


def test_slugs_by_hand(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text("# A *b*, c: `d_e` (f)\n\n```\n# no heading\n```\n\n## See [here](x.md)\n")
    assert slugs(document) == {"a-b-c-d_e-f", "see-here"}


def test_documents_are_found() -> None:
    assert {"README.md", "CHANGELOG.md", "docs/method.md", "experiments/dgl/README.md"} <= {
        *DOCUMENTS
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_points_to_is_there(document: str) -> None:
    path = ROOT / document
    text = path.read_text()
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        pointed = path.parent / target if target else path
        assert pointed.is_file(), target
        if anchor:
            assert anchor in slugs(pointed), f"{target}#{anchor}"
    for shown, target in re.findall(r"\[`([\w.]+\.py)`\]\(([^)]+)\)", text):
        assert target.endswith(f"/{shown}")
    for test in re.findall(r"`(tests/[^`\s]+)`", text):
        place, *names = test.split("::")
        assert (ROOT / place).exists(), test
        for name in names:
            assert re.search(rf"(def|class) {name}\b", (ROOT / place).read_text()), test


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.mark.slow("builds the site")
def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    pages = {page: page.read_text() for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) > 20
    anchors = {
        page: {"__top", *re.findall(r'\b(?:id|name)="?([^\s">]+)', text)}
        for page, text in pages.items()
    }
    broken = []
    for page, text in pages.items():
        for link in re.findall(r'<(?:a|link|script|img)\b[^>]*?\b(?:href|src)="?([^\s">]+)', text):
            if re.match(r"\w+:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            pointed = (page.parent / target).resolve() if target else page
            pointed = pointed / "index.html" if pointed.is_dir() else pointed
            if not pointed.is_file() or (anchor and anchor not in anchors[pointed]):
                broken.append((page.relative_to(site).as_posix(), link))
    assert broken == []


@pytest.mark.slow("builds the site")
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r'<(?:script|link|img|iframe|source)\b[^>]*\b(?:href|src)="?(\w+:[^\s">]+)'
    )
    for page in site.rglob("*.html"):
        assert loading.findall(page.read_text()) == [], page
