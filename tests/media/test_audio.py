"""References in every form, arrays and decoder objects, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import pathlib
import threading
import zipfile

import av
import fsspec
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers.audio_utils import load_audio

from mmdatasets.errors import MediaDecodeError, MediaError, MediaNotFoundError, MediaReferenceError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_pyav import _Gatherer
from mmdatasets.media.audio_store import audio_to_stored
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import encode_audio, encode_video_with_audio, make_audio, write_audio
from mmdatasets.types import AudioInfo
from tests.media.audio_cases import GOOD, file_of, reference

SAMPLES = make_audio(44100, 22050, 2)
WAV = encode_audio(SAMPLES, 44100, "wav_float")
MP3 = encode_audio(SAMPLES, 44100, "mp3", xing=False)
EXPECTED = reference(SAMPLES, 44100, 16000)
INFO = AudioInfo(44100, 2, 22050)


def data_uri(data):
    return "data:audio/wav;base64," + base64.b64encode(data).decode()


def every_form(path):
    return {
        "str": str(path),
        "path": path,
        "file url": path.as_uri(),
        "bytes": WAV,
        "bytearray": bytearray(WAV),
        "memoryview": memoryview(WAV),
        "BytesIO": io.BytesIO(WAV),
        "data uri": data_uri(WAV),
        "mapping of bytes": {"path": None, "bytes": WAV},
        "mapping of path": {"path": str(path), "bytes": None},
        "mapping of both": {"path": "not/here.wav", "bytes": WAV},
        "decoded": {"array": SAMPLES, "sampling_rate": 44100, "path": "not/here.wav"},
        "decoded of float64": {"array": SAMPLES.astype(np.float64), "sampling_rate": np.int64(44100)},
        "decoded list": {"array": SAMPLES.tolist(), "sampling_rate": 44100.0},
        "decoded tensor": {"array": torch.from_numpy(SAMPLES).requires_grad_(), "sampling_rate": 44100},
        "decoded of another order": {"array": np.asfortranarray(SAMPLES), "sampling_rate": 44100},
        "undecoded with empty array": {"array": None, "sampling_rate": None, "path": str(path)},
    }


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "sound with space.wav"
    file.write_bytes(WAV)
    return file


@pytest.mark.parametrize("form", every_form(pathlib.Path("/x")))
@pytest.mark.parametrize("backend", ["soundfile", "pyav"])
def test_every_form_gives_the_same(form, backend, path):
    options = MediaOptions(audio_backend=backend)
    given_reference = every_form(path)[form]
    for stored in (given_reference, audio_to_stored(given_reference)):
        assert probe_audio(stored, options) == INFO
        assert np.array_equal(decode_audio(stored, options, 16000), EXPECTED)
        assert np.array_equal(decode_audio(stored, options, 44100), SAMPLES.mean(axis=0))


@pytest.mark.parametrize("name", ["sound.raw", "sound", "sound.mp3", "sound.WAV"])
def test_names_say_nothing_about_the_format(name, tmp_path):
    (tmp_path / name).write_bytes(WAV)
    for reference_ in (tmp_path / name, (tmp_path / name).as_uri(), (tmp_path / name).open("rb")):
        assert probe_audio(reference_, MediaOptions()) == INFO
        assert np.array_equal(decode_audio(reference_, MediaOptions(), 16000), EXPECTED)


def test_urls_of_other_filesystems(path, tmp_path):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "inner/sound.wav")
    with fsspec.open("memory://bucket/sound.raw", "wb") as file:
        file.write(WAV)
    for url in ("memory://bucket/sound.raw", f"zip://inner/sound.wav::{archive}"):
        assert np.array_equal(decode_audio(url, MediaOptions(), 16000), EXPECTED)
        assert probe_audio(url, MediaOptions()) == INFO
    fsspec.filesystem("memory").store.clear()


def test_relative_paths_start_at_the_media_root(path):
    options = MediaOptions(media_root=str(path.parent))
    assert probe_audio(path.name, options) == INFO
    assert np.array_equal(decode_audio({"path": path.name}, options, 16000), EXPECTED)
    with pytest.raises(MediaNotFoundError, match="media_root"):
        probe_audio(path.name, MediaOptions(media_root="/elsewhere"))


@pytest.mark.parametrize("data", [WAV, MP3], ids=["wav", "mp3"])
@pytest.mark.parametrize("backend", ["soundfile", "pyav"])
def test_file_objects_are_given_back_as_they_were(data, backend):
    file = io.BytesIO(data)
    file.seek(11)
    probe_audio(file, MediaOptions(audio_backend=backend))
    decode_audio(file, MediaOptions(audio_backend=backend), 16000)
    assert not file.closed
    assert file.tell() == 11


def test_a_header_is_all_that_a_probe_reads(tmp_path):
    path = write_audio(tmp_path / "long.flac", 16000, 20.0)

    class Counting(io.FileIO):
        bytes_read = 0

        def readinto(self, buffer):
            count = super().readinto(buffer)
            self.bytes_read += count
            return count

    with Counting(path) as file:
        assert probe_audio(file, MediaOptions()).num_samples == 320_000
        assert file.bytes_read < path.stat().st_size / 10


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0, 16384, -32768, 32767], dtype=np.int16), [0, 0.5, -1, 32767 / 32768]),
        (np.array([0, 2**30, -(2**31)], dtype=np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0, 255], dtype=np.uint8), [0, 0.5, -1, 127 / 128]),
        (np.array([0.25, -3.0], dtype=np.float16), [0.25, -3]),
        (torch.tensor([0.25, -1.5], dtype=torch.bfloat16), [0.25, -1.5]),
        ([0.25, -1.5], [0.25, -1.5]),
        (torch.tensor([[16384, 0], [0, 0]], dtype=torch.int16), [0.25, 0]),
        (np.array([[1.0, 0.0], [0.0, 1.0]])[:, ::-1], [0.5, 0.5]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "list")),
)
def test_samples_of_every_type_have_the_same_full_scale(array, expected):
    decoded = decode_audio({"array": array, "sampling_rate": 16000}, MediaOptions(), 16000)
    assert decoded.dtype == np.float32
    assert decoded.tolist() == pytest.approx(expected, abs=0)


@given(
    samples=hnp.arrays(
        dtype=st.sampled_from([np.int16, np.int32, np.uint8, np.float32, np.float64, np.float16]),
        shape=st.tuples(st.integers(1, 6), st.integers(6, 40)),
    ),
    rate=st.integers(1, 200_000),
)
def test_stored_samples_decode_to_the_same(samples, rate):
    """libsndfile reads the types of samples as we do, and storing loses nothing."""
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):
            samples = np.where(np.isfinite(samples.astype(np.float32)), samples, 0).astype(samples.dtype)
    decoded = {"array": samples, "sampling_rate": rate}
    stored = audio_to_stored(decoded)
    assert stored["path"] is None
    assert (
        probe_audio(stored, MediaOptions()) == probe_audio(decoded, MediaOptions()) == AudioInfo(rate, *samples.shape)
    )
    assert np.array_equal(decode_audio(stored, MediaOptions(), rate), decode_audio(decoded, MediaOptions(), rate))


@pytest.mark.parametrize("array", [SAMPLES, SAMPLES[0], torch.from_numpy(SAMPLES), [0.0, 0.5], (0, 1)])
def test_samples_without_a_rate_are_told_how_to_give_it(array):
    for reference_ in (array, {"array": array}, {"array": array, "sampling_rate": None}):
        for use in (audio_to_stored, lambda given: probe_audio(given, MediaOptions())):
            with pytest.raises(
                MediaReferenceError, match=r"need a sampling rate: give \{'array': .*'sampling_rate': 16000\}"
            ):
                use(reference_)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (SAMPLES.T, r"\(22050, 2\) would be more channels than samples; transpose"),
        (np.zeros((1, 2, 3)), r"got \(1, 2, 3\)"),
        (np.float32(1), r"got \(\)"),
        (np.zeros(9, dtype=np.int64), "float, int16, int32 or uint8, got int64"),
        (np.zeros(9, dtype=bool), "got bool"),
        (np.zeros(9, dtype=complex), "got complex128"),
        ("sound.wav", "got"),
        ([[0.0, 1.0], [0.0]], "no array of samples"),
        (torch.zeros(9, device="meta"), "meta device"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(array, problem):
    with pytest.raises(MediaReferenceError, match=problem):
        probe_audio({"array": array, "sampling_rate": 16000}, MediaOptions())


@pytest.mark.parametrize("rate", [0, -16000, 16000.5, "16000", True, float("nan"), float("inf")])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(MediaReferenceError, match="positive whole number, got"):
        probe_audio({"array": SAMPLES, "sampling_rate": rate}, MediaOptions())
    with pytest.raises(ValueError, match="positive whole number, got"):
        decode_audio(WAV, MediaOptions(), rate)


@pytest.mark.parametrize("array", [np.zeros(0), np.zeros((2, 0)), []])
def test_arrays_without_samples_are_errors(array):
    with pytest.raises(MediaDecodeError, match="no samples"):
        probe_audio({"array": array, "sampling_rate": 16000}, MediaOptions())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite_are_errors(bad):
    array = np.zeros((2, 100))
    array[1, 40] = bad
    with pytest.raises(MediaDecodeError, match=r"1 of 100 are NaN or infinite, the first is sample 40") as raised:
        decode_audio({"array": array, "sampling_rate": 44100}, MediaOptions(), 16000)
    assert raised.value.source == "mapping with the keys array, sampling_rate"


@pytest.mark.parametrize(
    "reference_", [None, 5, object(), [], ["a.wav"], {}, {"sampling_rate": 16000}, {"path": None}]
)
def test_what_is_no_reference_is_refused(reference_):
    for use in (audio_to_stored, lambda given: probe_audio(given, MediaOptions())):
        with pytest.raises(MediaReferenceError):
            use(reference_)


LOSSLESS = ["wav_float", "flac", "mkv_pcm"]
MIXED = [(format, channels) for format in LOSSLESS for channels in (1, 2, 3, 6)]
MIXED += [(format, channels) for format in ("ogg", "opus", "m4a", "mka", "weba", "mp4") for channels in (1, 2, 6)]
MIXED += [("mp3", 1), ("mp3", 2)]


@pytest.mark.parametrize(("format", "num_channels"), MIXED)
def test_mixing_down_keeps_the_gain(format, num_channels):
    """The same tone in every channel is as loud in the mix; in one channel alone it is that channel's share."""
    rate, pitch = 48000, 50  # low enough for the bass channel of 5.1, which encoders cut above 120 Hz
    tone = 0.5 * np.sin(2 * np.pi * pitch * np.arange(rate) / rate).astype(np.float32)
    alone = np.zeros((num_channels, rate), dtype=np.float32)
    alone[0] = tone
    for samples, gain in ((np.tile(tone, (num_channels, 1)), 1.0), (alone, 1 / num_channels)):
        track = format == "mp4"
        data = encode_video_with_audio(samples, rate) if track else encode_audio(samples, rate, format)
        middle = decode_audio(data, MediaOptions(), 16000)[4000:12000]
        tolerance = 1e-3 if format in LOSSLESS else 0.06  # of 1.414, which is what others are off by
        assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5 * gain, rel=tolerance)


