"""The torchcodec backend, and the decoder objects that `datasets` gives: both need an FFmpeg that torchcodec finds.

Where the system has none, the tests run in a process of their own with the libraries that PyAV brings.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import Audio, Dataset

from mmdatasets.errors import MediaDecodeError, MissingExtraError
from mmdatasets.media import audio_torchcodec
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_store import audio_to_stored
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import encode_audio, make_audio
from mmdatasets.types import AudioInfo
from tests.media.audio_cases import BAD, CORPUS, GOOD, file_of, reference

TORCHCODEC = MediaOptions(audio_backend="torchcodec")
WITHIN = "MMDATASETS_TEST_FFMPEG_OF_PYAV"
PROBLEM = audio_torchcodec._find_problem()

needs_torchcodec = pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM)
SAMPLES = make_audio(44100, 22050, 2)


@pytest.mark.slow
@pytest.mark.skipif(not PROBLEM, reason="torchcodec can be used here: the tests run in this process")
@pytest.mark.skipif(sys.platform != "linux", reason="the loader of other systems finds libraries in other ways")
@pytest.mark.skipif(WITHIN in os.environ, reason="this is the process of its own")
def test_in_a_process_of_its_own(tmp_path):
    libraries = Path(av.__file__).parent.parent / "av.libs"
    if not libraries.is_dir():
        pytest.skip("PyAV was built for the FFmpeg of this system")
    pytest.importorskip("torchcodec")
    for library in libraries.iterdir():
        (tmp_path / library.name).symlink_to(library)
        if version := re.fullmatch(r"(lib(?:av|sw)[a-z]+)-\w+\.so\.(\d+)\..*", library.name):
            (tmp_path / f"{version[1]}.so.{version[2]}").symlink_to(library)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), WITHIN: "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d passed, 2 skipped", done.stdout), done.stdout


def torchcodec_channels(data):
    from torchcodec.decoders import AudioDecoder

    decoded = AudioDecoder(data).get_all_samples()
    return decoded.data.numpy(), decoded.sample_rate


@needs_torchcodec
@pytest.mark.parametrize("name", GOOD)
def test_every_good_file(name):
    channels, rate = torchcodec_channels(file_of(name))
    assert probe_audio(file_of(name), TORCHCODEC) == AudioInfo(rate, *channels.shape)
    assert np.array_equal(decode_audio(file_of(name), TORCHCODEC, 16000), reference(channels, rate, 16000))
    cut = channels[:, round(0.2 * rate) : round(0.4 * rate)]
    if cut.size:
        part = decode_audio(file_of(name), TORCHCODEC, 16000, start_s=0.2, end_s=0.4)
        assert np.array_equal(part, reference(cut, rate, 16000))


@needs_torchcodec
@pytest.mark.parametrize("name", BAD)
def test_every_bad_file(name):
    with pytest.raises(MediaDecodeError) as raised:
        decode_audio(file_of(name), TORCHCODEC, 16000)
    assert raised.value.source == f"bytes ({len(file_of(name)):,} B)"
    assert "SingleStreamDecoder" not in raised.value.message
    expected = f"{CORPUS[name].problem}|torchcodec cannot decode it: Could not push packet to decoder"
    assert re.search(expected, raised.value.message)


@needs_torchcodec
def test_its_own_mixing_down_is_too_loud():
    """Why all channels are taken and averaged."""
    from torchcodec.decoders import AudioDecoder

    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    data = encode_audio(np.stack([tone, tone]), 16000, "wav_float")
    theirs = AudioDecoder(data, num_channels=1).get_all_samples().data[0].numpy()
    assert np.sqrt(2 * np.mean(theirs**2)) == pytest.approx(0.5 * 1.414, rel=1e-3)
    for options in (TORCHCODEC, MediaOptions()):
        assert np.array_equal(decode_audio(data, options, 16000), tone)


def column(references, **feature):
    return Dataset.from_dict({"audio": references}).cast_column("audio", Audio(**feature))


@needs_torchcodec
@pytest.mark.parametrize("feature", [{}, {"sampling_rate": 16000}, {"sampling_rate": 8000, "num_channels": 1}])
@pytest.mark.parametrize("format", ["wav", "mp3", "m4a"])
def test_decoder_objects_of_datasets_are_read_from_their_file(feature, format, tmp_path):
    """At the file's own rate and with all of its channels: mixed down rightly, and resampled once."""
    path = tmp_path / f"sound.{format}"
    path.write_bytes(encode_audio(SAMPLES, 44100, format))
    expected, info = decode_audio(path, MediaOptions(), 16000), probe_audio(path, MediaOptions())
    stored_as_bytes = {"bytes": path.read_bytes(), "path": None}
    for [decoder] in (column([str(path)], **feature)["audio"], column([stored_as_bytes], **feature)["audio"]):
        assert hasattr(decoder, "get_all_samples")
        assert probe_audio(decoder, MediaOptions()) == info
        assert np.array_equal(decode_audio(decoder, MediaOptions(), 16000), expected)
        stored = audio_to_stored(decoder)
        assert stored in ({"bytes": None, "path": str(path)}, stored_as_bytes)


