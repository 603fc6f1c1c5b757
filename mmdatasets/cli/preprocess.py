"""`mmdatasets preprocess`: conversations with media become sharded Parquet of token ids, resumably."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console

from mmdatasets.cli.numbers import positive
from mmdatasets.options import ErrorPolicy, LongAudio, MediaOptions, Overflow, VideoSampling

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin

TRAIN_ON = ("assistant", "last", "completion", "all")
_DESCRIPTION = """\
Maps conversations with images, videos and audio to token ids, labels and media sizes, with your model's own processor,
and writes them as Parquet files for datasets.load_dataset(DIR) and plugin.collator(). Media files are opened for their
headers alone; nothing is decoded, but with --materialise. The source is not changed.

A run that was interrupted - Ctrl-C, a full disk, kill -9, a machine that went down - goes on when the same command is
given again, also with another --num-proc. Files that are finished are not written again.
"""
_EPILOG = """\
examples:
  mmdatasets preprocess chat.jsonl --output mapped --processor Qwen/Qwen2.5-VL-7B-Instruct --num-proc 8
  mmdatasets preprocess data/ --split validation --output mapped --processor ./my-processor
  mmdatasets preprocess chat.jsonl --output mapped --processor ./my-processor --max-length 8192 --on-overflow drop

exit status: 0 all is written; 1 an error in the data, the processor or the output, which the message explains;
2 wrong usage; 130 interrupted; 143 terminated
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "preprocess",
        help="map conversations to token ids, as sharded Parquet; goes on where it was interrupted",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a data file (.json, .jsonl, .ndjson, .parquet, .csv, .arrow), a folder of files of one such format or "
        "of save_to_disk, or a dataset's name on the Hugging Face Hub",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder for the result; it is made")
    parser.add_argument(
        "--processor",
        metavar="NAME_OR_DIR",
        required=True,
        help="the model's processor: a folder made with save_pretrained, or a name on the Hub",
    )
    _add_run_options(parser.add_argument_group("the run"))
    _add_text_options(parser.add_argument_group("conversations"))
    add_media_options(parser.add_argument_group("media (what is left out, the model's processor decides)"))
    parser.set_defaults(run=run, usage_error=parser.error, resumes=True)


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--num-proc", metavar="N", type=positive, default=1, help="processes (default: %(default)s)")
    group.add_argument("--split", default="train", help="which split of the source (default: %(default)s)")
    group.add_argument("--config", metavar="NAME", help="which configuration of a dataset on the Hub")
    group.add_argument(
        "--rows-per-shard",
        metavar="N",
        type=positive,
        help="rows of the source in each file (default: 10000; 1000 with --embed-media, 100 with --materialise)",
    )
    group.add_argument(
        "--embed-media", action="store_true", help="put the media files into the result, which then can be moved"
    )
    group.add_argument(
        "--materialise",
        action="store_true",
        help="decode the media, and store what the processor resizes them to, so that training decodes no originals",
    )
    group.add_argument(
        "--quality",
        metavar="N",
        type=positive,
        help="1 to 100: materialised media that loses something, and is smaller",
    )
    group.add_argument(
        "--unsupported",
        choices=("error", "keep"),
        default="error",
        help="what becomes of media that cannot be materialised, as the processor needs originals (default: "
        "%(default)s; keep leaves it as it is)",
    )
    group.add_argument(
        "--metadata-cache", metavar="DIR", help="folder for what media headers say; a second run then opens no media"
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a result of another source or of other settings; without, that is an error",
    )
    group.add_argument("--json", action="store_true", help="print the report at the end as JSON, on standard output")
    group.add_argument("--quiet", action="store_true", help="show no progress bar")


