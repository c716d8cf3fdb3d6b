"""The page answers this machine alone, within limits, with what predict says."""

import argparse
import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cfpn.prediction import predict
from pipeline import demo
from pipeline.pictures import detect
from pipeline.pictures.answers import load_model
from tests.pipeline.page import browser
from tests.pipeline.pictures.made import HTML, encoded, face, grey, write_weights


@pytest.fixture
def server(tmp_path: Path) -> Iterator[demo.Server]:
    model = load_model(str(write_weights(tmp_path / "small.safetensors")))
    with demo.Server(demo.Service(model), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: demo.Server, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(demo.LOOPBACK, server.server_port, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


def posted(server: demo.Server, body: bytes, path: str = "/predict", **headers: str) -> tuple[int, dict[str, Any]]:
    status, _, text = ask(server, "POST", path, body, **headers)
    return status, json.loads(text)


def test_the_page_loads_nothing_from_elsewhere(server: demo.Server) -> None:
    status, headers, page = ask(server, "GET", "/")
    assert status == 200
    assert b"Drop a picture" in page
    assert b"://" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask(server, "GET", "/../pyproject.toml")[0] == 404


def test_the_server_listens_on_the_loopback_address_alone(server: demo.Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_picture_gets_the_answer_of_predict_with_every_units_opinion(server: demo.Server) -> None:
    status, found = posted(server, encoded(grey(), "PNG"))
    network = server.service.model.network
    (own,) = found["faces"]
    assert status == 200
    expected = dict(zip(network.names, predict(network, face()[None])[0].tolist(), strict=True))
    assert own["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert list(own["units"]) == [unit.name for unit in network.units]
    assert found["picture"].startswith("data:image/png;base64,")
    assert "sha256" in found["weights"]


def test_a_picture_in_which_no_face_is_found_can_be_taken_for_one(
    server: demo.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "available", lambda: True)
    monkeypatch.setattr(detect, "find", lambda image: [])
    large = encoded(grey().resize((300, 300)), "PNG")
    status, found = posted(server, large)
    assert (status, found["error"]) == (422, "the picture: no face found; if the picture is one face, say so above")
    status, found = posted(server, large, "/crop")
    assert status == 200
    assert [one["how"] for one in found["faces"]] == ["taken as a face crop"]


@pytest.mark.parametrize("body", [b"", HTML, encoded(grey(), "PNG")[:200]])
def test_what_is_no_picture_is_told_in_one_line(server: demo.Server, body: bytes) -> None:
    status, found = posted(server, body)
    assert status == 422
    assert found["error"].startswith("the picture: ")


def test_another_site_cannot_ask(server: demo.Server) -> None:
    picture = encoded(grey(), "PNG")
    assert posted(server, picture, Origin="https://example.org")[0] == 403
    assert posted(server, picture, Host="example.org")[0] == 403
    assert ask(server, "GET", "/", Host="example.org")[0] == 403
    assert posted(server, picture, Origin="http://[")[0] == 403
    assert posted(server, picture, Host="127.0.0.1")[0] == 403
    assert posted(server, picture, Origin=f"http://127.0.0.1:{server.server_port}")[0] == 200


def test_at_the_port_of_http_the_page_is_asked_for_without_one(
    server: demo.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "HTTP", server.server_port)
    assert ask(server, "GET", "/", Host="127.0.0.1")[0] == 200
    assert ask(server, "GET", "/", Host="example.org")[0] == 403


@pytest.mark.parametrize("text", ["-1", "65536", "http", ""])
def test_a_port_that_cannot_be_is_refused(text: str) -> None:
    assert demo.port("65535") == 65535
    with pytest.raises(argparse.ArgumentTypeError, match="expected 0 to 65535"):
        demo.port(text)


def test_an_upload_that_is_too_large_is_refused_unread(server: demo.Server) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Length: 99999999\r\n\r\n"
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(100)


@pytest.mark.parametrize("megabytes", [11, 60])
def test_who_sends_too_much_reads_why(server: demo.Server, megabytes: int) -> None:
    status, found = posted(server, bytes(megabytes * 10**6))
    assert (status, found) == (413, {"error": "more than 10 MB"})


def test_an_upload_that_does_not_come_is_given_up(server: demo.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.Handler, "timeout", 0.2)
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(head.encode())
        assert b" 408 " in connection.recv(100)


def test_no_more_uploads_wait_than_there_are_places(server: demo.Server) -> None:
    for _ in range(demo.WAITING):
        server.service.places.acquire()
    assert posted(server, encoded(grey(), "PNG"))[0] == 503
    server.service.places.release()
    assert posted(server, encoded(grey(), "PNG"))[0] == 200
    assert posted(server, HTML)[0] == 422  # and a place that was used is free again
    assert posted(server, encoded(grey(), "PNG"))[0] == 200


def page_of(server: demo.Server, page: browser.Page) -> None:
    """Open the page of `server` in a browser."""
    page.ask("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/")
    while not any(event.get("method") == "Page.loadEventFired" for event in page.events):
        page.events.append(page.read())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, str]]:
    """What the service is asked: pictures, and how they are searched for faces."""
    found: list[tuple[bytes, str]] = []

    def answer(service: demo.Service, data: bytes, search: str) -> dict[str, Any]:
        found.append((data, search))
        return {"error": "none"}

    monkeypatch.setattr(demo.Service, "answer", answer)
    return found


TOLD = """(async () => { while (at("status").textContent) await new Promise((go) => setTimeout(go, 10)); })()"""
SENT = """(async () => {
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  await send(new Blob([bytes], {type: "image/png"}));
  const image = document.getElementById("picture");
  await image.decode();
  return {wide: image.naturalWidth, error: document.getElementById("error").textContent,
    rows: [...document.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent))};
})()"""


@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_a_browser_shows_the_picture_and_a_row_per_unit(server: demo.Server) -> None:
    network = server.service.model.network
    with browser.browser() as page:
        page_of(server, page)
        found = page.run(SENT % base64.b64encode(encoded(grey(), "PNG")).decode())
        assert page.complaints() == []
    expected = predict(network, face()[None])[0]
    assert (found["wide"], found["error"]) == (480, "")
    assert [row[0] for row in found["rows"]] == ["unit", *(unit.name for unit in network.units), "vote"]
    by_name = dict(zip(found["rows"][0], found["rows"][-1], strict=True))
    assert [by_name[name] for name in network.names] == [f"{value:.2f}" for value in expected.tolist()]


@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_the_box_on_the_page_takes_the_picture_that_is_there_for_one_face(
    server: demo.Server, asked: list[tuple[bytes, str]]
) -> None:
    with browser.browser() as page:
        page_of(server, page)
        page.run("send(new Blob(['face'])).then(() => at('crop').click())")
        page.run(TOLD)
    assert [search for _, search in asked] == ["auto", "crop"]


@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_a_file_can_be_chosen_twice_and_two_clicks_open_one_camera(
    server: demo.Server, asked: list[tuple[bytes, str]]
) -> None:
    with browser.browser() as page:
        page_of(server, page)
        page.run(CHOSEN)
        page.run(TOLD)
        assert page.run("at('file').value") == ""  # else the browser would tell of no change
        assert page.run(CLICKED) == 1
    assert [data for data, _ in asked] == [b"face"]


CHOSEN = """(async () => {
  const data = new DataTransfer();
  data.items.add(new File(["face"], "face.png"));
  at("file").files = data.files;
  at("file").dispatchEvent(new Event("change"));
})()"""
CLICKED = """(async () => {
  let opened = 0;
  navigator.mediaDevices.getUserMedia = () => { opened++; return new Promise(() => {}); };
  at("camera").click();
  at("camera").click();
  return opened;
})()"""
