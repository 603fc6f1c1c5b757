"""What a preview says of rows and batches: plain values, of which the page, the text and the JSON are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

from mmdatasets.types import Modality

Kind: TypeAlias = Literal["text", "media", "padding"]


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of a token, or of several that only together are text.

    Attributes:
        text: The text.
        token_ids: The tokens.
        is_control: Whether it is an added token of the tokenizer, as control tokens are.
    """

    text: str
    token_ids: tuple[int, ...]
    is_control: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens of one kind.

    Attributes:
        kind: What they are.
        start: The first one.
        end: One past the last one.
        is_trained: Whether they have labels.
        is_content: Whether they are what somebody says, and not what the template writes around it.
        pieces: Of text, in order; fewer than there are where `omitted` is not 0.
        omitted: How many tokens of the middle `pieces` lacks.
        omitted_after: How many pieces stand before these.
        media: Of a media run, which of the row's media it is, where that is known.
        label: Of a media run, what it is in words: `"image: 1,234 tokens, 37x42 grid"`.
    """

    kind: Kind
    start: int
    end: int
    is_trained: bool
    is_content: bool = True
    pieces: tuple[Piece, ...] = ()
    omitted: int = 0
    omitted_after: int = 0
    media: int | None = None
    label: str = ""

    @property
    def num_tokens(self) -> int:
        """How many tokens they are."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says, with what the template writes around it.

    Attributes:
        role: Who speaks; `None` where that cannot be told.
        runs: The tokens.
    """

    role: str | None
    runs: tuple[Run, ...]

    @property
    def start(self) -> int:
        """The first token."""
        return self.runs[0].start

    @property
    def end(self) -> int:
        """One past the last token."""
        return self.runs[-1].end

    @property
    def is_trained(self) -> bool:
        """Whether any of it is trained."""
        return any(run.is_trained for run in self.runs)


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A sequence of tokens.

    Attributes:
        name: What it is: `"row 0"`, `"chosen"`.
        turns: Its turns, in order.
        num_tokens: Tokens, padding not counted.
        num_trained: Tokens with labels; `None` where there are no labels.
        num_media: Tokens that stand for features of media.
        num_padding: Tokens of padding.
        omitted_turns: How many turns of the middle are not shown.
        omitted_after: How many turns stand before these.
    """

    name: str
    turns: tuple[Turn, ...]
    num_tokens: int
    num_trained: int | None
    num_media: int
    num_padding: int = 0
    omitted_turns: int = 0
    omitted_after: int = 0

    @property
    def shown_turns(self) -> Iterator[Turn | int]:
        """The turns that are shown, and in the place of those that are not, how many these are."""
        for number, turn in enumerate(self.turns):
            if self.omitted_turns and number == self.omitted_after:
                yield self.omitted_turns
            if not self.omitted_after <= number < self.omitted_after + self.omitted_turns:
                yield turn

    @property
    def runs(self) -> Iterator[Run]:
        """All runs, in order."""
        return chain.from_iterable(turn.runs for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image that the model sees as a picture of its own.

    Attributes:
        left: Where it begins, as a share of the image's width.
        top: Likewise of the height.
        right: Where it ends.
        bottom: Where it ends.
        width: Pixels of the picture.
        height: Pixels.
    """

    left: float
    top: float
    right: float
    bottom: float
    width: int
    height: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the image."""
        near = 0.02
        return self.left < near and self.top < near and self.right > 1 - near and self.bottom > 1 - near


@dataclass(frozen=True, slots=True)
class Layout:
    """What the processor makes of a picture's area. What is not known is `None`.

    Attributes:
        width: Pixels to which the whole picture is resized.
        height: Pixels.
        rows: Rows of the grid of media tokens.
        columns: Columns of the grid.
        steps: How many such grids follow one another: those of a video.
        tiles: The parts that the model sees; the whole picture among them, where it sees that, too.
        num_pictures: How many pictures the model sees, also where it is not known which parts these are.
    """

    width: int | None = None
    height: int | None = None
    rows: int | None = None
    columns: int | None = None
    steps: int = 1
    tiles: tuple[Tile, ...] = ()
    num_pictures: int | None = None

    @property
    def parts(self) -> tuple[Tile, ...]:
        """The tiles that are not the whole picture."""
        return tuple(tile for tile in self.tiles if not tile.is_whole)

    @property
    def grid(self) -> str | None:
        """The grid in words: `"37x42 grid"`, rows first."""
        if self.rows is None:
            return None
        return f"{f'{self.steps}x' if self.steps > 1 else ''}{self.rows}x{self.columns} grid"

    @property
    def summary(self) -> str | None:
        """The grid, or the tiles, in words."""
        if self.grid is not None:
            return self.grid
        count = self.num_pictures or len(self.tiles)
        if count < 2:
            return None
        whole = len(self.tiles) - len(self.parts)
        return f"{len(self.parts)} tiles and the whole" if whole == 1 and self.parts else f"{count} tiles"


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a video that is shown.

    Attributes:
        index: Which of the video's frames it is.
        timestamp_s: Seconds at which it is shown; `None` where nothing tells.
        picture: A `data:` URI.
    """

    index: int
    timestamp_s: float | None
    picture: str


@dataclass(frozen=True, slots=True)
class Wave:
    """Audio as it looks.

    Attributes:
        path: Its envelope as an SVG path, x from 0 to `width`, y from -1 to 1.
        width: Steps of the envelope.
        duration_s: Seconds.
        start_s: Seconds from the beginning of the file.
        sampling_rate: Samples per second, as the model takes it.
    """

    path: str
    width: int
    duration_s: float
    start_s: float
    sampling_rate: int


@dataclass(frozen=True, slots=True)
class Media:
    """A media item of a row.

    Attributes:
        modality: What it is.
        number: Which of its modality it is, from 1; chunks of one audio have numbers of their own.
        source: Where it is from, in few words.
        num_tokens: Media tokens.
        width: Pixels of the original.
        height: Pixels.
        layout: What the processor makes of it.
        picture: An image, as a `data:` URI.
        frames: Frames of a video that are shown.
        num_frames: How many frames the model sees.
        num_source_frames: How many there were to choose from.
        fps: Frames per second of the source.
        duration_s: Seconds of the video or audio.
        wave: Of audio, and of a video's sound.
        error: Why it cannot be shown.
    """

    modality: Modality
    number: int
    source: str
    num_tokens: int
    width: int | None = None
    height: int | None = None
    layout: Layout = Layout()
    picture: str | None = None
    frames: tuple[Frame, ...] = ()
    num_frames: int | None = None
    num_source_frames: int | None = None
    fps: float | None = None
    duration_s: float | None = None
    wave: Wave | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """What its tokens collapse to."""
        tokens = "1 token" if self.num_tokens == 1 else f"{self.num_tokens:,} tokens"
        return ", ".join(filter(None, (f"{self.modality}: {tokens}", self.layout.summary)))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a batch.

    Attributes:
        name: Under which the model takes it.
        shape: Its shape; of nested lists that of each tensor in them, with how many there are.
        dtype: Its type.
        num_bytes: Its size.
    """

    name: str
    shape: str
    dtype: str
    num_bytes: int

    @property
    def mebibytes(self) -> str:
        """Its size in MiB."""
        size = self.num_bytes / 2**20
        return f"{size:,.1f}" if size >= 10 else f"{size:.3f}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        name: What it is called.
        sequences: Its sequences: one; or the two answers of a preference; or those that are packed in it.
        media: Its media, in the order of the text.
        remarks: What else is to be said, as (name, value).
    """

    name: str
    sequences: tuple[TokenSequence, ...]
    media: tuple[Media, ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a preview shows.

    Attributes:
        title: What is previewed.
        family: The plugin's name.
        processor: Name of the processor's class.
        rows: The rows.
        tensors: Of a collated batch, its tensors.
        padding: Of a collated batch, the share of its tokens that is padding.
        has_labels: Whether anything says what is trained.
        omitted_rows: How many further rows there are.
    """

    title: str
    family: str
    processor: str
    rows: tuple[Row, ...]
    tensors: tuple[Tensor, ...] = ()
    padding: float | None = None
    has_labels: bool = True
    omitted_rows: int = 0

    def to_json(self) -> dict[str, object]:
        """The facts as JSON has them, without pictures and waveforms."""
        from mmdatasets.preview.as_json import facts_to_json

        return facts_to_json(self)
