"""Makes the pictures in docs/images: previews of real rows, rendered by an installed Chromium.

Run it from the repository: `python docs/make_screenshots.py`. It needs no network.
"""

from __future__ import annotations

import io
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import PIL.Image

import mmdatasets.testing
from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing.audio import write_audio

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from mmdatasets.preview.preview import Preview

IMAGES = Path(__file__).parent / "images"
PHOTOS = Path(str(resources.files("mmdatasets.testing"))) / "data"
FLAT_COLOURS, COLOURS = 96, 256
MAX_BYTES = 120_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
# Name of a preview -> widths of the viewport and colour schemes in which it is taken.
SHOTS = {
    "preview_row": [(1000, "light"), (1000, "dark")],
    "preview_omni": [(1000, "light"), (640, "dark")],
    "preview_tiles": [(1000, "light")],
    "preview_batch": [(1000, "light")],
}


def previews(folder: Path) -> Iterator[tuple[str, Preview]]:
    """The previews, by name."""
    options = MediaOptions(media_root=str(PHOTOS))
    qwen = auto_plugin(mmdatasets.testing.build_processor("qwen2_vl"), options=options)
    system = {"role": "system", "content": "Answer in one sentence."}
    chat = [
        system,
        {"role": "user", "content": "<image>What animal is this?"},
        {"role": "assistant", "content": "A tabby cat with green eyes."},
        {"role": "user", "content": "And what stands here?\n<image>"},
        {"role": "assistant", "content": "A rocket on its launch pad, at dusk."},
    ]
    row = {"messages": chat, "images": ["cat.jpg", "rocket_exif6.jpg"]}
    yield "preview_row", qwen.preview(row, names=["row 0"])

    folder = folder / "media"
    folder.mkdir()
    clip = write_clip(folder / "astronaut.mp4")
    sound = write_audio(folder / "tone.wav", sampling_rate=44_100, duration_s=2.4, num_channels=2)
    shutil.copy(PHOTOS / "speech.flac", folder / "speech.flac")
    omni = auto_plugin(
        mmdatasets.testing.build_processor("qwen2_5_omni"),
        options=MediaOptions(video_fps=2.0, video_max_pixels=224 * 224),
    )
    chat = [
        system,
        {"role": "user", "content": "<video>What is shown, and what is said? <audio>"},
        {"role": "assistant", "content": "The camera moves over a portrait; a voice reads a sentence."},
        {"role": "user", "content": "And <audio>?"},
        {"role": "assistant", "content": "A mixture of tones."},
    ]
    yield (
        "preview_omni",
        omni.preview(
            {"messages": chat, "videos": [str(clip)], "audios": [str(folder / "speech.flac"), str(sound)]},
            names=["row 7"],
        ),
    )

    tiled = auto_plugin(mmdatasets.testing.build_processor("llava_next"), options=options)
    chat = [{"role": "user", "content": "<image>Describe it."}, {"role": "assistant", "content": "A cup of coffee."}]
    yield "preview_tiles", tiled.preview({"messages": chat, "images": ["coffee.jpg"]}, names=["row 12"])

    rows = [
        qwen.transform({"messages": [one["messages"]], "images": [one["images"]]})
        for one in (row, {"messages": [*row["messages"][:3]], "images": ["cat.jpg"]})
    ]
    batch = qwen.collator()([{name: column[0] for name, column in one.items()} for one in rows])
    yield "preview_batch", qwen.preview(batch)


def write_clip(path: Path) -> Path:
    """Writes a video of four seconds that moves over a photo."""
    photo = PIL.Image.open(PHOTOS / "astronaut.jpg").convert("RGB")
    width, height, count = 320, 240, 100
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for place in np.linspace(0, 1, count):
            left, top = (photo.width - width) * place, (photo.height - height) * (1 - place)
            picture = photo.crop((int(left), int(top), int(left) + width, int(top) + height))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path


@contextmanager
def launch() -> Iterator[Browser]:
    """The installed Chromium.

    Raises:
        SystemExit: If none is installed.
    """
    from playwright.sync_api import sync_playwright

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit(f"no Chromium is installed (looked for {', '.join(BROWSERS)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()


def shoot(browser: Browser, page_path: Path, width: int, scheme: str, height: int | None = None) -> PIL.Image.Image:
    """A picture of the page: the whole, or so many pixels from the top."""
    context = browser.new_context(viewport={"width": width, "height": height or 600}, color_scheme=scheme)
    page = context.new_page()
    page.goto(page_path.as_uri())
    data = page.screenshot(full_page=height is None)
    context.close()
    return PIL.Image.open(io.BytesIO(data)).convert("RGB")


def save(image: PIL.Image.Image, path: Path) -> int:
    """Writes a PNG of few colours, as small as its limit asks for, and returns its size."""
    counts = image.getcolors(image.width * image.height) or []
    flat = [colour for _, colour in sorted(counts, reverse=True)[:FLAT_COLOURS]]
    for colours in range(COLOURS - FLAT_COLOURS, 16, -16):
        # The colours of the page itself stay what they are; those of photos share the rest.
        photo = image.quantize(colours, method=PIL.Image.Quantize.MEDIANCUT).getpalette() or []
        small = with_palette(image, np.array([*flat, *np.reshape(photo[: 3 * colours], (-1, 3))], dtype=np.uint8))
        file = io.BytesIO()
        small.save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    path.write_bytes(file.getvalue())
    return file.tell()


def with_palette(image: PIL.Image.Image, colours: np.ndarray) -> PIL.Image.Image:
    """The picture with each pixel in the nearest of some colours, `uint8` `(num_colours, 3)`."""
    pixels = np.asarray(image).reshape(-1, 3)
    different, places = np.unique(pixels, axis=0, return_inverse=True)
    parts = np.array_split(different.astype(int), 64)
    nearest = np.concatenate([((part[:, None] - colours) ** 2).sum(axis=2).argmin(axis=1) for part in parts])
    made = PIL.Image.fromarray(nearest[places].reshape(image.height, image.width).astype(np.uint8), "P")
    made.putpalette(colours.tobytes())
    return made


def main() -> None:
    """Makes all pictures."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, launch() as browser:
        folder = Path(temporary)
        for name, preview in previews(folder):
            path = preview.save(folder / f"{name}.html")
            for width, scheme in SHOTS[name]:
                target = IMAGES / f"{name}_{scheme}.png"
                size = save(shoot(browser, path, width, scheme), target)
                page_size = path.stat().st_size
                sys.stdout.write(f"{target.name}: {size / 1000:.0f} kB; the page: {page_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
