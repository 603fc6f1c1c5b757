from __future__ import annotations

import base64
import functools
import http.server
import io
import os
import pathlib
import pickle
import threading
import zipfile

import fsspec
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets.errors import MediaDecodeError, MediaNotFoundError, MediaReferenceError
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.source import describe_source, open_source, to_stored
from mmdatasets.options import MediaOptions
from mmdatasets.testing.damage.places import EndlessFile, FailingFile, SilentFile
from tests.media.image_cases import encode, every_format, every_orientation, oracle, photo, pixels

DATA = encode(photo(), "PNG")
PIXELS = oracle(DATA)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "photo with space.png"
    file.write_bytes(DATA)
    return file


@pytest.fixture
def memory_url():
    with fsspec.open("memory://bucket/photo.png", "wb") as file:
        file.write(DATA)
    yield "memory://bucket/photo.png"
    fsspec.filesystem("memory").store.clear()


def data_uri(data: bytes = DATA) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def every_form(path: pathlib.Path) -> dict[str, object]:
    return {
        "str": str(path),
        "path": path,
        "file url": path.as_uri(),
        "file url of this host": path.as_uri().replace("file://", "file://localhost"),
        "local url": f"local://{path}",
        "bytes": DATA,
        "bytearray": bytearray(DATA),
        "memoryview": memoryview(DATA),
        "strided memoryview": memoryview(b"".join(bytes([byte, 0]) for byte in DATA))[::2],
        "BytesIO": io.BytesIO(DATA),
        "data uri": data_uri(),
        "data uri without padding": data_uri().rstrip("="),
        "data uri with line breaks": "\n".join([data_uri()[:100], data_uri()[100:]]),
        "data uri with parameter": data_uri().replace(";base64", ";charset=x;base64"),
        "data uri escaped": data_uri().replace("+", "%2B").replace("/", "%2F").replace("image%2F", "image/"),
        "mapping of bytes": {"path": None, "bytes": DATA},
        "mapping of path": {"path": str(path), "bytes": None},
        "mapping of both": {"path": "not/here.png", "bytes": DATA},
        "mapping of bytes alone": {"bytes": DATA},
        "mapping of path alone": {"path": path},
        "PIL image": PIL.Image.open(io.BytesIO(DATA)),
        "array": np.asarray(photo()),
        "tensor": torch.from_numpy(pixels(photo().height, photo().width, 3)).permute(2, 0, 1),
    }


@pytest.mark.parametrize("form", every_form(pathlib.Path("/x")))
def test_every_form_gives_the_same(form, path):
    reference = every_form(path)[form]
    for given_reference in (reference, to_stored(reference)):
        info = probe_image(given_reference, MediaOptions())
        assert (3, info.height, info.width) == PIXELS.shape
        assert torch.equal(decode_image(given_reference, MediaOptions()), PIXELS)


def test_urls_of_other_filesystems(memory_url, path, tmp_path):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "inner/photo.png")
    for url in (memory_url, f"zip://inner/photo.png::{archive}"):
        assert torch.equal(decode_image(url, MediaOptions()), PIXELS)
        assert probe_image(url, MediaOptions()).width == photo().width
        assert to_stored(url) == {"bytes": None, "path": url}


def test_relative_paths_start_at_the_media_root(path, monkeypatch):
    root, name = path.parent, path.name
    assert torch.equal(decode_image(name, MediaOptions(media_root=str(root))), PIXELS)
    assert torch.equal(decode_image({"path": name}, MediaOptions(media_root=str(root))), PIXELS)
    assert torch.equal(decode_image(str(path), MediaOptions(media_root="/elsewhere")), PIXELS)
    with pytest.raises(MediaNotFoundError, match="media_root"):
        probe_image(name, MediaOptions(media_root="/elsewhere"))
    monkeypatch.chdir(root)
    assert torch.equal(decode_image(name, MediaOptions()), PIXELS)


def test_local_files_are_not_read_whole(tmp_path):
    # The rest of the file is a hole of 1 TiB that nobody could read.
    path = tmp_path / "huge.bmp"
    path.write_bytes(encode(photo(), "BMP"))
    os.truncate(path, 2**40)
    assert probe_image(path, MediaOptions(byte_limit=2**41)).width == photo().width


