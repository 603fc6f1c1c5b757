"""The three stages with videos and audio: ids and tensors are those of the processor's own call."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.video_utils import VideoMetadata

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import CollateError, MMDatasetsError, PlaceholderError
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from tests.media_oracle import assert_same, full_decode, own_call, wav_samples

RATE = 16_000
FAMILIES = {
    "qwen2_vl": ("image", "video"),
    "internvl": ("image", "video"),
    "gemma4": ("image", "video", "audio"),
    "qwen2_5_omni": ("image", "video", "audio"),
}
ROWS = [["video", "image", "audio"], ["image"], ["audio", "video"]]


@pytest.fixture(scope="module")
def media(tmp_path_factory, image_file) -> dict[str, list[Path]]:
    """Items of each modality, those of one modality different from one another."""
    folder = tmp_path_factory.mktemp("stages")
    specs = [VideoSpec(num_frames=count, rate=Fraction(8)) for count in (4, 6, 8)]
    return {
        "video": [write_video(folder / f"{index}.mp4", spec) for index, spec in enumerate(specs)],
        "audio": [write_audio(folder / f"{index}.wav", RATE, 0.8 + index, seed=index) for index in range(2)],
        "image": [image_file(60, 60), image_file(90, 60)],
    }


def rows_for(name: str) -> list[list[str]]:
    return [[kind for kind in row if kind in FAMILIES[name]] for row in ROWS]


def parts_of(kinds: list[str]) -> list[dict[str, object]]:
    content = [part for kind in kinds for part in ({"type": kind}, {"type": "text", "text": "and"})]
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    ]


def pixels_of(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(PIL.Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)


def video_of(path: Path) -> tuple[torch.Tensor, VideoMetadata]:
    frames = full_decode(path)
    count = len(frames)
    return frames, VideoMetadata(
        total_num_frames=count, fps=8.0, duration=count / 8.0, width=112, height=64, frames_indices=list(range(count))
    )


def distributed(media, rows) -> list[dict[str, list[Path]]]:
    supply = {kind: iter(items) for kind, items in media.items()}
    result = []
    for row in rows:
        own: dict[str, list[Path]] = {"image": [], "video": [], "audio": []}
        for kind in row:
            own[kind].append(next(supply[kind]))
        result.append(own)
    return result


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stages_give_what_the_processor_gives(name: str, media) -> None:
    processor = build_processor(name)
    tokenizer, template = processor.tokenizer, processor.apply_chat_template
    rows = rows_for(name)
    items = distributed(media, rows)
    plugin = auto_plugin(processor, options=MediaOptions(video_sampling="all"))
    batch_ids = []
    for row, own in zip(rows, items, strict=True):
        strings = [
            {"role": "user", "content": "".join(f"<{kind}>and" for kind in row)},
            {"role": "assistant", "content": "Yes."},
        ]
        given = (own["image"], own["video"], own["audio"])
        messages = plugin.process_messages(strings, *given, processor)
        text = template([{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, _ = plugin.process_token_ids(ids, None, *given, tokenizer, processor)
        batch_ids.append(ids)
        audio = [wav_samples(path) for path in own["audio"]]
        expected = own_call(
            processor,
            [template(parts_of(row))],
            images=[[pixels_of(path) for path in own["image"]]],
            videos=[video_of(path) for path in own["video"]],
            audio=audio,
            **({"audio_kwargs": {"sampling_rate": RATE}} if audio else {}),
        )
        assert ids == expected.pop("input_ids")[0].tolist()
        del expected["attention_mask"]
        counts = [[len(some)] for some in given]
        made = plugin.get_mm_inputs(*given, *counts, [ids], processor)
        assert_same({key: torch.as_tensor(value) for key, value in made.items()}, expected)
    flat = [[path for own in items for path in own[kind]] for kind in ("image", "video", "audio")]
    counts = [[len(own[kind]) for own in items] for kind in ("image", "video", "audio")]
    together = plugin.get_mm_inputs(*flat, *counts, batch_ids, processor)
    collated = plugin.collator()(mapped_rows(plugin, rows, items))
    for key in together.keys() - {"mm_token_type_ids", "token_type_ids"}:
        assert torch.equal(torch.as_tensor(together[key]), torch.as_tensor(collated[key])), key


def mapped_rows(plugin, rows, items) -> list[dict[str, object]]:
    columns = {"messages": [parts_of(row) for row in rows]}
    columns |= {f"{kind}s": [list(map(str, own[kind])) for own in items] for kind in ("image", "video", "audio")}
    columns = {name: values for name, values in columns.items() if any(values)}
    made = plugin.transform(columns)
    return [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]


def test_internvls_tensor_is_in_the_order_of_the_ids(media) -> None:
    processor = build_processor("internvl")
    plugin = auto_plugin(processor, options=MediaOptions(video_sampling="all"))
    image, video = media["image"][0], media["video"][0]
    made = {}
    for order in ("<image><video>", "<video><image>"):
        chat = [{"role": "user", "content": order}]
        text = plugin.process_messages(chat, [image], [video], [], processor)[0]["content"]
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        made[order] = plugin.get_mm_inputs([image], [video], [], [1], [1], [0], [ids], processor)["pixel_values"]
    tiles, frames = made["<image><video>"].split([1, 4])
    assert torch.equal(made["<video><image>"], torch.cat([frames, tiles]))


def test_counts_must_add_up(media) -> None:
    plugin = auto_plugin(build_processor("qwen2_5_omni"))
    with pytest.raises(CollateError, match=r"vidlens counts 1 video\(s\) in 1 row\(s\), got 2"):
        plugin.get_mm_inputs([], media["video"][:2], [], [0], [1], [0], [], None)
    with pytest.raises(CollateError, match=r"audlens counts 0 audio\(s\) in 1 row\(s\), got 1"):
        plugin.get_mm_inputs([], [], media["audio"][:1], [0], [0], [0], [], None)
    with pytest.raises(PlaceholderError, match="2 video placeholder"):
        plugin.process_messages([{"role": "user", "content": "<video><video>"}], [], media["video"][:1], [], None)


# ------------------------------------------------------------------------------------- attributes on the processor

CHAT = [{"role": "user", "content": "<video>What?"}]
ATTRIBUTES = [
    ({"video_fps": 2.0, "video_maxlen": 2}, {"video_fps": 2.0, "video_max_frames": 2}),
    ({"video_maxlen": 2}, {"video_max_frames": 2}),
    ({"video_max_pixels": 32 * 32}, {"video_max_pixels": 32 * 32}),
    ({"audio_sampling_rate": RATE}, {"audio_sampling_rate": RATE}),
    ({"use_audio_in_video": True}, {"use_audio_in_video": True}),
]


@pytest.mark.parametrize(("attributes", "options"), ATTRIBUTES)
def test_the_stages_alone_honour_attributes_of_the_processor(attributes, options, tmp_path) -> None:
    spec = VideoSpec(num_frames=16, rate=Fraction(8), format="matroska", audio_codec="pcm_s16le")
    video = write_video(tmp_path / "a.mkv", spec)
    plain, marked = build_processor("qwen2_5_omni"), build_processor("qwen2_5_omni")
    for name, value in attributes.items():
        setattr(marked, name, value)
    untouched = auto_plugin(plain)
    expected = auto_plugin(plain, options=MediaOptions(**options)).process_messages(CHAT, [], [video], [], None)
    own = untouched.process_messages(CHAT, [], [video], [], None)
    assert (expected == own) == ("audio_sampling_rate" in attributes)
    assert auto_plugin(marked).process_messages(CHAT, [], [video], [], marked) == expected
    rows = {"messages": [CHAT], "videos": [[str(video)]]}
    assert auto_plugin(marked).transform(rows)["input_ids"] == untouched.transform(rows)["input_ids"]


def test_another_sampling_rate_than_the_models_is_refused(media) -> None:
    message = "audio_sampling_rate=8000, but Qwen2_5OmniProcessor takes audio at 16000 Hz"
    plugin = auto_plugin(build_processor("qwen2_5_omni"), options=MediaOptions(audio_sampling_rate=8000))
    with pytest.raises(MMDatasetsError, match=message):
        plugin.transform({"messages": [[{"role": "user", "content": "x"}]]})
    processor = build_processor("qwen2_5_omni")
    processor.audio_sampling_rate = 8000
    with pytest.raises(MMDatasetsError, match=message):
        auto_plugin(processor).process_messages(CHAT, [], media["video"][:1], [], processor)
    auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(audio_sampling_rate=8000)).transform(
        {"messages": [[{"role": "user", "content": "x"}]]}
    )  # takes no audio
