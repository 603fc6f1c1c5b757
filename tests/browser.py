"""Looks at pages in a real browser: nothing may overflow, be loaded from elsewhere, or run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = (800, 1400)
SCHEMES = ("light", "dark")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# Boxes beyond the viewport, but for those that a scrolling ancestor holds: these are to be had by scrolling it.
_OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  if (box.width === 0 || (box.right <= window.innerWidth + 0.5 && box.left >= -0.5)) return false;
  for (let outer = element.parentElement; outer && outer !== document.body; outer = outer.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(outer).overflowX)) return false;
  return true;
}).map(element => element.outerHTML.slice(0, 120))"""
# Text whose contrast with what is behind it is below a bound, as WCAG counts it.
_CONTRASTS = """least => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const color = rgba(getComputedStyle(one).backgroundColor);
      if (color[3] === 255) return color.slice(0, 3);
    }
    return rgba('Canvas').slice(0, 3);
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    if (element.closest('svg')) continue;
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const [a, b] = [rgba(getComputedStyle(element).color).slice(0, 3), behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < least) found.push(contrast.toFixed(2) + ' ' + element.outerHTML.slice(0, 120));
  }
  return found;
}"""
LEAST_CONTRAST = 4.5
"""Of text of ordinary size, by level AA of the Web Content Accessibility Guidelines."""


@dataclass(frozen=True)
class PageFault:
    """What is wrong with a page.

    Attributes:
        where: Width and colour scheme.
        what: In words.
    """

    where: str
    what: str


def find_chromium() -> str | None:
    """The system's Chromium, `None` where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def launch() -> Iterator[Browser]:
    """A browser; skips the test where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    path = find_chromium()
    if path is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(_NAMES)})")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        browser.close()


def check_page(
    browser: Browser, path: Path, widths: Sequence[int] = WIDTHS, schemes: Sequence[str] = SCHEMES
) -> list[PageFault]:
    """Opens a page at some widths and in both colour schemes.

    Args:
        browser: From `launch`.
        path: The page's file.
        widths: Pixels of the viewport.
        schemes: `"light"`, `"dark"`.

    Returns:
        What is wrong: boxes beyond the viewport, requests but for the page and `data:`, scripts and dialogs that ran,
        errors that the page reported, pictures that do not load, text of too little contrast.
    """
    faults = []
    for scheme in schemes:
        for width in widths:
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            found = _watch(page, path)
            page.goto(path.resolve().as_uri())
            found += _look(page)
            context.close()
            faults += [PageFault(f"{width} px, {scheme}", what) for what in found]
    return faults


def _watch(page: Page, path: Path) -> list[str]:
    own = path.resolve().as_uri()
    found: list[str] = []
    page.on("request", lambda request: _is_own(request.url, own) or found.append(f"request of {request.url[:200]}"))
    page.on("dialog", lambda dialog: (found.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda message: found.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    return found


def _is_own(url: str, own: str) -> bool:
    return url == own or url.startswith("data:")


def _look(page: Page) -> list[str]:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = [f"beyond the viewport: {one}" for one in page.evaluate(_OVERFLOWING)]
    if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        found.append("the page scrolls sideways")
    broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth).map(one => one.src.slice(0, 80))")
    found += [f"picture does not load: {one}" for one in broken]
    found += [f"contrast {one}" for one in page.evaluate(_CONTRASTS, LEAST_CONTRAST)]
    return found
