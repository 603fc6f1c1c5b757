"""Videos together with their sound: ids and tensors are those of the processor's own call."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import soxr
import torch

from mmdatasets import MediaOptions, auto_plugin, get_mm_plugin
from mmdatasets.errors import MediaLimitError
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms import media as media_module
from tests.media_oracle import assert_same, full_decode, metadata_of, own_call, wav_samples

FAMILIES = ["qwen2_5_omni", "qwen3_omni_moe"]
RATE = 16_000
SOUND_RATE = 48_000


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Two videos with sound, one without, and a recording."""
    folder = tmp_path_factory.mktemp("sound")
    rate = Fraction(8)
    loud = VideoSpec(num_frames=24, rate=rate, format="matroska", audio_codec="pcm_s16le")
    short = VideoSpec(num_frames=9, rate=rate, width=96, format="matroska", audio_codec="pcm_s16le")
    return {
        "loud": write_video(folder / "loud.mkv", loud),
        "short": write_video(folder / "short.mkv", short),
        "silent": write_video(folder / "silent.mp4", VideoSpec(num_frames=8, rate=rate)),
        "speech": write_audio(folder / "speech.wav", RATE, 1.2),
    }


def sound_of(path: Path, start_s: float = 0.0, end_s: float | None = None) -> np.ndarray:
    """The whole sound track, cut, at 16 kHz."""
    with av.open(str(path)) as container:
        blocks = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    samples = np.concatenate(blocks).astype(np.float32) / 2**15
    end = None if end_s is None else round(end_s * SOUND_RATE)
    samples = samples[round(start_s * SOUND_RATE) : end]
    length = -(-len(samples) * RATE // SOUND_RATE)
    made = soxr.resample(samples, SOUND_RATE, RATE, quality="soxr_hq")
    return np.pad(made, (0, max(0, length - len(made))))[:length]


def chat(kinds: list[str]) -> list[dict[str, object]]:
    parts = [part for kind in kinds for part in ({"type": kind}, {"type": "text", "text": "and"})]
    return [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    ]


def rows_of(columns) -> list[dict[str, object]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def expected_batch(plugin, rows, layouts, files, picture: Path):
    """The processor's call on the rows' media; a layout names what stands where."""
    images, videos, audio, sources = [], [], [], []
    for row, layout in zip(rows, layouts, strict=True):
        images.append([])
        for name, record in zip(layout, row["media_info"], strict=True):
            if name == "picture":
                pixels = np.asarray(PIL.Image.open(picture).convert("RGB"))
                images[-1].append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            elif name == "speech":
                audio.append(wav_samples(files[name]))
                sources.append(None)
            else:
                if name != "silent":
                    audio.append(sound_of(files[name], record["start_s"] or 0.0, record["end_s"]))
                    sources.append(len(videos))
                frames = full_decode(files[name])[list(record["frame_indices"])]
                videos.append((frames, metadata_of(record)))
    kinds = [[record["modality"] for record in row["media_info"]] for row in rows]
    texts = [plugin.processor.apply_chat_template(chat(own)) for own in kinds]
    fps = plugin.options.video_fps
    given = {"audio_kwargs": {"sampling_rate": RATE}} if audio else {}
    return own_call(
        plugin.processor, texts, images=images if any(images) else (), videos=videos, audio=audio,
        audio_from_video_indices=sources, load_audio_from_video=True,
        videos_kwargs={} if fps is None else {"fps": fps}, **given,
    )  # fmt: skip


LAYOUTS = [
    [["loud"]],
    [["silent"]],
    [["speech", "loud"], ["short"]],
    [["loud", "speech", "silent", "picture", "short"], ["speech"], ["silent", "picture"]],
]


@pytest.mark.parametrize("layouts", LAYOUTS, ids=lambda layouts: " / ".join("+".join(one) for one in layouts))
@pytest.mark.parametrize("fps", [None, 4.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_the_processors_own(name: str, fps: float | None, layouts, files, image_file) -> None:
    options = MediaOptions(use_audio_in_video=True, video_fps=fps)
    plugin = auto_plugin(build_processor(name), options=options)
    picture = image_file(90, 60)
    modality = {"picture": "image", "speech": "audio"}
    named = {**files, "picture": picture}
    columns = {"messages": [], "images": [], "videos": [], "audios": []}
    for layout in layouts:
        kinds = [modality.get(one, "video") for one in layout]
        columns["messages"].append(chat(kinds))
        for kind in ("image", "video", "audio"):
            own = [str(named[one]) for one, its in zip(layout, kinds, strict=True) if its == kind]
            columns[f"{kind}s"].append(own)
    rows = rows_of(plugin.transform(columns))
    for row, layout in zip(rows, layouts, strict=True):
        heard = [record["num_samples"] is not None for record in row["media_info"]]
        assert heard == [one in ("loud", "short", "speech") for one in layout]
    assert_same(plugin.collator(padding_side="right")(rows), expected_batch(plugin, rows, layouts, files, picture))


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_videos_have_their_part_of_the_sound(name: str, files) -> None:
    plugin = auto_plugin(build_processor(name), options=MediaOptions(use_audio_in_video=True))
    video = {"path": str(files["loud"]), "start": 1.0, "end": 2.5}
    rows = rows_of(plugin.transform({"messages": [chat(["video"])], "videos": [[video]]}))
    record = rows[0]["media_info"][0]
    assert record["frame_indices"] == list(range(8, 20))
    assert (record["start_s"], record["end_s"], record["num_samples"]) == (1.0, 2.5, 24_000)
    assert_same(plugin.collator(padding_side="right")(rows), expected_batch(plugin, rows, [["loud"]], files, Path()))


@pytest.fixture(scope="module", params=[1.25, -0.5], ids=["late", "early"])
def shifted(request, tmp_path_factory) -> tuple[Path, float]:
    """A video with its sound so many seconds later than its first frame."""
    late_s: float = request.param
    folder = tmp_path_factory.mktemp("shifted")
    spec = VideoSpec(num_frames=24, rate=Fraction(8), format="matroska", b_frames=0, audio_codec="pcm_s16le")
    path = folder / "shifted.mkv"
    with av.open(str(write_video(folder / "loud.mkv", spec))) as source, av.open(str(path), "w") as target:
        tracks = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.size]
        for packet in packets:
            seconds = max(late_s, 0.0) if packet.stream.type == "audio" else max(-late_s, 0.0)
            packet.pts += round(seconds / packet.time_base)
            packet.dts += round(seconds / packet.time_base)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            packet.stream = tracks[packet.stream.index]
            target.mux(packet)
    return path, late_s


class OwnInputs(get_mm_plugin("qwen2_omni").__class__):
    """Makes the collator hand over references instead of plans."""

    def get_mm_inputs(self, *given):
        return super().get_mm_inputs(*given)


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_videos_have_the_sound_that_is_heard_with_them(name: str, shifted) -> None:
    path, late_s = shifted
    options = MediaOptions(use_audio_in_video=True)
    plugin = auto_plugin(build_processor(name), options=options)
    video = {"path": str(path), "start": 1.5, "end": 2.5}
    columns = {"messages": [chat(["video"])], "videos": [[video]]}
    rows = rows_of(plugin.transform(columns))
    record = rows[0]["media_info"][0]
    assert record["frame_indices"] == list(range(12, 20))
    assert (record["start_s"], record["end_s"]) == pytest.approx((1.5 - late_s, 2.5 - late_s), abs=2e-3)
    assert record["num_samples"] == pytest.approx(RATE, abs=32)
    batch = plugin.collator(padding_side="right")(rows)
    assert_same(batch, expected_batch(plugin, rows, [["loud"]], {"loud": path}, Path()))
    own = OwnInputs(processor=plugin.processor, options=options).collator(padding_side="right")(rows)
    assert set(own) == set(batch)
    assert_same(own, {name: value for name, value in batch.items() if name not in ("labels", "use_audio_in_video")})


def test_whole_videos_have_their_whole_sound_whenever_it_begins(shifted) -> None:
    path, _ = shifted
    plugin = auto_plugin(build_processor(FAMILIES[0]), options=MediaOptions(use_audio_in_video=True))
    rows = rows_of(plugin.transform({"messages": [chat(["video"])], "videos": [[str(path)]]}))
    record = rows[0]["media_info"][0]
    assert (record["start_s"], record["end_s"], record["num_samples"]) == (0.0, None, len(sound_of(path)))
    assert_same(
        plugin.collator(padding_side="right")(rows),
        expected_batch(plugin, rows, [["loud"]], {"loud": path}, Path()),
    )


def test_a_part_before_the_sound_begins_has_none(shifted) -> None:
    path, late_s = shifted
    plugin = auto_plugin(build_processor(FAMILIES[0]), options=MediaOptions(use_audio_in_video=True))
    video = {"path": str(path), "start": 0.25, "end": 1.25}
    rows = rows_of(plugin.transform({"messages": [chat(["video"])], "videos": [[video]]}))
    assert (rows[0]["media_info"][0]["num_samples"] is None) == (late_s > 0)


def test_a_sound_track_is_decoded_once(files, monkeypatch) -> None:
    plugin = auto_plugin(build_processor(FAMILIES[0]), options=MediaOptions(use_audio_in_video=True))
    columns = {"messages": [chat(["video", "video"])], "videos": [[str(files["loud"]), str(files["short"])]]}
    decoded = []
    real = media_module.decode_audio
    monkeypatch.setattr(media_module, "decode_audio", lambda *a, **k: decoded.append(a[0]) or real(*a, **k))
    rows = rows_of(plugin.transform(columns))
    assert not decoded
    plugin.collator()(rows)
    assert len(decoded) == 2


def test_long_sound_is_refused_or_truncated(files) -> None:
    columns = {"messages": [chat(["video"])], "videos": [[str(files["loud"])]]}
    options = MediaOptions(use_audio_in_video=True, audio_max_duration_s=2.0)
    with pytest.raises(
        MediaLimitError, match=r"column 'videos', index 0 .*3.00 s of audio, but 2.00 s .*use_audio_in"
    ):
        auto_plugin(build_processor(FAMILIES[0]), options=options).transform(columns)
    options = MediaOptions(use_audio_in_video=True, audio_max_duration_s=2.0, long_audio="truncate")
    plugin = auto_plugin(build_processor(FAMILIES[0]), options=options)
    rows = rows_of(plugin.transform(columns))
    assert rows[0]["media_info"][0]["num_samples"] == 2 * RATE
    assert_same(plugin.collator(padding_side="right")(rows), expected_batch(plugin, rows, [["loud"]], files, Path()))
