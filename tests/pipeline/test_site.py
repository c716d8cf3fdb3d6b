"""The demo as a folder answers in the browser as predict does, and asks nobody."""

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cfpn.faces import per_pass
from cfpn.prediction import predict, unit_log_probabilities
from pipeline import demo, site
from pipeline.pictures import detect, explain
from pipeline.pictures.answers import Model, load_model
from pipeline.pictures.open import read
from pipeline.process import InputError
from tests.pipeline.page import browser
from tests.pipeline.pictures.made import HTML, MODEL, coloured, encoded, face, grey, write_weights

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed)
NPM = Path(__file__).resolve().parents[2] / ".npm"
FETCH = f"{site.PACKAGE} {site.VERSION} is not here; fetch it with: make demo"
there = pytest.mark.skipif(
    not (NPM / f"{site.PACKAGE}-{site.VERSION}.tgz").is_file() and shutil.which("npm") is None, reason=FETCH
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter's own parts


def package(path: Path, members: dict[str, bytes]) -> str:
    """Write an npm package; returns its hash as npm tells it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def pixels() -> torch.Tensor:
    return torch.from_numpy(np.stack([face(number) for number in range(3)]))[:, None]


def test_a_package_with_another_hash_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    package(tmp_path / "it.tgz", dict.fromkeys(site.MEMBERS.values(), b"other"))
    model = load_model(str(write_weights(tmp_path / "small.safetensors")))
    with pytest.raises(InputError, match=r"expected onnxruntime-web .* with sha512"):
        site.write(model, tmp_path / "demo", tmp_path / "it.tgz", pixels())
    assert not (tmp_path / "demo").exists()


def test_a_network_of_coloured_faces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(write_weights(tmp_path / "small.safetensors")))
    monkeypatch.setattr(model.network, "channels", 3)
    with pytest.raises(InputError, match="expected a network of grey faces, found 3 channels"):
        site.write(model, tmp_path / "demo", tmp_path / "none.tgz", pixels())


def test_without_npm_the_package_that_is_there_is_taken_and_else_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="npm is not installed; apt-get install -y npm"):
        site.fetched(tmp_path)
    own = tmp_path / f"{site.PACKAGE}-{site.VERSION}.tgz"
    own.write_bytes(b"")
    assert site.fetched(tmp_path) == own


def test_an_npm_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text("#!/bin/sh\necho no such registry >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(InputError, match="no such registry") as caught:
        site.fetched(tmp_path / "kept")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["demo.html", "page.js", "server.js", "browser.js"])
def test_the_pages_files_name_no_other_host(name: str) -> None:
    assert "://" not in (demo.FOLDER / name).read_text()


def test_the_page_may_load_from_its_own_folder_alone() -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', (demo.FOLDER / "demo.html").read_text())
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert {source for rule in rules.values() for source in rule.split()} == {
        "'none'", "'self'", "'unsafe-inline'", "'wasm-unsafe-eval'", "data:"
    }  # fmt: skip
    assert rules["connect-src"] == "'self'"
    assert "'unsafe-inline'" not in rules["script-src"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_weights(tmp_path_factory.mktemp("weights") / "small.safetensors")))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[browser.Page]:
    """The folder in a browser, whose file server has ended before the first picture is answered."""
    folder = tmp_path_factory.mktemp("site")
    try:
        site.write(model, folder, site.fetched(NPM), pixels())
    except InputError as error:
        pytest.skip(f"{FETCH} ({error})")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with browser.browser() as tab:
            tab.ask("Network.enable")
            tab.ask("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/")
            while not any(event.get("method") == "Page.loadEventFired" for event in tab.events):
                tab.events.append(tab.read())
            tab.run("loaded.then(() => null)")
            server.shutdown()
            server.server_close()
            thread.join()
            yield tab
            own = f"http://127.0.0.1:{server.server_port}/"
            asked = [event["params"]["request"]["url"] for event in tab.events if event.get("method") == SENT]
            assert asked
            assert {url for url in asked if not url.startswith((own, "data:"))} == set()


SENT = "Network.requestWillBeSent"
ANSWER = """(async () => answer(new Blob([Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0))])))()"""


def answered(page: browser.Page, data: bytes) -> dict[str, Any]:
    return page.run(ANSWER % base64.b64encode(data).decode())


def crop(data: bytes) -> torch.Tensor:
    """The middle square as predict takes it, (1, 1, 48, 48)."""
    image = read(io.BytesIO(data), "it").image
    return torch.tensor(detect.cut(image, detect.middle(image), 1))[None]


def clear(number: int) -> Image.Image:
    """A drawn face whose right half lets white through."""
    picture = grey(number=number).convert("RGBA")
    picture.paste((0, 0, 0, 0), (24, 0, 48, 48))
    return picture


PICTURES = {
    "a face": encoded(grey(), "PNG"),
    "another": encoded(grey(number=4), "PNG"),
    "larger and coloured": encoded(coloured(301, 200), "PNG"),
    "between sizes": encoded(grey(61, 3), "PNG"),
    "smaller": encoded(grey(30, 2), "PNG"),
    "transparent": encoded(clear(5), "PNG"),
}


@there
@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
@pytest.mark.parametrize("name", PICTURES)
def test_the_browser_says_of_a_picture_what_predict_says(page: browser.Page, model: Model, name: str) -> None:
    found = answered(page, PICTURES[name])
    network, pixels = model.network, crop(PICTURES[name])
    (own,) = found["faces"]
    expected = dict(zip(network.names, predict(network, pixels)[0].tolist(), strict=True))
    assert own["probabilities"] == pytest.approx(expected, abs=1e-4)
    assert own["expression"] == max(expected, key=expected.__getitem__)
    units = {name: logs[0].exp().tolist() for name, logs in unit_log_probabilities(network, pixels).items()}
    assert own["units"].keys() == units.keys()
    for unit, values in units.items():
        assert own["units"][unit] == pytest.approx(dict(zip(network.names, values, strict=True)), abs=1e-4)


@there
@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_the_browser_explains_as_predict_does(page: browser.Page, model: Model) -> None:
    chosen = int(predict(model.network, pixels()[:1])[0].argmax())
    script = f"importance(Uint8Array.from({json.dumps(face().ravel().tolist())}), {chosen}).then((found) => [...found])"
    found = np.reshape(page.run(script), (48, 48))
    expected = explain.importance(model.network, pixels()[:1], torch.tensor([chosen]))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())  # it blurs in 8 bits


@there
@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_the_browser_explains_every_pixel_whatever_the_step_of_the_patches(
    page: browser.Page, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "STEP", 7)  # which does not divide 48 - 8
    script = f"""loaded.then(async ({{ about }}) => {{ const before = about.step; about.step = 7; try {{
        return [...await importance(Uint8Array.from({json.dumps(face().ravel().tolist())}), 0)];
    }} finally {{ about.step = before; }} }})"""
    found = np.reshape(page.run(script), (48, 48))
    expected = explain.importance(model.network, pixels()[:1], torch.tensor([0]))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


@there
@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_how_many_faces_are_asked_at_once_changes_no_explanation(page: browser.Page) -> None:
    script = f"""loaded.then(async ({{ about, session }}) => {{
      const before = about.at_once, run = session.run, most = [], explain = async (count) => {{
        about.at_once = count;
        return [...await importance(Uint8Array.from({json.dumps(face().ravel().tolist())}), 0)];
      }};
      session.run = (given) => {{ most.push(given.pixels.dims[0]); return run.call(session, given); }};
      try {{ return {{ one: await explain(50), other: await explain(before), most }}; }}
      finally {{ about.at_once = before; session.run = run; }} }})"""
    found = page.run(script)
    assert found["most"] == [50, 50, 22, 122]
    np.testing.assert_allclose(found["one"], found["other"], atol=1e-6)


@there
@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_classes_that_are_numbers_are_told_as_they_are(page: browser.Page, model: Model) -> None:
    own, numbers = json.dumps(model.network.names), json.dumps([str(place) for place in range(7)])
    assert any(predict(model.network, crop(PICTURES[name]))[0].argmax() > 0 for name in PICTURES)
    for name in PICTURES:
        page.run(f"loaded.then(({{ about }}) => {{ about.classes = {numbers}; }})")
        (found,) = answered(page, PICTURES[name])["faces"]
        page.run(f"loaded.then(({{ about }}) => {{ about.classes = {own}; }})")
        assert found["expression"] == str(int(predict(model.network, crop(PICTURES[name]))[0].argmax()))


@there
@pytest.mark.browser
@pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL)
def test_the_page_shows_the_answer_and_tells_what_is_no_picture(page: browser.Page, model: Model) -> None:
    shown = """(async () => {{ await send(new Blob([Uint8Array.from(atob("{}"), (c) => c.charCodeAt(0))]));
      return {{ error: at("error").textContent, weights: at("weights").textContent,
        status: at("status").textContent, hidden: at("picture").hidden, asks: at("crop").checkVisibility(),
        rows: document.querySelectorAll("tr").length }}; }})()"""
    found = page.run(shown.format(base64.b64encode(PICTURES["a face"]).decode()))
    assert found.pop("status").startswith("1 face: ")
    assert found == {
        "error": "",
        "weights": f"weights {model.name}, sha256 {model.sha256[:12]}",
        "hidden": False,
        "asks": False,
        "rows": len(model.network.units) + 2,
    }
    tiny = encoded(Image.new("L", (20, 30)), "PNG")
    for data, error in ((HTML, "no picture that this browser reads"), (tiny, "20x30 is too small")):
        found = page.run(shown.format(base64.b64encode(data).decode()))
        assert found["error"].startswith(error)
        assert (found["weights"], found["status"], found["hidden"], found["rows"]) == ("", "", True, 0)
    assert page.complaints() == []


def test_the_page_knows_the_classes_and_units_of_its_network(model: Model) -> None:
    found = site.about(model)
    assert found["classes"] == model.network.names
    assert found["units"] == [unit.name for unit in model.network.units]
    assert found["side"] == 48 != MODEL.input_size
    assert found["at_once"] == per_pass(MODEL.input_size)
