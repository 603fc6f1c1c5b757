"""A "video" that names other files or addresses has nothing else read, whichever library decodes it."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys

import pytest

from mmdatasets.errors import MediaError
from mmdatasets.media.audio import decode_audio
from mmdatasets.media.audio_torchcodec import _find_problem
from mmdatasets.media.video import decode_frames
from mmdatasets.options import MediaOptions
from mmdatasets.testing.mp4_boxes import find_box
from mmdatasets.testing.video import VideoSpec, encode_video, write_video
from mmdatasets.types import FramePlan
from tests.media.web_server import serving

BACKENDS = ["pyav"]
BACKENDS += ["torchcodec"] if not _find_problem() else []
BACKENDS += ["decord"] if importlib.util.find_spec("decord") else []


def external(target: str) -> bytes:
    """A MOV file whose data reference says that the frames are in another file (QuickTime's `url ` of `dref`)."""
    data = encode_video(VideoSpec(num_frames=4, format="mov"))
    start, end = find_box(data, b"mdia")
    at = data.index(b"dref", start, end) + 4 + 8
    size = struct.unpack_from(">I", data, at)[0]
    entry = struct.pack(">I4sI", 12 + len(target) + 1, b"url ", 0) + target.encode() + b"\0"
    grown = data[:at] + entry + data[at + size :]
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        position = grown.index(name) - 4
        length = struct.unpack_from(">I", grown, position)[0] + len(entry) - size
        grown = grown[:position] + struct.pack(">I", length) + grown[position + 4 :]
    return grown


def texts(secret: str, url: str) -> dict[str, bytes]:
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n"
    return {
        "hls": hls.encode(),
        "hls with a key": hls.replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF', 1).encode(),
        "ffconcat": f"ffconcat version 1.0\nfile '{secret}'\nfile '{url}'\n".encode(),
        "concat": f"concat:{secret}|{url}".encode(),
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\na=control:{url}\nm=video 9 RTP/AVP 96\n".encode(),
        "asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>'.encode(),
        "reference movie": external(secret),
        "reference movie of a url": external(url),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", texts("a", "b"))
@pytest.mark.parametrize("name", ["clip.m3u8", "frame%03d.idx"])
def test_no_server_is_asked(kind, backend, name, tmp_path):
    with serving() as server:
        secret = write_video(tmp_path / "secret.ts", VideoSpec(format="mpegts"))
        url = server.add("secret.ts", secret.read_bytes())
        path = tmp_path / name
        path.write_bytes(texts(str(secret), url)[kind])
        audio = "soundfile" if backend == "decord" else backend
        for reference in (path, path.read_bytes()):
            for call in (
                lambda reference: decode_frames(reference, FramePlan((0,)), MediaOptions(video_backend=backend)),
                lambda reference: decode_audio(reference, MediaOptions(audio_backend=audio), 16_000),
            ):
                try:
                    call(reference)
                except MediaError:
                    continue
                assert "movie" in kind  # with the frames that it has itself
        assert server.requests == []


OPENED = """
import sys
from mmdatasets.errors import MediaError
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.types import FramePlan
for path in sys.argv[2:]:
    for backend in sys.argv[1].split(","):
        for call in (probe_video, lambda path, options: decode_frames(path, FramePlan((0,)), options)):
            try:
                call(path, MediaOptions(video_backend=backend))
            except MediaError:
                pass
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="what is opened is seen with strace")
def test_no_file_is_opened(tmp_path):
    """Seen by the kernel: neither what is named nor what may lie beside a file under another suffix."""
    secret = write_video(tmp_path / "canary.ts", VideoSpec(format="mpegts"))
    paths = []
    for number, data in enumerate(texts(str(secret), f"file://{secret}").values()):
        paths.append(tmp_path / f"clip{number}.idx")
        paths[-1].write_bytes(data)
        paths[-1].with_suffix(".sub").write_bytes(b"canary")
    log = tmp_path / "log"
    command = ["strace", "-f", "-e", "trace=open,openat", "-o", str(log), sys.executable, "-c", OPENED]
    subprocess.run([*command, ",".join(BACKENDS), *map(str, paths)], check=True)
    seen = log.read_text()
    assert all(path.name in seen for path in paths)
    assert "canary.ts" not in seen
    assert ".sub" not in "".join(line for line in seen.splitlines() if str(tmp_path) in line)
