"""The Arrow schema of a mapped dataset: value types <-> `datasets.Features`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, TypedDict

from datasets import Audio, ClassLabel, Features, Image, List, Value, Video

from mmdatasets.types import FramePlan, MediaPlan, Modality

SCHEMA_VERSION = 4
"""Raised whenever the meaning or type of a column changes; part of every plugin's fingerprint."""

INPUT_IDS = "input_ids"
LABELS = "labels"
CHOSEN_IDS = "chosen_ids"
CHOSEN_LABELS = "chosen_labels"
REJECTED_IDS = "rejected_ids"
REJECTED_LABELS = "rejected_labels"
LABEL = "label"
LENGTH = "length"
MEDIA_INFO = "media_info"
FIT = "fit"
IMAGES = "images"
VIDEOS = "videos"
VIDEO_FRAMES = "video_frames"
AUDIOS = "audios"
MADE_BY = "made_by"
"""Says of every row which plugin made it: the column's type has one label, whose `id` describes the plugin."""

SEQUENCE_LENGTHS = "sequence_lengths"
"""Tokens of each sequence that a packed row is made of, in order."""

MEDIA_COLUMNS: dict[Modality, str] = {"image": IMAGES, "video": VIDEOS, "audio": AUDIOS}
"""Column of each modality's references in a mapped dataset."""

PARQUET_OPTIONS: Mapping[str, int | bool] = {"use_dictionary": True, "dictionary_pagesize_limit": 2**30}
"""For `pyarrow.parquet.write_table(table, path, **PARQUET_OPTIONS)`: a row group has the same media once.

By default, values of more than 1 MB in all are written as often as they occur. (`Dataset.to_parquet` leaves media out
of dictionaries, and takes no other word for it.)
"""

Outcome: TypeAlias = Literal["kept", "cut", "shrunk", "dropped"]
"""What became of a row that was to fit into a length. Of rows that are dropped there is no row to say so."""


class MediaRecord(TypedDict):
    """One media item of a row, in the order of the text.

    Attributes:
        modality: `"image"`, `"video"` or `"audio"`. What another modality is described by is `None`.
        item: Which of the row's references of this modality it is: audio that is divided into chunks has several
            records.
        width: Pixels as the header says, after orientation.
        height: Pixels as the header says, after orientation.
        frame_indices: The frames of a video that are decoded, counted in the order of presentation.
        timestamps_s: Seconds of each of these frames.
        num_source_frames: How many frames there were to choose from.
        fps: Average frames per second of the video.
        duration_s: Seconds that the frames were chosen from.
        start_s: Where the audio, or the sound of a video, begins, in seconds from its first sample on.
        end_s: Where it ends; with the file when `None`.
        num_samples: Samples of audio, or of a video's sound where that is used, at the model's rate.
        start: First token of the item's media span in `input_ids`, the family's delimiters included.
        end: One past the last token of the media span.
        num_tokens: Media tokens in the span, which is how many features the model produces for the item.
        max_pixels: Upper bound on the pixels of the image, or of each frame, that `on_overflow="shrink"` lowered for
            this row; `None` where the plugin's options hold.
        materialised: Whether the row holds what the processor makes of the item first, in place of the original. The
            other fields describe the original.
    """

    modality: str
    item: int
    width: int | None
    height: int | None
    frame_indices: list[int] | None
    timestamps_s: list[float] | None
    num_source_frames: int | None
    fps: float | None
    duration_s: float | None
    start_s: float | None
    end_s: float | None
    num_samples: int | None
    start: int
    end: int
    num_tokens: int
    max_pixels: int | None
    materialised: bool


class FitRecord(TypedDict):
    """What became of a row that was to fit into `max_length`.

    Attributes:
        outcome: `"kept"` as it was, `"cut"` or `"shrunk"`.
        reason: Why it is not as it was: `"turns_dropped"`, `"truncated"` or `"budget_lowered"`.
        original_length: How many tokens the row had.
        turns_dropped: How many of its oldest turns are gone.
        image_max_pixels: The row's own bound of this name in `MediaOptions`, where it was shrunk.
        video_max_pixels: The row's own bound of this name.
        video_max_frames: The row's own bound of this name.
    """

    outcome: Outcome
    reason: str | None
    original_length: int
    turns_dropped: int
    image_max_pixels: int | None
    video_max_pixels: int | None
    video_max_frames: int | None


def record_of(plan: MediaPlan, item: int, span: tuple[int, int], num_tokens: int) -> MediaRecord:
    """A media item as the `media_info` column has it."""
    frames = plan.frames
    return {
        "modality": plan.modality,
        "item": item,
        "width": plan.width,
        "height": plan.height,
        "frame_indices": None if frames is None else list(frames.indices),
        "timestamps_s": None if frames is None or frames.timestamps_s is None else list(frames.timestamps_s),
        "num_source_frames": plan.num_source_frames,
        "fps": plan.fps,
        "duration_s": plan.duration_s,
        "start_s": plan.start_s,
        "end_s": plan.end_s,
        "num_samples": plan.num_samples,
        "start": span[0],
        "end": span[1],
        "num_tokens": num_tokens,
        "max_pixels": None,
        "materialised": plan.materialised,
    }