@pytest.mark.parametrize("format", ["mp4", "matroska", "webm"])
def test_a_sound_track_starts_with_its_first_sample(format):
    """As for transformers and librosa: a track that starts later than the pictures is not padded."""
    sounds = []
    for delay in (0.0, 0.5):
        data = encode_video_with_audio(make_audio(48000, 48000, 2), 48000, format, audio_delay_s=delay)
        with av.open(io.BytesIO(data)) as container:
            start = container.streams.audio[0].start_time * container.streams.audio[0].time_base
        assert float(start) == pytest.approx(delay, abs=0.03)
        sounds.append(decode_audio(data, MediaOptions(), 48000))
        assert np.abs(sounds[-1][:3000]).max() > 0.1
    early, late = sounds
    lag = len(late) - len(early)  # MP4 has no way to say that the encoder's padding comes first, if sound starts late
    assert lag == (1024 if format == "mp4" else 0)
    assert np.corrcoef(early, late[lag:])[0, 1] > 0.99


def test_long_mp4_is_sought_in_without_reading_what_comes_before():
    seconds = np.arange(40 * 44100) / 44100
    glide = np.sin(2 * np.pi * (440 * seconds + 10 * seconds**2)).astype(np.float32)  # sounds the same nowhere
    data = encode_audio(np.stack([glide, -0.5 * glide]), 44100, "m4a")
    whole = decode_audio(data, MediaOptions(), 44100)
    for start in (1.0, 2.0, 7.77, 25.0, 39.9):
        part = decode_audio(data, MediaOptions(), 44100, start_s=start, end_s=start + 1.5)
        first = round(start * 44100)
        assert len(part) == min(round(1.5 * 44100), len(whole) - first)
        # What the decoder makes up as noise depends on where it started; one sample of shift would be 0.1.
        assert np.abs(part - whole[first : first + len(part)]).max() < 0.01

    class Counting(io.BytesIO):
        bytes_read = 0

        def read(self, size=-1):
            piece = super().read(size)
            self.bytes_read += len(piece)
            return piece

    file = Counting(data)
    decode_audio(file, MediaOptions(audio_backend="pyav"), 44100, start_s=30, end_s=31)
    assert file.bytes_read < len(data) / 2


