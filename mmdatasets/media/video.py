"""Videos: what they are, from their packets, and the frames of a plan, decoded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from mmdatasets.media.bounded import is_bounded, run_bounded
from mmdatasets.media.clip import is_frame_list, split_clip
from mmdatasets.media.limits import check_num_frames
from mmdatasets.media.probe import probe_image
from mmdatasets.media.source import describe_source, reading

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from mmdatasets.options import MediaOptions
    from mmdatasets.types import FramePlan, ImageInfo, VideoInfo


def probe_video(
    reference: object, options: MediaOptions, probe_frame: Callable[[object], ImageInfo] | None = None
) -> VideoInfo:
    """Finds out what `decode_frames` can give: size, number and times of the frames.

    Headers are wrong or silent in Matroska, WebM, MPEG-TS, AVI, in fragmented files and in those with edit lists.
    Therefore all packets are read, which tells without decoding; only the first frame is decoded, which says how the
    video must be turned. Where packets do not tell (frames stored out of order without times, as in AVI; a beginning
    or an end that is cut off), the whole video is decoded and counted.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.VideoReference`. Of a clip (`"start"`, `"end"`)
            the whole video is meant; see `mmdatasets.media.clip.split_clip`.
        options: The limits, and what says where media may be read from, are used.
        probe_frame: What reads the header of each of a list of frames; `mmdatasets.media.probe.probe_image` when
            `None`.

    Returns:
        What a full decode finds. The sample aspect ratio is ignored. Of several video tracks, FFmpeg's best one.

    Raises:
        MediaNotFoundError: The path or URL cannot be opened.
        MediaReferenceError: The value is no video reference.
        MediaDecodeError: The file is no video, is damaged, has no video track or no frame; the frames of a list differ
            in size.
        MediaLimitError: The header announces frames of more pixels than `image_pixel_limit`, or there are more frames
            than `video_frame_limit`, or more bytes than `byte_limit`.
        MediaTimeoutError: It takes longer than `decode_timeout_s`; of a list of frames, one of them.
    """
    clip = split_clip(reference)
    source = describe_video(clip.reference)
    if is_frame_list(clip.reference):
        from mmdatasets.media.frame_list import probe_frames

        check_num_frames(len(clip.reference), options, source)
        return probe_frames(clip.reference, clip.fps, source, probe_frame or partial(probe_image, options=options))
    if is_bounded(clip.reference, options):
        return cast("VideoInfo", run_bounded("probe_video", clip.reference, options=options))
    from mmdatasets.media.video_pyav import probe_file

    with reading(clip.reference, options) as file:
        return probe_file(file, options, source)


def decode_frames(reference: object, plan: FramePlan, options: MediaOptions) -> torch.Tensor:
    """Decodes the planned frames of a video.

    Each frame is known by the time at which it is shown. A frame that does not come out at its time is looked for by
    decoding the whole video; where that disagrees with the plan, too, there is an error, never another frame.

    Memory rises by 1.3 times what is returned at most, and by what the decoder itself holds: the frames that others
    refer to or that wait for their turn, and the one that is being converted. For the usual H.264 of 1280x720 that is
    11 MB, however many frames are wanted; see `benchmarks/README.md`.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.VideoReference`.
        plan: The frames to decode: indices of the whole video, also where the reference is a clip of it.
        options: As for `probe_video`, and `video_backend`.

    Returns:
        `uint8` tensor `(num_frames, 3, height, width)`, RGB, upright, in the order of the plan. The channels are
        stored last, as decoders give them and as resizing is fastest: not contiguous.

    Raises:
        MediaNotFoundError: The path or URL cannot be opened.
        MediaReferenceError: The value is no video reference.
        MediaDecodeError: The file is no video, is damaged, or is another one than the plan was made for; the frames
            differ in size; `video_backend` is one that gives wrong frames of such a file.
        MediaLimitError: As for `probe_video`; the frames of the plan have more pixels than `video_pixel_limit`.
        MediaTimeoutError: It takes longer than `decode_timeout_s`; of a list of frames, one of them.
        MissingExtraError: `video_backend` is one that is not installed.
    """
    clip = split_clip(reference)
    source = describe_video(clip.reference)
    if is_frame_list(clip.reference):
        from mmdatasets.media.frame_list import decode_frame_list

        return decode_frame_list(clip.reference, plan, clip.fps, options, source)
    if is_bounded(clip.reference, options):
        return cast("torch.Tensor", run_bounded("decode_frames", clip.reference, plan, options=options))
    with reading(clip.reference, options) as file:
        if options.video_backend == "decord":
            from mmdatasets.media.video_decord import decode_with_decord

            return decode_with_decord(file, plan, options, source)
        if options.video_backend == "torchcodec":
            from mmdatasets.media.video_torchcodec import decode_with_torchcodec

            return decode_with_torchcodec(file, plan, options, source)
        from mmdatasets.media.video_pyav import decode_file

        return decode_file(file, plan, options, source)


def describe_video(reference: object) -> str:
    """Says in a few words what a video reference refers to, for error messages."""
    reference = split_clip(reference).reference
    return f"list of {len(reference)} frames" if is_frame_list(reference) else describe_source(reference)