def test_file_objects_are_given_back_as_they_were(path):
    with path.open("rb") as file:
        file.seek(11)
        assert probe_image(file, MediaOptions()).width == photo().width
        assert file.tell() == 11
        assert torch.equal(decode_image(file, MediaOptions()), PIXELS)
        assert to_stored(file) == {"bytes": DATA, "path": None}
        with open_source(file, MediaOptions()) as opened:
            assert opened.tell() == 0
            assert opened.read() == DATA
        assert not file.closed
        assert file.tell() == 11


def test_local_paths_that_are_no_file(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for reference, message in [
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "a directory"),
        (fifo, r"named pipe"),
        ("/dev/null", "a device"),
        (tmp_path / ("x" * 300), "too long"),
        ((tmp_path / "missing.png").as_uri(), "no such file"),
    ]:
        for function in (probe_image, decode_image):
            with pytest.raises(MediaNotFoundError, match=message) as caught:
                function(reference, MediaOptions())
            assert "fifo" not in message or "fifo" in str(caught.value)


def test_permission_denied(path, monkeypatch):
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    if os.geteuid() == 0:  # root may read everything
        monkeypatch.setattr(os, "open", refuse)
    path.chmod(0)
    with pytest.raises(MediaNotFoundError, match="permission denied"):
        probe_image(path, MediaOptions())


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "None: not a media reference"),
        (3, "type int"),
        ([], "type list"),
        (["a.png"], "type list"),
        ("", "empty"),
        ("a\0b.png", "null character"),
        (b"x".__class__, "type type"),
        ({}, "none: a media mapping needs"),
        ({"path": None, "bytes": None}, "both are missing or None"),
        ({"url": "x"}, "keys url"),
        ({"bytes": "text"}, "must be bytes, got str"),
        ({"path": 3}, "must be a str, got int"),
        ({"path": {"path": "x"}}, "must be a str, got dict"),
        (io.StringIO("text"), "text mode"),
        ("data:image/png;base64,@@@@", "not valid base64"),
        ("data:image/png,plain", "data:<media type>;base64"),
        ("data:", "data:<media type>;base64"),
        ("file://server/share/photo.png", "this host"),
        ("nosuchprotocol://x/y.png", "cannot be used"),
        ("http://localhost/x.png", "allow_http"),
        ("HTTPS://localhost/x.png", "allow_http"),
        ("zip://x.png::http://localhost/a.zip", "allow_http"),
        ("simplecache::https://localhost/x.png", "allow_http"),
    ],
)
def test_values_that_are_no_reference(reference, message):
    for function in (probe_image, decode_image):
        with pytest.raises(MediaReferenceError, match=message):
            function(reference, MediaOptions())


@pytest.mark.parametrize("use", [probe_image, decode_image, lambda file, _: to_stored(file)])
def test_files_without_an_end_and_without_bytes_are_refused(use):
    for file in (EndlessFile(b"", b"\xff\xd8\xff"), io.StringIO("text"), SilentFile(b"data")):
        with pytest.raises(MediaReferenceError, match="the file object"):
            use(file, MediaOptions())


def test_files_that_fail_while_they_are_read(image_file):
    data = image_file(300, 200).read_bytes()
    with pytest.raises(MediaDecodeError, match="Input/output error"):
        decode_image(FailingFile(data), MediaOptions())
    with pytest.raises(MediaNotFoundError, match="Input/output error"):
        to_stored(FailingFile(data))


def test_files_that_cannot_be_rewound():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file, os.fdopen(writer, "wb"), pytest.raises(MediaReferenceError, match="rewound"):
        open_source(file, MediaOptions())
    closed = io.BytesIO(DATA)
    closed.close()
    with pytest.raises(MediaReferenceError, match="rewound"):
        probe_image(closed, MediaOptions())


def test_missing_urls(memory_url):
    with pytest.raises(MediaNotFoundError, match="nothing is stored"):
        probe_image(memory_url + ".missing", MediaOptions())