class Recorder(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("backend", ["soundfile", "pyav"])
@pytest.mark.parametrize("kind", ["m3u8", "ffconcat", "dash", "sdp"])
def test_files_cannot_make_ffmpeg_read_others(kind, backend, server, tmp_path):
    secret = write_audio(tmp_path / "secret.wav")
    url = f"http://127.0.0.1:{server.server_port}/stolen.wav"
    text = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{secret}'\nfile '{url}'\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    }[kind]
    path = tmp_path / "sound.mp3"
    path.write_text(text)
    for reference_ in (path, text.encode(), {"path": f"x.{kind}", "bytes": text.encode()}):
        with pytest.raises(MediaDecodeError, match="not a readable audio or video file"):
            decode_audio(reference_, MediaOptions(audio_backend=backend), 16000)
    assert server.asked == []


def test_channels_that_change_on_the_way_are_an_error():
    joined = encode_audio(make_audio(44100, 44100, 2), 44100, "adts") + encode_audio(
        make_audio(44100, 44100), 44100, "adts"
    )
    with pytest.raises(MediaDecodeError, match="changes from 2 channels at 44100 Hz to 1 at 44100 Hz"):
        decode_audio(joined, MediaOptions(), 16000)


def test_an_mp3_whose_header_counts_a_tag_that_is_gone_is_not_cut_off():
    data = bytearray(encode_audio(SAMPLES, 44100, "mp3"))
    at = data.index(b"Info") + 12
    stated = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (stated + 5000).to_bytes(4, "big")
    assert probe_audio(bytes(data), MediaOptions()) == INFO
    assert len(decode_audio(bytes(data), MediaOptions(), 44100)) == 22050


def test_an_mp3_whose_header_lies_makes_nobody_reserve_memory():
    data = bytearray(encode_audio(SAMPLES, 44100, "mp3"))
    at = data.index(b"Info") + 8
    data[at : at + 4] = (2**31).to_bytes(4, "big")
    assert probe_audio(bytes(data), MediaOptions()).num_samples == len(
        decode_audio(bytes(data), MediaOptions(), 44100)
    )


@pytest.mark.parametrize("name", [name for name in GOOD if "late" not in name and "cover" not in name])
def test_damaged_files_are_errors_or_sound(name):
    """Never another exception; a crash or a hang would end the test run."""
    random = np.random.default_rng(len(name))
    for _ in range(4):
        data = bytearray(file_of(name)[:20_000])
        for at in random.integers(0, len(data), size=8):
            data[at] = random.integers(256)
        for use in (lambda d: probe_audio(d, MediaOptions()), lambda d: decode_audio(d, MediaOptions(), 16000)):
            with contextlib.suppress(MediaError):
                use(bytes(data))


def test_long_reads_are_those_of_transformers(tmp_path):
    """Longer than what is read at a time, and of a bit rate that varies."""
    samples = make_audio(44100, 44100 * 50, 2)
    for format in ("mp3", "ogg", "flac"):
        path = tmp_path / f"long.{format}"
        path.write_bytes(encode_audio(samples, 44100, format, vbr=format == "mp3"))
        assert np.array_equal(
            decode_audio(path, MediaOptions(), 16000), load_audio(str(path), 16000, backend="soundfile")
        )


def test_soundfile_reads_what_it_is_said_to(monkeypatch):
    """libsndfile of a system may be older than that of the wheel, and lack MP3: no reason to decode with another."""
    assert {"WAV", "FLAC", "OGG", "MP3"} <= set(soundfile.available_formats())
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "", "FLAC": "", "OGG": ""})
    assert probe_audio(WAV, MediaOptions()) == INFO
    with pytest.raises(MediaDecodeError, match=r"too old to read MP3: 1\.1 .*audio_backend='pyav'"):
        probe_audio(b"a file that libsndfile refuses", MediaOptions())