@needs_torchcodec
def test_decoder_objects_of_torchcodec_are_decoded(tmp_path):
    from torchcodec.decoders import AudioDecoder

    decoder = AudioDecoder(encode_audio(SAMPLES, 44100, "wav_float"))
    assert probe_audio(decoder, MediaOptions()) == AudioInfo(44100, 2, 22050)
    for given in (decoder, audio_to_stored(decoder)):
        assert np.array_equal(decode_audio(given, MediaOptions(), 16000), reference(SAMPLES, 44100, 16000))


def file_of_two_streams(first, second):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_f32le", rate=16000) for _ in range(2)]
        for stream, samples in zip(streams, (first, second), strict=True):
            stream.layout = {1: "mono", 2: "stereo"}[len(samples)]
        for stream, samples in zip(streams, (first, second), strict=True):
            frame = av.AudioFrame.from_ndarray(samples, "fltp", layout=stream.layout)
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return buffer.getvalue()


@needs_torchcodec
@pytest.mark.parametrize("index", [None, 0, 1])
def test_decoder_objects_for_another_stream_give_that_stream(index):
    mono, stereo = make_audio(16000, 8000, 1, seed=1), make_audio(16000, 8000, 2, seed=2)
    best = 1  # FFmpeg prefers more channels
    data = {"bytes": file_of_two_streams(mono, stereo), "path": None}
    [decoder] = column([data], stream_index=index)["audio"]
    assert decoder.stream_index == (best if index is None else index)
    expected = reference(mono if index == 0 else stereo, 16000, 16000)
    for given in (decoder, audio_to_stored(decoder)):
        assert np.array_equal(decode_audio(given, MediaOptions(), 16000), expected)
    assert (audio_to_stored(decoder) == data) == (index != 0)


def test_torchcodec_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(audio_torchcodec.importlib.util, "find_spec", lambda name: None)
    audio_torchcodec._find_problem.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"mmdatasets\[torchcodec\]'?, and FFmpeg .*is not installed"):
            probe_audio(file_of("wav 16000 Hz 1 ch"), TORCHCODEC)
    finally:
        monkeypatch.undo()
        audio_torchcodec._find_problem.cache_clear()


@pytest.mark.skipif(not PROBLEM, reason="torchcodec can be used here")
def test_an_ffmpeg_that_is_missing_is_named():
    pytest.importorskip("torchcodec")
    with pytest.raises(MissingExtraError, match=r"audio_backend='torchcodec' needs .*cannot be used: Could not load"):
        decode_audio(file_of("wav 16000 Hz 1 ch"), TORCHCODEC, 16000)