def test_http_where_it_is_allowed(path):
    pytest.importorskip("aiohttp", reason="fsspec opens http(s) with aiohttp")
    handler = functools.partial(_QuietHandler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        options = MediaOptions(allow_http=True, allow_private_addresses=True)
        assert torch.equal(decode_image(f"{base}/photo%20with%20space.png", options), PIXELS)
        with pytest.raises(MediaNotFoundError):
            decode_image(f"{base}/missing.png", options)
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_descriptions_are_short_and_show_no_content(path):
    with path.open("rb") as file:
        assert describe_source(file) == f"file object {path}"
    assert describe_source("photo.jpg") == "photo.jpg"
    assert describe_source(b"x" * 12345) == "bytes (12,345 B)"
    assert describe_source(memoryview(b"x" * 5)) == "bytes (5 B)"
    assert describe_source({"bytes": b"x" * 5, "path": None}) == "bytes (5 B)"
    assert describe_source({"bytes": b"x" * 5, "path": "photo.jpg"}) == "photo.jpg"
    assert describe_source(PIL.Image.new("L", (640, 480))) == "PIL image 640x480"
    assert describe_source(np.zeros((3, 4, 5), np.uint8)) == "array (3, 4, 5) uint8"
    assert describe_source(torch.zeros(3, 4, 5, dtype=torch.uint8)) == "tensor (3, 4, 5) uint8"
    assert describe_source(data_uri()) == f"data: URI image/png ({len(data_uri()):,} characters)"
    assert describe_source("s3://key:secret@bucket/x.png?X-Signature=abc") == "s3://bucket/x.png"
    assert describe_source(None) == "None"
    assert describe_source({"path": {"path": {}}}) == "mapping with the keys path"


@given(st.one_of(st.text(), st.binary(), st.dictionaries(st.text(max_size=5), st.text()), st.none(), st.integers()))
def test_descriptions_never_fail_and_never_grow(reference):
    assert len(describe_source(reference)) < 200


def test_errors_cross_process_boundaries(tmp_path):
    with pytest.raises(MediaNotFoundError) as caught:
        probe_image(tmp_path / "missing.png", MediaOptions())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# What Arrow stores


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
def test_stored_pil_images_keep_their_pixels(mode):
    image = photo(mode)
    stored = to_stored(image)
    assert set(stored) == {"bytes", "path"}
    assert torch.equal(decode_image(stored, MediaOptions()), oracle(image))


@pytest.mark.parametrize("name", every_format())
@pytest.mark.parametrize("loaded", [False, True])
def test_stored_opened_images_keep_their_pixels(name, loaded, tmp_path):
    data = every_format_cached()[name]
    path = tmp_path / "image"
    path.write_bytes(data)
    for reference in (io.BytesIO(data), path):
        image = PIL.Image.open(reference)
        if loaded:
            image.load()
        stored = to_stored(image)
        assert (stored["path"] == str(path)) == (reference is path and not loaded and name != "ico")
        assert torch.equal(decode_image(stored, MediaOptions()), oracle(data))


every_format_cached = functools.cache(every_format)


@pytest.mark.parametrize("name", every_orientation(6))
def test_stored_images_are_turned(name):
    data = every_orientation(6)[name]
    assert torch.equal(decode_image(to_stored(PIL.Image.open(io.BytesIO(data))), MediaOptions()), oracle(data))


def test_images_changed_in_memory_are_stored_as_changed(path):
    painted, shrunk, later = PIL.Image.open(path), PIL.Image.open(path), photo("P")
    painted.paste((1, 2, 3), (0, 0, 9, 9))
    shrunk.thumbnail((8, 8))
    frames = io.BytesIO(encode(later, "GIF", save_all=True, append_images=[later.rotate(180)]))
    frame = PIL.Image.open(frames)
    frame.seek(1)
    jpeg = path.with_suffix(".jpg")
    jpeg.write_bytes(encode(photo(height=64, width=64), "JPEG"))
    draft = PIL.Image.open(jpeg)
    draft.draft("RGB", (16, 16))
    for image in (painted, shrunk, frame, draft):
        stored = to_stored(image)
        assert stored["path"] is None
        assert torch.equal(decode_image(stored, MediaOptions()), oracle(image))


def test_stored_mappings_have_the_two_keys_only():
    assert to_stored({"bytes": DATA, "path": "a.png", "more": 1}) == {"bytes": DATA, "path": "a.png"}
    assert to_stored({"path": "a.png", "more": 1}) == {"bytes": None, "path": "a.png"}
    assert to_stored({"path": None, "bytes": bytearray(DATA)}) == {"bytes": DATA, "path": None}


@pytest.mark.parametrize("reference", [None, 3, {}, [], {"path": None, "bytes": None}, np.zeros((4, 4)), ""])
def test_what_is_no_reference_is_not_stored(reference):
    with pytest.raises(MediaReferenceError):
        to_stored(reference)
