"""`mmdatasets probe`: what media files are, as their headers say, and what a model makes of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmdatasets.errors import MediaError
from mmdatasets.options import MediaOptions

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.report.probing import ProbedFile

_DESCRIPTION = """\
Says of images, videos and audio what the map stage finds: size, frames and their rate, duration, samples. The kind is
told by the content, not by the file's name. Nothing is decoded but the first frame of a video, and files that do not
say how long they are. With --processor it also says how many tokens of your model an item becomes.
"""
_EPILOG = """\
examples:
  mmdatasets probe photo.jpg clip.mp4 speech.wav
  mmdatasets probe photos/ --json
  mmdatasets probe clip.mp4 --processor Qwen/Qwen2.5-VL-7B-Instruct

exit status: 0 all files are media; 1 one or more cannot be read, which is said of each; 2 wrong usage; 130 interrupted
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "probe",
        help="say what media files are: size, frames, duration, tokens",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="files, or folders, of which those are meant that are named like media or have no suffix",
    )
    parser.add_argument(
        "--processor",
        metavar="NAME_OR_DIR",
        help="the model's processor, to say how many tokens each file becomes: a folder made with save_pretrained, or "
        "a name on the Hub",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a file, one a line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if a file cannot be read.

    Raises:
        MMDatasetsError: The processor cannot be used.
    """
    from mmdatasets.report.probing import media_files, probe_file

    options = MediaOptions()
    plugin = _load_plugin(args.processor)
    failed = 0
    for path in media_files(args.files):
        try:
            probed = probe_file(path, options)
            said = _facts(probed) | ({} if plugin is None else {"tokens": _tokens(plugin, probed, path)})
        except MediaError as error:
            failed += 1
            said = {"error": error.message}
        if args.json:
            console.file.write(json.dumps({"file": str(path), **said}) + "\n")
        else:
            console.print(f"{path}: {_line(said)}", markup=False, highlight=False)
    return int(failed > 0)


def _load_plugin(name: str | None) -> BasePlugin | None:
    if name is None:
        return None
    from mmdatasets import auto_plugin
    from mmdatasets.cli.processors import load_processor

    return auto_plugin(load_processor(name))


def _tokens(plugin: BasePlugin, probed: ProbedFile, path: Path) -> int:
    """How many media tokens of the model an item becomes, by the processor run dry."""
    from mmdatasets.types import MediaItem

    item = MediaItem(probed.modality, path)
    media = plugin.engine.media
    plans = media.plan([item])[0]
    return sum(one.num_media_tokens for one in media.expand([item] * len(plans), plans))


def _facts(probed: ProbedFile) -> dict[str, object]:
    """What is said of a file, as JSON has it."""
    info = {
        name: value
        for name, value in dataclasses.asdict(probed.info).items()
        if value is not None and name not in ("timestamps_s", "is_frame_list")
    }
    if probed.modality == "audio":
        info["duration_s"] = info["num_samples"] / info["sampling_rate"]
    if probed.orientation is not None:
        info["orientation"] = probed.orientation
    return {
        "kind": probed.modality,
        **info,
        "bytes": probed.num_bytes,
        "bytes_read": probed.bytes_read,
        "milliseconds": round(probed.seconds * 1000, 3),
    }


def _line(said: Mapping[str, object]) -> str:
    """The same in words."""
    if "error" in said:
        return f"error: {said['error']}"
    kind = said["kind"]
    parts = [str(kind)]
    if kind != "audio":
        parts.append(f"{said['width']}x{said['height']}")
    if said.get("orientation", 1) != 1:
        parts.append(f"turned upright (EXIF orientation {said['orientation']})")
    if kind == "video":
        rate = "no rate" if said.get("fps") is None else f"{said['fps']:.6g} frames/s"
        parts += [f"{said['num_frames']} frames", rate]
    if said.get("duration_s") is not None:
        parts.append(f"{said['duration_s']:.3f} s")
    if kind == "video":
        parts.append("with sound" if said["has_audio"] else "no sound")
    if kind == "audio":
        channels = "1 channel" if said["num_channels"] == 1 else f"{said['num_channels']} channels"
        parts += [f"{said['num_samples']} samples at {said['sampling_rate']} Hz", channels]
    if "tokens" in said:
        parts.append(f"{said['tokens']:,} tokens")
    parts.append(f"read {said['bytes_read']:,} of {said['bytes']:,} bytes in {said['milliseconds']} ms")
    return ", ".join(parts)