OPUS = [(duration, "audio", 64000) for duration in ("2.5", "5", "10", "20", "40", "60")]
OPUS += [(duration, "voip", 12000) for duration in ("10", "20", "40", "60")]


@pytest.mark.parametrize(("frame_ms", "application", "bit_rate"), OPUS)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_packets_of_opus_are_counted_without_decoding(frame_ms, application, bit_rate, num_channels):
    """The first byte says how long a packet is, in each of the three modes that Opus has."""
    samples = make_audio(48000, 70_001, num_channels)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        options = {"frame_duration": frame_ms, "application": application}
        stream = container.add_stream("libopus", rate=48000, options=options)
        stream.layout, stream.bit_rate = {1: "mono", 2: "stereo"}[num_channels], bit_rate
        frame = av.AudioFrame.from_ndarray(samples, "fltp", layout=stream.layout)
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        decoded = sum(frame.samples for frame in container.decode(audio=0))
    assert probe_audio(buffer.getvalue(), MediaOptions()) == AudioInfo(48000, num_channels, decoded)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_that_follow_one_another_are_read_to_the_end(subtype: str) -> None:
    first, second = (make_audio(48_000, count, 1).T for count in (48_000, 72_000))
    joined = b""
    for samples in (first, second):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 48_000, format="OGG", subtype=subtype)
        joined += buffer.getvalue()
    info = probe_audio(joined, MediaOptions())
    with av.open(io.BytesIO(joined)) as container:
        found = sum(frame.samples for frame in container.decode(audio=0))
    assert info.num_samples == found >= 119_000
    assert len(decode_audio(joined, MediaOptions(), 48_000)) == found


