from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset

from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_store import audio_to_stored
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import encode_audio, make_audio

SAMPLES = make_audio(44100, 4410, 2)


@pytest.mark.parametrize(
    ("dtype", "subtype"),
    [("float32", "FLOAT"), ("float64", "FLOAT"), ("float16", "FLOAT"), ("int16", "PCM_16"), ("int32", "PCM_32")],
)
def test_samples_become_a_wav_file_of_their_type(dtype, subtype):
    samples = (SAMPLES * 2**12).astype(dtype) if "int" in dtype else SAMPLES.astype(dtype)
    stored = audio_to_stored({"array": samples, "sampling_rate": 44100, "path": "where/it/was.mp3"})
    assert stored["path"] is None
    with soundfile.SoundFile(io.BytesIO(stored["bytes"])) as sound:
        assert (sound.format, sound.subtype, sound.samplerate) == ("WAV", subtype, 44100)
        assert np.array_equal(sound.read(dtype="int32" if "int" in dtype else "float32").T.shape, SAMPLES.shape)
        sound.seek(0)
        if "int" in dtype:
            assert np.array_equal(sound.read(dtype=dtype).T, samples)
        else:
            assert np.array_equal(sound.read(dtype="float32").T, samples.astype(np.float32))


def test_equal_samples_give_equal_bytes(monkeypatch):
    """libsndfile writes the time into files of floats, and fingerprints of datasets are made of their bytes."""
    first = audio_to_stored({"array": SAMPLES, "sampling_rate": 44100})["bytes"]
    peak = first.index(b"PEAK")
    assert first[peak + 12 : peak + 16] == bytes(4)
    buffer = io.BytesIO()
    soundfile.write(buffer, SAMPLES.T, 44100, format="WAV", subtype="FLOAT")
    own = buffer.getvalue()
    assert own[peak + 12 : peak + 16] != bytes(4)
    assert own[: peak + 12] + bytes(4) + own[peak + 16 :] == first


def test_samples_that_say_peak_are_left_alone():
    samples = np.frombuffer(b"PEAK" * 60, dtype=np.int16)
    stored = audio_to_stored({"array": samples, "sampling_rate": 16000})
    assert np.array_equal(soundfile.read(io.BytesIO(stored["bytes"]), dtype="int16")[0], samples)


def test_files_are_stored_as_they_are(tmp_path):
    data = encode_audio(SAMPLES, 44100, "mp3")
    path = tmp_path / "sound.mp3"
    path.write_bytes(data)
    assert audio_to_stored(str(path)) == audio_to_stored(path) == {"bytes": None, "path": str(path)}
    assert audio_to_stored({"path": str(path), "bytes": None}) == {"bytes": None, "path": str(path)}
    assert audio_to_stored(data) == audio_to_stored(io.BytesIO(data)) == {"bytes": data, "path": None}
    assert audio_to_stored({"path": "sound.mp3", "bytes": data}) == {"bytes": data, "path": "sound.mp3"}
    assert audio_to_stored("hf://datasets/x/y/sound.mp3") == {"bytes": None, "path": "hf://datasets/x/y/sound.mp3"}


def test_what_is_stored_survives_arrow(tmp_path):
    references = [
        {"array": SAMPLES, "sampling_rate": 44100},
        {"array": torch.from_numpy(SAMPLES[0]), "sampling_rate": 16000},
        encode_audio(SAMPLES, 44100, "flac"),
    ]
    stored = Dataset.from_dict({"audio": [audio_to_stored(reference) for reference in references]})
    stored = stored.cast_column("audio", Audio(decode=False))
    stored.save_to_disk(tmp_path / "dataset")
    for row, reference in zip(Dataset.load_from_disk(tmp_path / "dataset"), references, strict=True):
        assert set(row["audio"]) == {"bytes", "path"}
        assert probe_audio(row["audio"], MediaOptions()) == probe_audio(reference, MediaOptions())
        expected = decode_audio(reference, MediaOptions(), 16000)
        assert np.array_equal(decode_audio(row["audio"], MediaOptions(), 16000), expected)
