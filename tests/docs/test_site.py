"""The documentation site: complete, true of the code where that can be looked up, and sufficient to itself."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mmdatasets
from tests.test_package import LAYERS

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src", "audio": "src"}


class LoadedResources(HTMLParser):
    """Collects what a browser loads for a page without being asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href") or "")
        elif tag in LOADED:
            self.found.append(given.get(LOADED[tag]) or "")
        if given.get("style"):
            self.found += re.findall(r"url\(([^)]*)\)", given["style"] or "")


def loaded_by(page: Path) -> list[str]:
    parser = LoadedResources()
    parser.feed(page.read_text("utf-8"))
    return parser.found


def is_external(address: str) -> bool:
    return re.match(r"\s*['\"]?(?:[a-z]+:)?//", address, flags=re.IGNORECASE) is not None


@pytest.mark.slow
def test_the_site_is_built_strictly_and_asks_nothing_of_the_network(tmp_path):
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted(site.rglob("*.html"))
    assert {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")} <= {
        page.relative_to(site) for page in pages
    }
    external = {(page.name, address) for page in pages for address in loaded_by(page) if is_external(address)}
    assert external == set()
    for sheet in site.rglob("*.css"):
        assert [url for url in re.findall(r"url\(([^)]*)\)", sheet.read_text("utf-8")) if is_external(url)] == []

    anchors = set(re.findall(r'id="(mmdatasets\.[\w.]+)"', "".join(map(read, (site / "reference").glob("*.html")))))
    assert {f"mmdatasets.{name}" for name in mmdatasets.__all__} <= anchors
    assert documented_names() <= anchors


def read(page: Path) -> str:
    return page.read_text("utf-8")


def documented_names() -> set[str]:
    """What the reference pages ask for."""
    return {
        name for page in (DOCS / "reference").glob("*.md") for name in re.findall(r"^::: (\S+)$", read(page), re.M)
    }


def test_each_public_name_is_in_the_reference():
    assert {f"mmdatasets.{name}" for name in mmdatasets.__all__} <= documented_names()


def test_each_page_is_in_the_navigation():
    listed = re.findall(r"[\w/]+\.md$", (REPOSITORY / "mkdocs.yml").read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_layers_of_the_design_page_are_those_that_hold():
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", read(DOCS / "design.md"), flags=re.MULTILINE)
    assert {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)} == LAYERS


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<link rel="stylesheet" href="https://fonts.example/a.css">', True),
        ('<script src="//cdn.example/a.js"></script>', True),
        ('<img src="http://example.org/a.png">', True),
        ('<p style="background: url(https://example.org/a.png)">', True),
        ('<a href="https://example.org">a link that is followed when it is clicked</a>', False),
        ('<link rel="stylesheet" href="assets/a.css"><script src="a.js"></script>', False),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(page, found, tmp_path):
    (tmp_path / "page.html").write_text(page, "utf-8")
    assert any(map(is_external, loaded_by(tmp_path / "page.html"))) == found
