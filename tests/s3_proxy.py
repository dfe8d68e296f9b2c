"""A server between the code and the tests' S3 that refuses what a test wants it to refuse."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_BODY = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>no</Message></Error>"


class S3Proxy:
    """Counts requests, and answers the next `times` of a method with an error.

    Args:
        target: The endpoint of the S3 behind it.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.seen: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.rules: dict[str, tuple[int, int, str]] = {}
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                proxy.answer(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def refuse(self, kind: str, times: int, status: int, code: str) -> None:
        """Refuse the next `times` requests of a kind: GET, PUT, HEAD, LIST, POST or DELETE."""
        self.rules[kind] = (times, status, code)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        kind = "LIST" if request.command == "GET" and "list-type=2" in request.path else request.command
        with self.lock:
            self.seen[kind] += 1
            left, status, code = self.rules.get(kind, (0, 0, ""))
            if left:
                self.rules[kind] = (left - 1, status, code)
                self.refused[kind] += 1
        if left:
            text = _BODY.format(code).encode()
            request.send_response(status)
            request.send_header("Content-Length", str(len(text)))
            request.send_header("Content-Type", "application/xml")
            request.end_headers()
            if kind != "HEAD":
                request.wfile.write(text)
            return
        behind = http.client.HTTPConnection(self.target, timeout=60)
        behind.request(request.command, request.path, body, dict(request.headers))
        reply = behind.getresponse()
        data = reply.read()
        request.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                request.send_header(name, value)
        length = reply.getheader("Content-Length") if kind == "HEAD" else str(len(data))
        request.send_header("Content-Length", length or "0")
        request.end_headers()
        if kind != "HEAD":
            request.wfile.write(data)
        behind.close()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