def plan_of(record: MediaRecord) -> MediaPlan:
    """The plan that a record of the `media_info` column holds."""
    indices, times = record["frame_indices"], record["timestamps_s"]
    frames = None
    if indices is not None:
        frames = FramePlan(tuple(map(int, indices)), None if times is None else tuple(map(float, times)))
    return MediaPlan(
        modality=record["modality"],  # type: ignore[arg-type]
        width=record["width"],
        height=record["height"],
        frames=frames,
        num_source_frames=record["num_source_frames"],
        fps=record["fps"],
        duration_s=record["duration_s"],
        start_s=record["start_s"],
        end_s=record["end_s"],
        num_samples=record["num_samples"],
        materialised=bool(record.get("materialised")),  # rows of schema 3 do not say
    )


def media_info_feature() -> List:
    """The feature of the `media_info` column: a list of `MediaRecord`."""
    return List(
        {
            "modality": Value("string"),
            "item": Value("int32"),
            "width": Value("int32"),
            "height": Value("int32"),
            "frame_indices": List(Value("int32")),
            "timestamps_s": List(Value("float64")),
            "num_source_frames": Value("int32"),
            "fps": Value("float64"),
            "duration_s": Value("float64"),
            "start_s": Value("float64"),
            "end_s": Value("float64"),
            "num_samples": Value("int64"),
            "start": Value("int32"),
            "end": Value("int32"),
            "num_tokens": Value("int32"),
            "max_pixels": Value("int64"),
            "materialised": Value("bool"),
        }
    )


def fit_feature() -> dict[str, Value]:
    """The feature of the `fit` column: a `FitRecord`."""
    return {
        "outcome": Value("string"),
        "reason": Value("string"),
        "original_length": Value("int32"),
        "turns_dropped": Value("int32"),
        "image_max_pixels": Value("int64"),
        "video_max_pixels": Value("int64"),
        "video_max_frames": Value("int32"),
    }


def media_columns(modalities: Iterable[Modality]) -> dict[str, List]:
    """The columns of media references: undecoded, a path or the file's bytes each.

    `video_frames` has a list for each video: its frames where the video is given as such, and is null in `videos`;
    else none.
    """
    columns: dict[Modality, dict[str, List]] = {
        "image": {IMAGES: List(Image(decode=False))},
        "video": {VIDEOS: List(Video(decode=False)), VIDEO_FRAMES: List(List(Image(decode=False)))},
        "audio": {AUDIOS: List(Audio(decode=False))},
    }
    return {name: feature for modality in modalities for name, feature in columns[modality].items()}


def token_features() -> dict[str, List | Value]:
    """The columns of token ids of a row for supervised fine-tuning."""
    return {INPUT_IDS: List(Value("int32")), LABELS: List(Value("int32"))}


def preference_token_features(*, paired: bool) -> dict[str, List | Value]:
    """The columns of token ids of a row of preference data.

    Args:
        paired: Whether a row has two answers to a prompt; else it has one, and `label` says whether it is good.

    Returns:
        Of each answer the ids with the prompt's before them, and labels, -100 outside of the answer.
    """
    if not paired:
        return {**token_features(), LABEL: Value("bool")}
    return {name: List(Value("int32")) for name in (CHOSEN_IDS, CHOSEN_LABELS, REJECTED_IDS, REJECTED_LABELS)}


def tokenised_features(
    modalities: Iterable[Modality],
    source: Features | None = None,
    replaced: Iterable[str] = (),
    tokens: Mapping[str, List | Value] | None = None,
    *,
    fitted: bool = False,
    made_by: ClassLabel | None = None,
) -> Features:
    """Features of the rows that a plugin's transform returns.

    Args:
        modalities: What the model takes.
        source: Features of the dataset that is mapped. Its columns pass through, except the `replaced` ones.
        replaced: Columns of `source` that the transform consumes.
        tokens: The columns of token ids; those of `token_features` when `None`.
        fitted: Whether a column says what became of each row that was to fit into a length.
        made_by: The type of the column that says what made the rows; none when `None`.

    Returns:
        The features, the transform's own columns last.
    """
    own = {
        **(token_features() if tokens is None else tokens),
        LENGTH: Value("int32"),
        MEDIA_INFO: media_info_feature(),
        **({FIT: fit_feature()} if fitted else {}),
        **media_columns(modalities),
        **({} if made_by is None else {MADE_BY: made_by}),
    }
    gone = set(replaced) | set(own)
    kept = {name: feature for name, feature in (source or {}).items() if name not in gone}
    return Features({**kept, **own})
