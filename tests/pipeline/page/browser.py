"""A headless Chromium that opens a page at a width and says what it found; driven over its debugging pipe."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

INSTALL = "no chromium on this machine; install it with: apt-get install -y chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


def found() -> str | None:
    """The browser's command, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab of the browser."""

    def __init__(self, to: Any, back: Any) -> None:  # noqa: ANN401 (binary files)
        self.to, self.back, self.count = to, back, 0
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if hasattr(self, "session") else {}
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while (answer := self.read()).get("id") != self.count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def read(self) -> dict[str, Any]:
        """The next message of the browser."""
        message = b""
        while not message.endswith(b"\0"):
            message += (part := self.back.read(1))
            if not part:
                raise RuntimeError("the browser has ended")
        return json.loads(message[:-1])

    def open(self, path: Path, width: int) -> None:
        """Load a file at a width in CSS pixels."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def run(self, script: str) -> Any:  # noqa: ANN401 (whatever the script returns)
        """The value of a JavaScript expression, a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Errors and warnings of the console."""
        kinds = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with one tab, ended with the block."""
    (down, to), (back, up) = os.pipe(), os.pipe()
    # Children of the browser may write into the profile a little longer than it lives.
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as profile, open(os.devnull, "wb") as nothing:  # noqa: PTH123
        command = f'exec "$0" "$@" 3<&{down} 4>&{up}'
        process = subprocess.Popen(
            ["bash", "-c", command, found(), *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(down, up), stdout=nothing, stderr=nothing, start_new_session=True,
        )  # fmt: skip
        os.close(down)
        os.close(up)
        try:
            with os.fdopen(to, "wb") as writer, os.fdopen(back, "rb", 0) as reader:
                yield Page(writer, reader)
        finally:
            process.terminate()
            process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
