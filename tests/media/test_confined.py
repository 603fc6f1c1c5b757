"""Rows from strangers: which files, filesystems and addresses their references can lead to."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from mmdatasets import auto_plugin
from mmdatasets.errors import MediaError, MediaForbiddenError, MediaLimitError, MediaNotFoundError
from mmdatasets.media import places
from mmdatasets.media.cache import MetadataCache
from mmdatasets.media.content import content_key
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.prober import MediaProber
from mmdatasets.media.source import open_source
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.media import encode_image
from mmdatasets.testing.processors import build_processor
from mmdatasets.types import FramePlan

DATA = encode_image(32, 24)


@pytest.fixture
def tree(tmp_path):
    """Two roots, and what lies beside them: files, and links between them."""
    for name in ("root/inner", "second", "outside", "root-and-more"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("root/a.png", "root/inner/b.png", "second/c.png", "outside/secret.png", "root-and-more/d.png"):
        (tmp_path / name).write_bytes(DATA)
    (tmp_path / "root/link.png").symlink_to(tmp_path / "outside/secret.png")
    (tmp_path / "root/way").symlink_to(tmp_path / "outside")
    (tmp_path / "root/twice.png").symlink_to("way/secret.png")
    (tmp_path / "root/to_second.png").symlink_to(tmp_path / "second/c.png")
    (tmp_path / "root/dangling.png").symlink_to(tmp_path / "outside/missing.png")
    return tmp_path


def confined(tree, **fields) -> MediaOptions:
    return MediaOptions(media_roots=(str(tree / "root"), str(tree / "second")), **fields)


def test_what_lies_in_a_root_is_read(tree):
    options = confined(tree)
    for reference in (
        "a.png",
        "inner/../a.png",
        "inner/b.png",
        "c.png",  # of the second root
        tree / "root/inner/b.png",
        str(tree / "root/../second/c.png"),
        (tree / "root/a.png").as_uri(),
        {"path": "a.png"},
        tree / "root/to_second.png",
        DATA,
    ):
        assert probe_image(reference, options).width == 32
        assert decode_image(reference, options).shape == (3, 24, 32)
    assert probe_image("b.png", replace(options, media_root=str(tree / "root/inner"))).width == 32


OUTSIDE = (
    "outside/secret.png",
    "outside/missing.png",
    "root/../outside/secret.png",
    "root/link.png",
    "root/way/secret.png",
    "root/twice.png",
    "root/dangling.png",
    "root-and-more/d.png",
)


@pytest.mark.parametrize("place", OUTSIDE)
def test_what_leads_out_is_refused_in_every_form(tree, place):
    options, path = confined(tree), str(tree / place)
    relative = os.path.relpath(path, tree / "root") if ".." not in place else f"../{place}"
    for reference in (path, relative, "file://" + path, "FILE://localhost" + path, {"path": path, "bytes": None}):
        with pytest.raises(MediaForbiddenError, match="media_roots"):
            open_source(reference, options)
        assert content_key(reference, options, "image") is None  # nor is it told from others
    for listed in ([path], ["a.png", path], {"frames": [path, path], "fps": 1.0}):
        with pytest.raises(MediaForbiddenError, match="media_roots"):
            probe_video(listed, options)
    with pytest.raises(MediaForbiddenError):
        decode_frames(["a.png", path], FramePlan((0, 1)), options)


def test_other_ways_to_the_same_places(tree):
    path = str(tree / "outside/secret.png")
    with zipfile.ZipFile(tree / "outside/archive.zip", "w") as archive:
        archive.write(path, "a.png")
    zipped = f"zip://a.png::{tree / 'outside/archive.zip'}"
    urls = (
        f"local://{path}",
        zipped,
        f"zip://a.png::file://{tree / 'outside/archive.zip'}",
        f"simplecache::file://{path}",
        f"simplecache::{path}",
        f"filecache::local://{path}",
        f"blockcache::zip://a.png::{tree / 'outside/archive.zip'}",
        f"dir://secret.png::file://{tree / 'outside'}",
        f"reference://a.png::{path}",
        "memory://a.png",
        "s3://bucket/a.png",
        "hf://datasets/a/b/c.png",
        "ftp://127.0.0.1/a.png",
        "git://a.png",
        "http://127.0.0.1/a.png",
        "simplecache::https://127.0.0.1/a.png",
    )
    for url in urls:
        with pytest.raises(MediaForbiddenError):
            open_source(url, confined(tree))
        assert content_key(url, confined(tree), "image") is None
    for url in (zipped, f"local://{path}"):  # the filesystem is allowed, the place is not
        with pytest.raises(MediaForbiddenError, match="media_roots"):
            open_source(url, confined(tree, allowed_protocols=("zip", "local")))
    with zipfile.ZipFile(tree / "root/archive.zip", "w") as archive:
        archive.write(path, "a.png")
    inside = f"zip://a.png::{tree / 'root/archive.zip'}"
    assert probe_image(inside, confined(tree, allowed_protocols=("zip",))).width == 32
    with pytest.raises(MediaForbiddenError, match="'memory'"):
        open_source("memory://a.png", MediaOptions(allowed_protocols=("zip",)))


def test_no_root_is_no_file(tree):
    options = MediaOptions.untrusted()
    with pytest.raises(MediaForbiddenError, match="no local file"):
        open_source(str(tree / "root/a.png"), options)
    with pytest.raises(MediaForbiddenError):
        open_source("a.png", options)
    assert open_source(DATA, options).read() == DATA


def test_a_link_that_takes_the_place_of_a_file_after_the_check(tree, monkeypatch):
    """Whoever may write in a root cannot win the race between the check and the opening."""
    victim = tree / "root/a.png"
    checked = places.check_path

    def exchange(path, options, source):
        checked(path, options, source)
        victim.unlink()
        victim.symlink_to(tree / "outside/secret.png")

    monkeypatch.setattr("mmdatasets.media.source.check_path", exchange)
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(MediaForbiddenError):
        open_source(str(victim), confined(tree))
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_what_another_run_remembers_is_not_told(tree):
    path = str(tree / "outside/secret.png")
    cache = MetadataCache(tree / "cache")
    assert MediaProber(MediaOptions(), cache).image(path).width == 32
    with pytest.raises(MediaForbiddenError):
        MediaProber(confined(tree), cache).image(path)


def test_rows_name_what_they_were_refused_for(tree):
    plugin = auto_plugin(build_processor("qwen2_vl"), options=confined(tree))
    rows = {"messages": [[{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "x"}]]}
    with pytest.raises(MediaForbiddenError, match=r"row 0 of the batch, column 'images', index 0 \(/etc/passwd\)"):
        plugin.transform({**rows, "images": [["/etc/passwd"]]})
    assert plugin.transform({**rows, "images": [["a.png"]]})["input_ids"]


def test_options_are_checked_and_travel():
    options = MediaOptions.untrusted("/data", "/more", image_max_pixels=1000)
    assert pickle.loads(pickle.dumps(options)) == options
    assert options.media_roots == ("/data", "/more")
    assert MediaOptions(media_roots=["/data"]).media_roots == ("/data",)  # as a configuration file has it
    for fields in (
        {"media_roots": "/data"},
        {"media_roots": ("s3://bucket",)},
        {"allowed_protocols": ("",)},
        {"decode_memory_limit": 2**31},
        {"decode_memory_limit": 5, "decode_timeout_s": 1},
        {"byte_limit": None},
        {"video_frame_limit": 0},
        {"http_total_timeout_s": None},
    ):
        with pytest.raises(ValueError, match=next(iter(fields))):
            MediaOptions(**fields)


def test_what_is_too_long_is_not_read(tree):
    path = tree / "root/long.bmp"
    path.write_bytes(encode_image(32, 24, format="BMP"))
    os.truncate(path, 10_000)
    for reference in (path, path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes())):
        with pytest.raises(MediaLimitError, match="byte_limit = 9,999"):
            probe_image(reference, MediaOptions(byte_limit=9_999))
        assert probe_image(reference, MediaOptions(byte_limit=10_000)).width == 32
    with fsspec.open("memory://long.bmp", "wb") as file:
        file.write(path.read_bytes())
    with zipfile.ZipFile(tree / "root/a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000))
    for url in ("memory://long.bmp", f"zip://zeros::{tree / 'root/a.zip'}"):
        with pytest.raises(MediaLimitError, match="byte_limit"):
            open_source(url, MediaOptions(byte_limit=9_999))
    fsspec.filesystem("memory").store.clear()


# ------------------------------------------------------------------------------------------------------------ http

pytest.importorskip("aiohttp", reason="fsspec opens http(s) with aiohttp")

HTTP = MediaOptions(allow_http=True)
OWN = replace(HTTP, allow_private_addresses=True)


@contextmanager
def answering(*answers: bytes, forever: bytes = b"", pause_s: float = 0.0):
    """A server that gives these answers in turn, the last one again and again, and then sends without end."""
    server = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []
    over = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                request = connection.recv(65_536)
                asked.append(request)
                connection.sendall(answers[min(len(asked), len(answers)) - 1])
                while forever and not request.startswith(b"HEAD") and not over.wait(pause_s):
                    connection.sendall(forever)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], asked
    finally:
        over.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def head(status: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode()


FOUND = head("200 OK", f"Content-Length: {len(DATA)}") + DATA


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0", "127.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"),
        *("169.254.169.254", "[fe80::1]", "192.168.0.1", "172.16.0.1", "100.64.0.1", "224.0.0.1", "0.0.0.0"),
    ],
)
def test_addresses_that_are_not_public_are_not_connected_to(host):
    with answering(FOUND) as (port, asked):
        with pytest.raises(MediaError):
            open_source(f"http://{host}:{port}/a.png", replace(HTTP, http_timeout_s=5))
        assert content_key(f"http://{host}:{port}/a.png", replace(HTTP, http_timeout_s=5), "image") is None
        assert asked == []


def test_the_error_says_what_to_set():
    with answering(FOUND) as (port, _):
        with pytest.raises(MediaForbiddenError, match="allow_private_addresses"):
            open_source(f"http://127.0.0.1:{port}/a.png", HTTP)
        assert probe_image(f"http://127.0.0.1:{port}/a.png", OWN).width == 32


def test_which_addresses_are_public():
    from mmdatasets.media.http_client import is_public

    for address in ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(address)
    for address in (
        *("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::"),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("fec0::1", "64:ff9b:1::7f00:1", "::127.0.0.1", "::a9fe:a9fe", "::ffff:0:7f00:1", "5f00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ):
        assert not is_public(address), address


@pytest.mark.parametrize(
    "form", ["reference://a::zip://r.json::{}", "webhdfs://{}/a", "github://a:b@c/d", "dir://a::{}"]
)
def test_filesystems_that_lead_on_are_refused_unless_named(form):
    """They would ask servers, or open files, that the reference does not show, by clients of their own."""
    with answering(head("200 OK", "Content-Length: 0")) as (port, asked):
        place = f"127.0.0.1:{port}" if "webhdfs" in form else "data:application/zip;base64,UEsFBgA="
        with pytest.raises(MediaForbiddenError, match="lead to files and servers that they name themselves"):
            open_source(form.format(place), MediaOptions(allow_http=True))
    assert asked == []


def test_each_redirect_is_checked(monkeypatch):
    """The first server passes for a public one; the one that it redirects to does not."""
    from mmdatasets.media import http_client

    with answering(FOUND) as (inner_port, asked):
        redirect = head("302 Found", f"Location: http://127.0.0.2:{inner_port}/secret", "Content-Length: 0")
        with answering(redirect) as (port, _):
            is_public = http_client.is_public
            monkeypatch.setattr(http_client, "is_public", lambda text: text == "127.0.0.1" or is_public(text))
            with pytest.raises(MediaForbiddenError, match="not of the public internet"):
                open_source(f"http://127.0.0.1:{port}/a.png", HTTP)
    assert asked == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_redirects_to_other_protocols_are_refused(target):
    with (
        answering(head("302 Found", f"Location: {target}", "Content-Length: 0")) as (port, _),
        pytest.raises(MediaNotFoundError, match="redirect"),
    ):
        open_source(f"http://127.0.0.1:{port}/a.png", OWN)


def test_redirects_without_end_come_to_one():
    with answering(head("302 Found", "Location: /again", "Content-Length: 0")) as (port, asked):
        with pytest.raises(MediaNotFoundError):
            open_source(f"http://127.0.0.1:{port}/a.png", OWN)
        assert len(asked) <= 24


STREAM = bytes(65_536)


@pytest.mark.parametrize(
    "answers",
    [
        (head("200 OK"),),
        (head("200 OK", f"Content-Length: {len(DATA)}"), head("206 Partial Content", "Content-Range: bytes 0-9/99")),
        (head("200 OK", "Content-Length: 99"), head("200 OK", "Transfer-Encoding: chunked") + b"10000\r\n"),
    ],
    ids=["no length", "more than the range", "chunks"],
)
def test_answers_without_end_are_ended(answers):
    options = replace(OWN, byte_limit=2_000_000, http_timeout_s=5)
    with answering(*answers, forever=STREAM) as (port, _), pytest.raises(MediaError):
        probe_image(f"http://127.0.0.1:{port}/a.png", options)


def test_answers_that_drip_are_given_up():
    options = replace(OWN, http_timeout_s=5, http_total_timeout_s=0.5)
    answers = (head("200 OK", "Content-Length: 100000"), head("206 Partial Content", "Content-Length: 65536"))
    with answering(*answers, forever=b"x", pause_s=0.1) as (port, _), pytest.raises(MediaNotFoundError, match="time"):
        probe_image(f"http://127.0.0.1:{port}/a.png", options)


def test_compressed_answers_are_not_unfolded():
    import gzip

    bomb = gzip.compress(bytes(20_000_000))
    lines = ("Content-Encoding: gzip", f"Content-Length: {len(bomb)}")
    with answering(head("200 OK", *lines) + bomb) as (port, _):
        with pytest.raises(MediaError, match="gzip-compressed"):
            probe_image(f"http://127.0.0.1:{port}/a.png", OWN)
        with open_source(f"http://127.0.0.1:{port}/a.png", OWN) as file:
            assert file.read() == bomb


def test_a_server_that_says_no_version_in_time_is_not_waited_for():
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.png"
    assert content_key(url, replace(OWN, http_timeout_s=0.3), "image") is None
    silent.close()
