"""Audio files of 44.1 kHz stereo to 16 kHz mono, beside what one uses instead; and how long they are, from headers.

  librosa.load             librosa.load(path, sr=16000), where librosa is installed
  load_audio, torchcodec   transformers.audio_utils.load_audio(path, backend="torchcodec"), where FFmpeg is installed
  load_audio, soundfile    transformers.audio_utils.load_audio(path, backend="soundfile")
  ours                     decode_audio(path), and probe_audio(path) for the length

The samples of all but torchcodec, which resamples and mixes down in its own way, are checked to be equal.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from common import Result, alternate, parser, report
from transformers.audio_utils import load_audio

from mmdatasets.errors import MissingExtraError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_plan import planned_num_samples
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import encode_audio, make_audio

FORMATS = ["mp3", "flac", "wav"]
RATE = 16000
NOT_SOUNDFILE = ("m4a",)


def torchcodec_works(path: Path) -> bool:
    try:
        probe_audio(path, MediaOptions(audio_backend="torchcodec"))
    except MissingExtraError:
        return False
    return True


def contestants(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Whatever is installed and reads the file, ours last."""
    found: dict[str, Callable[[], np.ndarray]] = {}
    if importlib.util.find_spec("librosa") is not None and path.suffix[1:] not in NOT_SOUNDFILE:
        import librosa

        found["librosa.load"] = lambda: librosa.load(str(path), sr=RATE)[0]
    if torchcodec_works(path):
        found["load_audio, torchcodec"] = partial(load_audio, str(path), RATE, backend="torchcodec")
    if path.suffix[1:] not in NOT_SOUNDFILE:
        found["load_audio, soundfile"] = partial(load_audio, str(path), RATE, backend="soundfile")
    found["decode_audio"] = partial(decode_audio, path, MediaOptions(), RATE)
    return found


def measure(path: Path, seconds: float, repeats: int) -> list[Result]:
    loaders = contestants(path)
    ours = loaders["decode_audio"]()
    for name, load in loaders.items():
        samples = load()
        if "torchcodec" not in name and not np.array_equal(samples[: len(ours)], ours):
            raise AssertionError(f"{path.name}: {name} gives other samples")

    def length() -> int:
        return planned_num_samples(probe_audio(path, MediaOptions()), MediaOptions(), RATE)

    if length() != len(ours):
        raise AssertionError(f"{path.name}: the planned length is not that of the samples")
    what = f"{seconds:g} s of {path.suffix[1:]}"
    times = alternate({**loaders, "probe_audio": length}, repeats)
    probe = times.pop("probe_audio")
    results = [Result(f"decode {what}", name, 1, taken) for name, taken in times.items()]
    results += [Result(f"length of {what}", name, 1, taken) for name, taken in times.items() if name != "decode_audio"]
    return [*results, Result(f"length of {what}", "probe_audio", 1, probe)]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=30, help="length of each file (default: %(default)s)")
    options.add_argument(
        "--formats", nargs="+", default=FORMATS, help="mp3, flac, wav, ogg, m4a (default: the first 3)"
    )
    args = options.parse_args()
    sound = make_audio(44100, round(args.seconds * 44100), 2)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for format in args.formats:
            path = Path(folder) / f"sound.{format}"
            path.write_bytes(encode_audio(sound, 44100, format))
            results += measure(path, args.seconds, args.repeats)
    report(results, "file", as_json=args.json)


if __name__ == "__main__":
    main()
