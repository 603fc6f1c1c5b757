"""Probing videos: of every file of the corpus the probe finds what a decode of the whole file gives."""

from __future__ import annotations

import http.server
import io
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mmdatasets.errors import MediaDecodeError, MediaLimitError, MediaNotFoundError, MediaReferenceError
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.video import VideoSpec, encode_video, write_video
from mmdatasets.types import FramePlan
from tests.media.video_cases import BAD, CORPUS, GOOD, OPTIONS, channels_last, decode_in_sequence, decoded, file_of


def check_probe(info, whole):
    height, width = whole.pixels.shape[1:3]
    assert (info.num_frames, info.width, info.height) == (len(whole.pixels), width, height)
    assert info.has_audio == whole.has_audio
    if whole.times_s is None:
        assert info.timestamps_s is info.fps is info.duration_s is None
        return
    assert np.allclose(info.timestamps_s, whole.times_s, rtol=0, atol=1e-9)
    assert info.timestamps_s[0] == 0
    assert info.duration_s > info.timestamps_s[-1] or info.num_frames == 1
    assert info.fps == pytest.approx(info.num_frames / info.duration_s)


@pytest.mark.parametrize("name", GOOD)
def test_the_probe_finds_what_a_full_decode_gives(name):
    sample = CORPUS[name]
    info = probe_video(file_of(name), OPTIONS)
    check_probe(info, decoded(name))
    assert (info.num_frames, (info.width, info.height)) == (len(sample.numbers), sample.size)
    assert info.has_audio == sample.has_audio


@pytest.mark.parametrize("name", BAD)
def test_the_error_says_what_is_wrong(name, tmp_path):
    data, problem = file_of(name), CORPUS[name].problem
    path = tmp_path / f"video{CORPUS[name].suffix}"
    path.write_bytes(data)
    for call in (probe_video, lambda reference, options: decode_frames(reference, FramePlan((0, 79)), options)):
        with pytest.raises(MediaDecodeError, match=problem) as raised:
            call(data, OPTIONS)
        assert raised.value.source == f"bytes ({len(data):,} B)"
        with pytest.raises(MediaDecodeError, match=problem) as raised:
            call(path, OPTIONS)
        assert raised.value.source == str(path)


@pytest.mark.parametrize("name", ["h264_matroska", "vp9", "h264_ts", "hevc_open_gop_ts", "mpeg4_avi", "h264_flv"])
@pytest.mark.parametrize("share", [0.4, 0.63, 0.9])
def test_of_a_file_that_breaks_off_what_is_left_is_found(name, share):
    data = file_of(name)[: int(len(file_of(name)) * share)]
    try:
        whole = decode_in_sequence(data)
    except av.error.FFmpegError:  # not even PyAV gets through it
        with pytest.raises(MediaDecodeError, match=r"cut off|not a readable video"):
            probe_video(data, OPTIONS)
        return
    options = MediaOptions(allow_truncated=True)
    if name != "h264_ts" and not name.endswith("open_gop_ts"):  # a transport stream does not tell
        with pytest.raises(MediaDecodeError, match="cut off"):
            probe_video(data, OPTIONS)
    info = probe_video(data, options)
    check_probe(info, whole)
    frames = channels_last(decode_frames(data, FramePlan(tuple(range(info.num_frames))), options))
    # The one that breaks off is made up by the decoder: differently by one with threads, as PyAV's own is.
    assert np.array_equal(frames[:-4], whole.pixels[:-4])


def test_the_rate_of_a_constant_one_is_the_stated_one():
    assert probe_video(file_of("h264"), OPTIONS).fps == 25.0
    assert probe_video(file_of("h264"), OPTIONS).duration_s == 1.6
    assert probe_video(file_of("h264_ntsc"), OPTIONS).fps == 30000 / 1001
    assert probe_video(file_of("h264_one_frame"), OPTIONS).fps == 25.0


def test_frames_beyond_the_limit_are_refused():
    with pytest.raises(MediaLimitError, match="112x64"):
        probe_video(file_of("h264"), MediaOptions(image_pixel_limit=112 * 64 - 1))
    assert probe_video(file_of("h264"), MediaOptions(image_pixel_limit=112 * 64)).width == 112


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaNotFoundError, match=r"none\.mp4"):
        probe_video(tmp_path / "none.mp4", OPTIONS)


