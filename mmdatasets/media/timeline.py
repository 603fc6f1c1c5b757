"""When each frame of a video is shown: from its packets, or, where these do not tell, from decoded frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import MediaDecodeError

if TYPE_CHECKING:
    from mmdatasets.media.container import OpenVideo
    from mmdatasets.media.packets import PacketScan, Ticks
    from mmdatasets.types import FloatArray, FramePlan

_TOLERANCE_S = 1e-3  # of planned times: they may have passed through 32 bits


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The frames of a video in the order in which they are shown.

    Attributes:
        num_frames: How many.
        ticks: `(num_frames,)` when each is shown, in ticks; `None` where nothing tells.
        last_duration: How many ticks the last frame is shown; 0 where nothing tells.
        time_base: Seconds of a tick.
    """

    num_frames: int
    ticks: Ticks | None
    last_duration: int
    time_base: Fraction

    @property
    def timestamps_s(self) -> FloatArray | None:
        """`(num_frames,)` seconds from the first frame on."""
        if self.ticks is None:
            return None
        # As a quotient of integers, so that each is the nearest float to its exact value.
        elapsed = (self.ticks - self.ticks[0]).astype(np.float64)
        times: FloatArray = elapsed * self.time_base.numerator / self.time_base.denominator
        return times

    @property
    def starts_at_s(self) -> float:
        """Seconds by the file's clock at which the first frame is shown; 0 where nothing tells."""
        return 0.0 if self.ticks is None else float(int(self.ticks[0]) * self.time_base)

    @property
    def duration_s(self) -> float | None:
        """Seconds from the first frame on until the last one is gone."""
        exact = self._exact_duration()
        return None if exact is None else float(exact)

    @property
    def fps(self) -> float | None:
        """Average frames per second."""
        exact = self._exact_duration()
        return None if not exact else float(self.num_frames / exact)

    def _exact_duration(self) -> Fraction | None:
        if self.ticks is None:
            return None
        span, last = int(self.ticks[-1] - self.ticks[0]), Fraction(self.last_duration)
        if not last and self.num_frames > 1:
            last = Fraction(span, self.num_frames - 1)  # as long as the others on average
        return (span + last) * self.time_base


def scanned_timeline(scan: PacketScan, video: OpenVideo) -> Timeline:
    """The timeline that packets tell, of a scan without doubt."""
    order = scan.presentation_order()
    ticks = np.asarray([scan.pts[position] for position in order], dtype=np.int64)
    last = scan.durations[int(order[-1])] or _frame_duration(video)
    return Timeline(len(order), ticks, last, scan.time_base)


def decoded_timeline(times: Sequence[int | None], scan: PacketScan, video: OpenVideo) -> Timeline:
    """The timeline of frames that were all decoded, of which some may not know their time.

    Args:
        times: Ticks at which each decoded frame is shown, in the order in which the decoder gave them.
        scan: What the packets say.
        video: The open video.
    """
    known = [time for time in times if time is not None]
    stored = [time for time in scan.dts if time is not None]
    frame_duration = _frame_duration(video)
    if len(known) == len(times):
        ticks = _increasing(np.asarray(known, dtype=np.int64), frame_duration)
    elif len(stored) == len(times):
        # AVI: frames are stored out of order, and their times say when each is decoded. That is one frame at a time.
        # A packet lasts as long as a field there, or is followed by empty ones: the last frame is as long as others.
        ticks = np.sort(np.asarray(stored, dtype=np.int64))
        if len(times) > 1:
            return Timeline(len(times), ticks, 0, scan.time_base)
    elif stored and frame_duration:
        ticks = np.arange(len(times), dtype=np.int64) * frame_duration
    else:
        return Timeline(len(times), None, 0, scan.time_base)
    return Timeline(len(times), ticks, max(scan.durations[-1], 0) or frame_duration, scan.time_base)


def _increasing(ticks: Ticks, frame_duration: int) -> Ticks:
    """Times that go on where they go back, as they do where recordings were joined."""
    steps = np.diff(ticks)
    forward = steps[steps > 0]
    steps[steps <= 0] = frame_duration or (int(np.median(forward)) if len(forward) else 1)
    return np.concatenate([ticks[:1], ticks[0] + np.cumsum(steps)])


def check_plan(plan: FramePlan, num_frames: int, times: FloatArray | None, source: str) -> None:
    """Refuses a plan that was made for another video.

    Args:
        plan: The plan.
        num_frames: How many frames there are.
        times: `(num_frames,)` seconds at which each is shown; `None` where nothing tells.
        source: Description for errors.

    Raises:
        MediaDecodeError: Saying what differs.
    """
    if plan.indices[0] < 0 or plan.indices[-1] >= num_frames:
        raise MediaDecodeError(
            f"the plan has frame {plan.indices[0] if plan.indices[0] < 0 else plan.indices[-1]}, but the video has "
            f"{num_frames} frames, counted from 0; was the file changed after the dataset was mapped?",
            source=source,
        )
    if plan.timestamps_s is None or times is None:
        return
    for index, planned in zip(plan.indices, plan.timestamps_s, strict=True):
        check_time(index, planned, float(times[index]), source)


def check_time(index: int, planned: float, found: float, source: str) -> None:
    """Refuses a frame that is shown at another time than planned.

    Raises:
        MediaDecodeError: Naming the frame and both times.
    """
    if not is_same_time(planned, found):
        raise MediaDecodeError(
            f"frame {index} is planned at {planned:.6f} s, but is shown at {found:.6f} s; was the file changed after "
            "the dataset was mapped?",
            source=source,
        )


def is_same_time(planned: float, found: float) -> bool:
    """Whether two times, in seconds, are of the same frame."""
    return abs(planned - found) <= _TOLERANCE_S


def _frame_duration(video: OpenVideo) -> int:
    """Ticks of a frame at the rate that the header states; 0 where it states none."""
    rate = video.stream.average_rate or video.stream.guessed_rate
    return round(1 / (rate * video.stream.time_base)) if rate and video.stream.time_base else 0
