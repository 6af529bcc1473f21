"""A headless Chromium, spoken to over the two pipes of the DevTools protocol: no driver, no port, no package.

https://chromedevtools.github.io/devtools-protocol
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-extensions", "--remote-debugging-pipe",
)  # fmt: skip
_ANSWER_S = 60.0
_KEYS = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Enter": 13,
    "Tab": 9,
    "Escape": 27,
    "Home": 36,
}


class Browser:
    """One tab: what it shows, what it was told, and what it has asked the network for."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._buffer = b""
        self._last_id = 0
        self._session: str | None = None
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer; what happens meanwhile is taken down."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda said: said.get("id") == self._last_id)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def _wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + _ANSWER_S
        while True:
            while b"\0" not in self._buffer:
                ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
                data = os.read(self._read, 1 << 16) if ready else b""
                assert data, "Chromium has ended, or said nothing for a minute"
                self._buffer += data
            text, _, self._buffer = self._buffer.partition(b"\0")
            said: dict[str, Any] = json.loads(text)
            self._take_down(said)
            if wanted(said):
                return said

    def _take_down(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        if said.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif said.get("method") == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"].get("exception", {}).get("description", params)))
        elif said.get("method") == "Runtime.consoleAPICalled":
            self.console.append(str([each.get("value") for each in params["args"]]))
        elif said.get("method") == "Log.entryAdded":
            self.console.append(str(params["entry"]["text"]))

    def show(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open a page in a window of a size, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.console.clear()
        self.requests.clear()
        self.call("Page.navigate", url=url)
        self._wait(lambda said: said.get("method") == "Page.loadEventFired")
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, *, within_s: float = 20.0) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + within_s
        while not self.run(script):
            assert time.monotonic() < deadline, f"not true in time: {script}"
            time.sleep(0.05)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is, once it has been scrolled into view."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'}); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return box[0], box[1]

    def mouse(self, kind: str, x: float, y: float) -> None:
        """``mousePressed``, ``mouseMoved`` or ``mouseReleased`` at a place of the window."""
        held = kind != "mouseReleased"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(held), clickCount=1)

    def click(self, selector: str) -> None:
        """Press and release in the middle of an element."""
        x, y = self.middle(selector)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press at one place, move to another, release there."""
        self.mouse("mousePressed", *start)
        for share in (0.3, 0.6, 1.0):
            self.mouse("mouseMoved", *(a + share * (b - a) for a, b in zip(start, end, strict=True)))
        self.mouse("mouseReleased", *end)
        self.run("new Promise(requestAnimationFrame)")

    def key(self, name: str) -> None:
        """Press and release a key."""
        event = {"key": name, "code": name, "windowsVirtualKeyCode": _KEYS[name]}
        text = {"text": "\r"} if name == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)
        self.run("new Promise(requestAnimationFrame)")

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """What is seen, or the whole page, as a PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        file.write_bytes(base64.b64decode(taken["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


def _do_without(reason: str) -> NoReturn:
    """Skip where a person has no Chromium; fail where ``.ci/run`` has promised one."""
    if os.environ.get("AUTOPRUNE_REQUIRE_CHROMIUM"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own, which goes with it; without one the test is skipped."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        _do_without("no Chromium: install the package chromium")
    profile = tempfile.mkdtemp(prefix="autoprune-chromium-")
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    # The browser reads its commands from file 3 and answers on file 4; a shell puts the pipes there.
    shell = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
    arguments = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *arguments], pass_fds=(commands_out, answers_in), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands_out)
    os.close(answers_in)
    try:
        browser = Browser(answers_out, commands_in)
        yield browser
        browser._session = None
        with contextlib.suppress(AssertionError, OSError):
            browser.call("Browser.close")
    finally:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers_out)
        os.close(commands_in)
        shutil.rmtree(profile, ignore_errors=True)
