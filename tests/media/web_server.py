"""A web server on this machine that gives files in ranges, counts what it gives, and fails as told."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal[
    "none", "no ranges", "ranges refused", "no length", "closes", "short", "long", "ends early", "silent", "refuses"
]


@dataclass
class WebServer:
    """Files by path, and what was asked for.

    Attributes:
        address: `http://127.0.0.1:PORT`.
        files: Content of each path.
        fault: How it fails: it ignores `Range` or says that it has none, does not say how long files are, closes the
            connection in the middle, states more or fewer bytes than there are, ends ranges early, never answers, or
            refuses.
        etags: Whether it says which version of a file it has.
        requests: The method and range of each request.
        num_bytes: Bytes of content that were sent.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    fault: Fault = "none"
    etags: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    num_bytes: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, path: str, data: bytes) -> str:
        """Serves a file; gives its URL."""
        self.files[path.partition("?")[0]] = data
        return f"{self.address}/{path}"

    def forget(self) -> None:
        """Counts from nothing again."""
        self.requests.clear()
        self.num_bytes = 0


@contextmanager
def serving() -> Iterator[WebServer]:
    state = WebServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_content=False)

        def do_GET(self) -> None:
            self.answer(with_content=True)

        def answer(self, *, with_content: bool) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.command, wanted))
            if state.fault == "silent":
                state.closing.wait()
                self.close_connection = True
                return
            data = state.files.get(self.path.lstrip("/").partition("?")[0])
            if data is None or state.fault == "refuses":
                self.send_response(404 if data is None else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            part = self.start_answer(data, wanted, with_content=with_content)
            self.end_headers()
            if with_content:
                self.send(part)

        def start_answer(self, data: bytes, wanted: str | None, *, with_content: bool) -> bytes:
            stated = len(data) + {"short": 100_000, "long": -len(data) // 2}.get(state.fault, 0)
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
            if found and state.fault not in ("no ranges", "no length", "ranges refused"):
                start, end = int(found[1]), min(int(found[2]) + 1, stated)
                part = data[start:end]
                if state.fault == "ends early":
                    part = part[: len(part) // 2]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{stated}")
                self.send_header("Content-Length", str(len(part)))
            else:
                part = data
                self.send_response(200)
                if state.fault == "no length":
                    self.close_connection = True
                    self.send_header("Connection", "close")
                else:
                    self.send_header("Content-Length", str(len(part) if with_content else stated))
                if state.fault == "ranges refused":
                    self.send_header("Accept-Ranges", "none")
            if state.etags:
                self.send_header("ETag", f'"{hash(data):x}"')
            return part

        def send(self, part: bytes) -> None:
            if state.fault == "closes":
                part = part[: len(part) // 2]
                self.close_connection = True
            state.num_bytes += len(part)
            try:
                self.wfile.write(part)
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
