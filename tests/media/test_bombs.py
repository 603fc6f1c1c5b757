"""Small files that claim, or unfold to, what no memory holds: refused before that, by a process that stays small."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import textwrap
import wave
import zlib

import numpy as np
import PIL.Image
import pytest

from mmdatasets.errors import MediaDecodeError, MediaError, MediaLimitError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_plan import planned_num_samples
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import encode_audio, make_audio
from mmdatasets.testing.media import encode_image
from mmdatasets.testing.video import VideoSpec, encode_video
from mmdatasets.types import AudioInfo, FramePlan

OPTIONS = MediaOptions()
HUGE = 30_000_000  # samples of which FFmpeg would keep some 70 bytes each


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress(bytes(1 + 3 * min(width, 100)) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def images() -> dict[str, bytes]:
    gif = bytearray(encode_image(8, 8, format="GIF"))
    struct.pack_into("<HH", gif, 6, 65_535, 65_535)
    bmp = bytearray(encode_image(8, 8, format="BMP"))
    struct.pack_into("<ii", bmp, 18, 1 << 20, 1 << 20)
    vp8x = struct.pack("<I", 0) + (16_777_215).to_bytes(3, "little") * 2
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + vp8x
    return {
        "png": png(1 << 30, 1 << 30),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "webp": b"RIFF" + struct.pack("<I", len(webp)) + webp,
    }


@pytest.mark.parametrize("name", images())
def test_images_of_too_many_pixels_are_refused_by_their_header(name):
    for function in (probe_image, decode_image):
        with pytest.raises(MediaLimitError, match="image_pixel_limit"):
            function(images()[name], OPTIONS)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_that_unfolds_is_refused_or_left_out(kind):
    bomb = zlib.compress(bytes(70_000_000), 1)
    content = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind] + bomb
    try:
        assert decode_image(png(4, 4, chunk(kind, content)), OPTIONS).shape == (3, 4, 4)
    except MediaDecodeError:
        return


def test_drawings_are_no_images():
    for svg in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<?xml version='1.0'?><svg/>"):
        with pytest.raises(MediaDecodeError):
            probe_image(svg, OPTIONS)


def patched(data: bytes, box: bytes, layout: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, data.index(box) + 4, *values)
    return bytes(changed)


def videos() -> dict[str, bytes]:
    whole = encode_video(VideoSpec(num_frames=4, format="mp4"))
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    fragmented = encode_video(VideoSpec(num_frames=4, format="mp4", container_options=fragments))
    sizes = patched(whole, b"stsz", ">III", 0, 1, HUGE)
    return {
        "sizes": sizes,
        "sizes, times and chunks": patched(
            patched(sizes, b"stts", ">IIII", 0, 1, HUGE, 1), b"stsc", ">IIIII", 0, 1, 1, HUGE, 1
        ),
        "a fragment": patched(fragmented, b"trun", ">II", 1, HUGE),
    }


@pytest.mark.parametrize("name", videos())
def test_indices_that_claim_too_much_are_refused_before_ffmpeg_believes_them(name):
    data = videos()[name]
    for function in (probe_video, lambda data, options: decode_frames(data, FramePlan((0,)), options), probe_audio):
        with pytest.raises(MediaLimitError, match="30,000,000"):
            function(data, OPTIONS)


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts", "avi"])
def test_more_frames_than_allowed_are_not_read(format):
    data = encode_video(VideoSpec(num_frames=40, format=format))
    assert probe_video(data, MediaOptions(video_frame_limit=40)).num_frames == 40
    for function in (probe_video, lambda data, options: decode_frames(data, FramePlan((0,)), options)):
        with pytest.raises(MediaLimitError, match="video_frame_limit = 39"):
            function(data, MediaOptions(video_frame_limit=39))


def test_lists_of_frames_count_too():
    frames = [encode_image(8, 8)] * 5
    with pytest.raises(MediaLimitError, match="video_frame_limit = 4"):
        probe_video(frames, MediaOptions(video_frame_limit=4))
    with pytest.raises(MediaLimitError, match="video_pixel_limit"):
        decode_frames(frames, FramePlan((0, 1, 2)), MediaOptions(video_pixel_limit=128))


def test_many_frames_that_are_large_together_are_refused():
    data = encode_video(VideoSpec(num_frames=10))
    options = MediaOptions(video_pixel_limit=3 * 112 * 64)
    assert decode_frames(data, FramePlan((0, 1, 2)), options).shape[0] == 3
    with pytest.raises(MediaLimitError, match="4 frames of 112x64"):
        decode_frames(data, FramePlan((0, 1, 2, 2)), options)


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3", "m4a", "mka"])
@pytest.mark.parametrize("backend", ["soundfile", "pyav"])
def test_more_samples_than_allowed_are_not_decoded(format, backend):
    data = encode_audio(make_audio(48_000, 48_000), 48_000, format)
    options = MediaOptions(audio_backend=backend, audio_sample_limit=40_000)
    for function in (probe_audio, lambda data, options: decode_audio(data, options, 48_000)):
        with pytest.raises(MediaLimitError, match="audio_sample_limit = 40,000"):
            function(data, options)


def test_headers_that_claim_samples_without_end():
    flac = bytearray(encode_audio(make_audio(16_000, 8_000), 16_000, "flac"))
    at = 4 + 4 + 13  # the 36 bits of RFC 9639, section 8.2
    flac[at] |= 0x0F
    flac[at + 1 : at + 5] = b"\xff" * 4
    au = b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFF0, 3, 16_000, 1) + bytes(100)
    for data in (bytes(flac), au):
        with pytest.raises(MediaError):
            probe_audio(data, OPTIONS)
        with pytest.raises(MediaError):
            decode_audio(data, OPTIONS, 16_000)


def test_a_rate_that_would_make_much_of_little_is_refused():
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(200)
        writer.writeframes(bytes(3_000_000))
    with pytest.raises(MediaLimitError, match="audio_sample_limit"):
        decode_audio(file.getvalue(), OPTIONS, 48_000)
    with pytest.raises(MediaLimitError, match="audio_sample_limit"):
        planned_num_samples(AudioInfo(200, 1, 3_000_000), OPTIONS, 48_000)


def test_channels_do_not_multiply_what_is_held():
    samples = np.zeros((2_000, 500), dtype=np.float32)
    samples[:, 0] = 1
    file = io.BytesIO()
    import soundfile

    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(decode_audio(file.getvalue(), OPTIONS, 16_000), 1 / 500, rtol=1e-6)


PEAK = """
import json, pathlib, re, sys
from mmdatasets.errors import MediaError
from mmdatasets.media.audio import decode_audio
from mmdatasets.media.image import decode_image
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
status = pathlib.Path("/proc/self/status")
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1]) // 1024
folder, rises = pathlib.Path(sys.argv[1]), {}
for name, call in (("warm.mp4", probe_video), ("warm.png", decode_image)):
    call(folder / name, MediaOptions())