def _add_text_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--family", metavar="NAME", help="the plugin to use (default: that of the processor's class)")
    group.add_argument(
        "--trust-remote-code", action="store_true", help="allow the processor's own code from the Hub or folder to run"
    )
    group.add_argument(
        "--preference", action="store_true", help="rows have answers to compare: chosen and rejected, or label"
    )
    group.add_argument(
        "--train-on", choices=TRAIN_ON, default="assistant", help="what is trained (default: %(default)s)"
    )
    group.add_argument("--max-length", metavar="N", type=positive, help="most tokens of a row, media included")
    group.add_argument(
        "--on-overflow",
        choices=get_args(Overflow),
        default="error",
        help="what becomes of longer rows (default: %(default)s, which names the first one)",
    )
    group.add_argument(
        "--on-error",
        choices=get_args(ErrorPolicy),
        default="raise",
        help="what becomes of rows that cannot be used: stop at the first and name it, leave them out, or leave them "
        "out and write to --row-log which and why (default: %(default)s)",
    )
    group.add_argument(
        "--max-bad-rows", metavar="N", type=positive, help="stop where a process has left out more (default: any)"
    )
    group.add_argument(
        "--row-log", metavar="DIR", help="folder for a table of the rows that were dropped or changed, and why"
    )


def add_media_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options that say how media is read and sized; `media_options` reads them."""
    group.add_argument(
        "--media-root",
        metavar="DIR",
        help="folder that relative media paths start from (default: that of SOURCE; the working directory for a name "
        "on the Hub)",
    )
    group.add_argument("--allow-http", action="store_true", help="allow http(s) references in the data")
    group.add_argument(
        "--decode-timeout",
        metavar="SECONDS",
        type=float,
        help="longest that reading one media file may take; then it is a row that cannot be used (default: any time)",
    )
    for kind in ("image", "video"):
        for bound, word in (("max", "most"), ("min", "fewest")):
            what = "an image" if kind == "image" else "each frame"
            group.add_argument(
                f"--{kind}-{bound}-pixels",
                metavar="N",
                type=positive,
                help=f"{word} pixels of {what} (width x height)",
            )
    group.add_argument("--video-sampling", choices=get_args(VideoSampling), default="processor", help="which frames")
    group.add_argument("--video-fps", metavar="X", type=float, help="frames per second of a video to take")
    group.add_argument("--video-num-frames", metavar="N", type=positive, help="how many frames of a video to take")
    group.add_argument("--video-max-frames", metavar="N", type=positive, help="most frames of a video")
    group.add_argument(
        "--long-audio",
        choices=get_args(LongAudio),
        default="error",
        help="what becomes of audio that is longer than the processor takes (default: %(default)s)",
    )
    group.add_argument("--use-audio-in-video", action="store_true", help="use the sound track of videos too")


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command.

    Raises:
        MMDatasetsError: The source, the processor or the output cannot be used.
        SystemExit: With 2 if the arguments contradict each other.
    """
    if args.quality is not None and not (args.materialise and args.quality <= 100):
        args.usage_error("--quality is of --materialise, and at most 100")
    if args.unsupported != "error" and not args.materialise:
        args.usage_error("--unsupported is of --materialise")
    try:
        options = media_options(args)
    except ValueError as error:
        args.usage_error(str(error))
    from mmdatasets import preprocess

    plugin = _make_plugin(args, options)
    report = preprocess(
        args.source,
        plugin,
        args.output,
        split=args.split,
        config=args.config,
        rows_per_shard=args.rows_per_shard,
        num_proc=args.num_proc,
        embed_media=args.embed_media,
        preference=args.preference,
        materialise=args.materialise,
        quality=args.quality,
        unsupported=args.unsupported,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if args.json:
        console.file.write(json.dumps(report.to_json(), indent=1) + "\n")
    else:
        console.print(str(report), markup=False, highlight=False)


def media_options(args: argparse.Namespace) -> MediaOptions:
    """How media is read and sized, by the arguments.

    Raises:
        ValueError: If they contradict each other.
    """
    return MediaOptions(
        image_max_pixels=args.image_max_pixels,
        image_min_pixels=args.image_min_pixels,
        video_max_pixels=args.video_max_pixels,
        video_min_pixels=args.video_min_pixels,
        video_sampling=args.video_sampling,
        video_fps=args.video_fps,
        video_num_frames=args.video_num_frames,
        video_max_frames=args.video_max_frames,
        long_audio=args.long_audio,
        use_audio_in_video=args.use_audio_in_video,
        media_root=args.media_root,
        allow_http=args.allow_http,
        decode_timeout_s=args.decode_timeout,
    )


def _make_plugin(args: argparse.Namespace, options: MediaOptions) -> BasePlugin:
    from mmdatasets import auto_plugin, get_mm_plugin
    from mmdatasets.cli.processors import load_processor
    from mmdatasets.errors import UnknownPluginError

    processor = load_processor(args.processor, trust_remote_code=args.trust_remote_code)
    fields = {
        "options": options,
        "train_on": args.train_on,
        "max_length": args.max_length,
        "on_overflow": args.on_overflow,
        "row_log": args.row_log,
        "metadata_cache": args.metadata_cache,
        "on_error": args.on_error,
        "max_bad_rows": args.max_bad_rows,
    }
    try:
        if args.family is None:
            return auto_plugin(processor, **fields)
        return get_mm_plugin(args.family, processor=processor, **fields)
    except (ValueError, UnknownPluginError) as error:
        args.usage_error(str(error))
        raise
