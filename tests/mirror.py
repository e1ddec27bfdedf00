"""A server on this machine that holds one file and misbehaves as told."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY, REVISION, FILE = "someone/a-model", "0123abc", "model.safetensors"


class Mirror(ThreadingHTTPServer):
    """Serves `content` at /someone/a-model/resolve/0123abc/model.safetensors, 404 elsewhere.

    cut: bytes after which each answer breaks off. ranges: whether it knows them. statuses: answered first, one by one.
    length: whether it says how long an answer is. shift: of the ranges it answers with. asked: the Range of each
    request, None where there was none. elsewhere: a server it sends everyone to, as the hub does.
    """

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.cut: int | None = None
        self.ranges, self.length, self.shift = True, True, 0
        self.statuses: list[int] = []
        self.elsewhere: Mirror | None = None
        self.asked: list[str | None] = []

    def handle_error(self, request, client_address):
        """A client that hangs up is nothing to report; anything else would fail the test that asked."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Mirror
    timeout = 10

    def do_GET(self):
        mirror, wanted = self.server, self.headers.get("Range")
        mirror.asked.append(wanted)
        if mirror.statuses:
            return self.send_error(mirror.statuses.pop(0))
        if mirror.elsewhere:
            self.send_response(302)
            self.send_header("Location", f"{mirror.elsewhere.url}/{FILE}")
            return self.end_headers()
        if self.path not in (f"/{REPOSITORY}/resolve/{REVISION}/{FILE}", f"/{FILE}"):
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and mirror.ranges else 0
        if start and start >= len(mirror.content):
            return self.send_error(416)
        start += mirror.shift if start else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(mirror.content) - 1}/{len(mirror.content)}")
        if mirror.length:
            self.send_header("Content-Length", str(len(mirror.content) - start))
        self.end_headers()
        self.wfile.write(mirror.content[start:][: mirror.cut])

    def log_message(self, *_):
        pass
