"""Command `demo`: one page on this machine's loopback address that shows what the network says of a picture.

`python -m pipeline.demo` serves it until it is interrupted. No other machine can reach it, and it keeps no picture.
An upload has at most 10 MB and 20 seconds; one is worked on at a time, and four wait.
"""

import argparse
import base64
import io
import json
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from cfpn import weights
from pipeline.pictures import detect
from pipeline.pictures import open as pictures
from pipeline.pictures.annotate import annotate
from pipeline.pictures.answers import Model, answers, load_model
from pipeline.pictures.sources import Item, Reader, Search
from pipeline.pictures.writers import FOUND, TAKEN, drawn
from pipeline.process import InputError, command_line, run

LOOPBACK, PORT = "127.0.0.1", 8848
HTTP, LAST_PORT = 80, 65535
FOLDER = Path(pictures.__file__).parent
FILES = {"/": "demo.html", "/page.js": "page.js", "/answers.js": "server.js"}  # path -> file in FOLDER
SEARCHES: dict[str, Search] = {"/predict": "auto", "/crop": "crop"}  # path of an upload -> how it is searched for faces
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
LARGEST = 10_000_000  # bytes of an upload
SECONDS = 20.0  # in which an upload must be here
LINGER = 2.0  # seconds in which a refused one may still arrive, so that its sender reads why
ADVICE = "; if the picture is one face, say so above"
WAITING = 5  # uploads at once, the one that is worked on included
CHUNK = 1 << 16
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class RefusedError(Exception):
    """An upload that is not answered: the status and the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Service:
    """The network behind the page; one picture at a time."""

    model: Model
    places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(WAITING))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, data: bytes, search: Search = "auto") -> dict[str, Any]:
        """What the page shows of a picture file; raises InputError where it is none, or holds no face.

        search: for faces, as in `Reader`.
        """
        remarks: list[str] = []
        network, remark = self.model.network, remarks.append
        reader = Reader(network.channels, search, remark, remark, side=detect.side_of(network), advice=ADVICE)
        with self.lock:
            items = list(reader.item(pictures.read(io.BytesIO(data), "the picture")))
            if not items:
                raise InputError("; ".join(remarks))
            return self.described(items[0])

    def described(self, item: Item) -> dict[str, Any]:
        """The annotated picture and its faces, as JSON values."""
        found = answers(self.model, torch.tensor(item.pixels), explained=True)
        file = io.BytesIO()
        annotate(item.image, drawn(item, found)).save(file, "PNG")
        how = "; ".join((FOUND if item.found else TAKEN, *item.notes))
        return {
            "weights": f"weights {self.model.name}, sha256 {self.model.sha256[:12]}",
            "picture": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(),
            "faces": [
                {"expression": one.expression, "probabilities": one.probabilities, "units": one.units, "how": how}
                for one in found
            ],
        }


class Server(ThreadingHTTPServer):
    """A server that this machine alone can reach."""

    daemon_threads = True

    def __init__(self, service: Service, port: int = PORT) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.service = service

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as its base class has it
        """Say nothing of a browser that has gone away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """GET gives the page's files; POST to a path of SEARCHES takes a picture file and answers with JSON."""

    server: Server
    timeout = SECONDS  # of a single read

    def do_GET(self) -> None:
        """A file of the page."""
        if not self.is_ours():
            expected = f"this page is at {LOOPBACK}:{self.server.server_port} alone"
            self.reply(HTTPStatus.FORBIDDEN, "text/plain", expected.encode())
        elif (name := FILES.get(self.path)) is not None:
            file = FOLDER / name
            self.reply(HTTPStatus.OK, KINDS[file.suffix], file.read_bytes())
        else:
            self.reply(HTTPStatus.NOT_FOUND, "text/plain", b"there is nothing here")

    def do_POST(self) -> None:
        """An answer to a picture."""
        status, found, refused = HTTPStatus.OK, dict[str, Any](), False
        try:
            found = self.predict()
        except RefusedError as error:
            status, found = error.status, {"error": str(error)}
            self.close_connection = refused = True
        except InputError as error:
            status, found = HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)}
        self.reply(status, "application/json", json.dumps(found).encode())
        if refused:
            self.linger()

    def linger(self) -> None:
        """Take in what the other side still sends: to close before that breaks its connection and hides the answer."""
        end = time.monotonic() + LINGER
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER)
            while time.monotonic() < end and self.rfile.read1(CHUNK):
                pass

    def predict(self) -> dict[str, Any]:
        """What the service says of the picture in the body."""
        if not self.is_ours():
            raise RefusedError(HTTPStatus.FORBIDDEN, "asked from another page")
        search = SEARCHES.get(self.path)
        if search is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here")
        service = self.server.service
        if not service.places.acquire(blocking=False):
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, f"{WAITING} pictures are waiting; try again")
        try:
            return service.answer(self.body(), search)
        finally:
            service.places.release()

    def is_ours(self) -> bool:
        """Whether the page itself asks: no other site may, by a name that leads here or from a page of its own."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        port = self.server.server_port
        names = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
        names |= {LOOPBACK, "localhost"} if port == HTTP else set()  # browsers leave this port out
        try:
            return host in names and (origin is None or urlsplit(origin).netloc in names)
        except ValueError:  # no address
            return False

    def body(self) -> bytes:
        """The body, within its limits of size and time."""
        try:
            length = int(self.headers["Content-Length"])
        except (TypeError, ValueError) as error:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length") from error
        if not 0 <= length <= LARGEST:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LARGEST // 10**6} MB")
        parts, left, end = [], length, time.monotonic() + SECONDS
        while left:
            try:
                part = self.rfile.read1(min(left, CHUNK))
            except TimeoutError:
                part = b""
            if not part or time.monotonic() > end:
                raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"the picture was not here within {SECONDS:.0f} seconds")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep still: what people look at is nobody's business."""


def port(text: str) -> int:
    """A port's number; raises argparse.ArgumentTypeError where there is no such port."""
    if not text.isdecimal() or int(text) > LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected 0 to {LAST_PORT}, found {text!r}")
    return int(text)


def main() -> None:
    """Command line."""
    parser = command_line("python -m pipeline.demo", __doc__, "example: python -m pipeline.demo --port 8000")
    parser.add_argument("--weights", default=weights.BEST, metavar="NAME|FILE", help="default: %(default)s")
    parser.add_argument("--port", type=port, default=PORT, help="0: any that is free (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with Server(Service(load_model(args.weights)), args.port) as server:
        print(f"http://{LOOPBACK}:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run(main)