def test_parts_of_audio_that_cannot_be_sought_in() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, make_audio(8_000, 24_000, 1).T, 8_000, format="WAV", subtype="GSM610")
    whole = decode_audio(buffer.getvalue(), MediaOptions(), 8_000)
    part = decode_audio(buffer.getvalue(), MediaOptions(), 8_000, start_s=1.0, end_s=2.5)
    assert np.array_equal(part, whole[8_000:20_000])


def test_the_format_of_samples_may_change() -> None:
    gathered = _Gatherer()
    for samples, kind in (([[0.5, -0.5]] * 2, "fltp"), ([[0.25] * 4], "flt"), ([[16_384, -8_192]], "s16")):
        dtype = np.int16 if kind == "s16" else np.float32
        frame = av.AudioFrame.from_ndarray(np.array(samples, dtype), kind, "stereo")
        frame.sample_rate, frame.pts = 8_000, 77
        gathered.add(frame)
    assert gathered.finish().tolist() == [0.5, -0.5, 0.25, 0.25, 0.125]


def test_what_headers_state_is_kept_apart() -> None:
    m4a = probe_audio(encode_audio(SAMPLES, 44100, "m4a"), MediaOptions())
    assert m4a.stated_num_samples is not None
    assert 0 < abs(m4a.num_samples - m4a.stated_num_samples) < 2048
    assert probe_audio(WAV, MediaOptions()).stated_num_samples == 22050
    assert probe_audio({"array": SAMPLES, "sampling_rate": 44100}, MediaOptions()).stated_num_samples is None