@pytest.mark.parametrize("value", [None, 3, {}, {"path": None, "bytes": None}])
def test_other_values_are_refused(value):
    with pytest.raises(MediaReferenceError):
        probe_video(value, OPTIONS)


def test_a_file_object_keeps_its_position_and_stays_open():
    file = io.BytesIO(file_of("h264"))
    file.seek(17)
    assert probe_video(file, OPTIONS).num_frames == 40
    assert file.tell() == 17


def test_a_closed_file_is_refused():
    file = io.BytesIO(file_of("h264"))
    file.close()
    with pytest.raises(MediaReferenceError, match="closed"):
        probe_video(file, OPTIONS)


@pytest.fixture
def server(tmp_path):
    """An HTTP server on this machine that gives a video to whoever asks, and notes what was asked for."""
    video, asked = encode_video(VideoSpec(format="mpegts")), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(video)))
            self.end_headers()
            self.wfile.write(video)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\n{}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    "<Representation id='0' bandwidth='1'><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=control:{}\n",
    "concat protocol": "concat:{}",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_playlists_are_refused_and_nothing_that_they_name_is_read(kind, suffix, tmp_path, server):
    address, asked = server
    secret = write_video(tmp_path / "secret.ts", VideoSpec(format="mpegts"))
    for target in (str(secret), secret.name, f"file://{secret}", f"{address}/secret.ts"):
        path = tmp_path / f"clip{suffix}"
        path.write_text(PLAYLISTS[kind].format(target))
        for reference in (path, path.read_bytes(), str(path)):
            with pytest.raises(MediaDecodeError, match=r"not a readable video|no video track"):
                probe_video(reference, OPTIONS)
            with pytest.raises(MediaDecodeError, match=r"not a readable video|no video track"):
                decode_frames(reference, FramePlan((0,)), OPTIONS)
    assert asked == []


def test_ffmpeg_alone_would_follow_a_playlist(tmp_path, server):
    """The playlist of the test above is a real one."""
    address, asked = server
    path = tmp_path / "clip.m3u8"
    path.write_text(PLAYLISTS["m3u8"].format(f"{address}/secret.ts"))
    with av.open(str(path), options={"protocol_whitelist": "file,http,tcp"}) as container:
        assert len(list(container.decode(video=0))) == 40
    assert asked


@pytest.mark.parametrize("protocol", ["concat", "subfile,,start,0,end,9,,", "crypto", "file", "pipe", "fd", "data"])
def test_ffmpeg_protocols_are_no_paths(protocol, tmp_path):
    path = write_video(tmp_path / "video.ts", VideoSpec(format="mpegts"))
    with pytest.raises((MediaNotFoundError, MediaReferenceError)):
        probe_video(f"{protocol}:{path}|{path}", OPTIONS)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_rate_of_avi_files_that_count_in_shorter_ticks(b_frames: int, tmp_path: Path) -> None:
    """As FFmpeg writes them: empty packets follow each frame, which itself lasts but one tick, a field or less."""
    times = [index / 25 for index in range(50)]
    spec = VideoSpec(num_frames=50, format="avi", rate=Fraction(50), times_s=times, b_frames=b_frames)
    info = probe_video(write_video(tmp_path / "fields.avi", spec), OPTIONS)
    assert (info.num_frames, info.fps, info.duration_s) == (50, 25.0, 2.0)
    assert info.timestamps_s == pytest.approx(times)
    assert info.stated_num_frames != 50


def test_what_headers_state_is_kept_apart() -> None:
    stated = {name: probe_video(file_of(name), OPTIONS) for name in ("h264", "h264_two_edits", "h264_matroska")}
    assert stated["h264"].stated_num_frames == stated["h264"].num_frames
    assert stated["h264"].stated_duration_s == pytest.approx(stated["h264"].duration_s)
    assert stated["h264_two_edits"].stated_num_frames > stated["h264_two_edits"].num_frames
    assert stated["h264_matroska"].stated_num_frames is None