for path in sorted(folder.glob("bomb*")):
    before = peak()
    try:
        call = decode_image if "image" in path.name else probe_video
        call(path, MediaOptions())
    except MediaError:
        pass
    rises[path.name] = peak() - before
print(json.dumps(rises))
"""


@pytest.mark.slow
def test_a_process_that_reads_them_stays_small(tmp_path):
    (tmp_path / "warm.mp4").write_bytes(encode_video(VideoSpec(num_frames=4)))
    (tmp_path / "warm.png").write_bytes(encode_image(32, 32, format="PNG"))
    for name, data in images().items():
        (tmp_path / f"bomb image {name}").write_bytes(data)
    (tmp_path / "bomb image text").write_bytes(png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))))
    for name, data in videos().items():
        (tmp_path / f"bomb video {name}").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path)], capture_output=True, text=True, check=True
    )
    rises = json.loads(done.stdout)
    assert len(rises) == 8
    assert max(rises.values()) < 40, rises  # MB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what decoders allocate on Linux only")
def test_a_decoder_cannot_take_more_memory_than_it_may():
    file = io.BytesIO()
    PIL.Image.new("RGB", (11_000, 11_000)).save(file, "PNG")
    options = MediaOptions(decode_timeout_s=60, decode_memory_limit=2**30, image_backend="pillow")
    with pytest.raises(MediaLimitError, match="decode_memory_limit = 1,073,741,824"):
        decode_image(file.getvalue(), options)
    assert decode_image(encode_image(32, 32), options).shape == (3, 32, 32)


def test_boxes_without_end_come_to_one():
    boxes = struct.pack(">I4s", 8, b"free") * 100_000
    with pytest.raises(MediaLimitError, match="boxes"):
        probe_video(boxes, MediaOptions(video_frame_limit=10_000))
