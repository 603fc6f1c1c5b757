"""Makes the pictures of reports in docs/images, rendered by an installed Chromium.

Run it from the repository: `python docs/make_report_screenshots.py`. It needs no network. One report is of the photos
and conversations that come with the package; the other one is of 3,000 rows of random numbers, for distributions to
have a shape, and says so in its title. Their media files are real, and are decoded where times are shown.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
from datasets import disable_progress_bars, load_dataset
from make_screenshots import IMAGES, MAX_BYTES, PHOTOS, launch, shoot

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing import build_processor
from mmdatasets.testing.mapped import make_mapped
from mmdatasets.testing.video import VideoSpec, write_video

if TYPE_CHECKING:
    from mmdatasets.report.report import Report

COLOURS = 64
# Report -> picture, width of the viewport, colour scheme, and how much of the page is taken, in pixels from the top.
SHOTS = {
    "photos": [("report_photos_light", 1180, "light", 1100)],
    "synthetic": [("report_synthetic_light", 1180, "light", 1560), ("report_synthetic_dark", 1180, "dark", 1560)],
}


def reports(folder: Path) -> Iterator[tuple[str, Report]]:
    """The reports, by name."""
    options = MediaOptions(media_root=str(PHOTOS), image_max_pixels=256 * 256)
    chats = load_dataset("json", data_files=str(PHOTOS / "chat.jsonl"), split="train", cache_dir=str(folder / "cache"))
    yield "photos", auto_plugin(build_processor("qwen2_vl"), options=options).report(chats, title="14 chats")
    clip = write_video(folder / "clip.mp4", VideoSpec(num_frames=800, width=320, height=240))
    photos = sorted(str(path) for path in PHOTOS.iterdir() if path.suffix in (".jpg", ".webp"))
    omni = auto_plugin(build_processor("qwen2_5_omni"))
    files = {"image": photos, "video": [str(clip)], "audio": [str(PHOTOS / "speech.flac")]}
    rows = make_mapped(3000, files=files, made_by=omni.made_by)
    yield "synthetic", omni.report(rows, title="3,000 synthetic rows", time_media=0)


def main() -> None:
    """Writes the pictures, each as small as its colours allow."""
    logging.disable(logging.WARNING)
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary, launch() as browser:
        folder = Path(temporary)
        for name, report in reports(folder):
            page = report.save(folder / f"{name}.html")
            for picture, width, scheme, height in SHOTS[name]:
                _save(shoot(browser, page, width, scheme, height), IMAGES / f"{picture}.png")


def _save(screenshot: PIL.Image.Image, path: Path) -> None:
    picture = screenshot.quantize(COLOURS, dither=PIL.Image.Dither.NONE)
    picture.save(path, optimize=True)
    size = path.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}")


if __name__ == "__main__":
    main()
