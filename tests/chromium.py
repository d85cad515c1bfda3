"""Headless Chromium, driven through its debugging protocol: what a person does with a page, and pictures of it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect


class Page:
    """One page of a browser. Elements are named by a JavaScript expression or by the text that they show."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._ids = itertools.count(1)

    def call(self, method: str, *, within_s: float = 60, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.connection.recv(timeout=within_s))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def js(self, expression: str, *, within_s: float = 60) -> Any:
        """The value of an expression, which may be a promise."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", within_s=within_s, expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, address: str, *, shows: str = "", is_shown: str = "") -> None:
        """Open an address until it shows a text, or an expression is true; load it again while it stays empty.

        Prefect's page stayed empty once, for 60 s. The cause is not known: of 60 loads at a load of 11 to 13 on two
        cores, 30 of them without Chromium's cache, each showed within 9.2 s, and no request or script failed.
        """
        is_shown = is_shown or f"document.body && document.body.innerText.includes({json.dumps(shows)})"
        for attempt in range(3):
            self.call("Page.navigate", url=address)
            try:
                self.wait_for(is_shown)
                return
            except AssertionError:
                if attempt == 2 or self.text().strip():
                    raise

    def load(self, address: str, ready: str, *, script: str) -> None:
        """Open an address and wait until an expression is true; load again where Chromium never ran the page's script.

        Seen once at a load of 10: the page stood there as the server wrote it, and none of its script had run. A page
        whose script asked for anything at an address that contains `script` gets no second chance.
        """
        for attempt in range(3):
            self.call("Page.navigate", url=address)
            try:
                self.wait_for(ready)
                return
            except AssertionError:
                asked = "performance.getEntriesByType('resource').map(e => `${e.name} ${e.responseStatus}`)"
                requests = self.js(asked)
                if attempt == 2 or any(script in request for request in requests):
                    raise AssertionError(f"{self.text()}\nasked for: {requests}") from None

    def wait_for(self, expression: str, *, within_s: float = 60) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + within_s
        while not (value := self.js(expression)):
            if time.monotonic() > end:
                raise AssertionError(f"{expression} is still {value!r}; the page shows:\n{self.text()}")
            time.sleep(0.3)
        return value

    def click_at(self, x: float, y: float) -> None:
        """Click with the mouse at a position of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, *places: tuple[float, float], steps: int = 5) -> None:
        """Press the mouse at the first place, move it to each of the others in so many steps, and release it."""
        (x, y), *rest = places
        self._mouse("mousePressed", x, y)
        for to_x, to_y in rest:
            for k in range(1, steps + 1):
                self._mouse("mouseMoved", x + (to_x - x) * k / steps, y + (to_y - y) * k / steps)
            x, y = to_x, to_y
        self._mouse("mouseReleased", x, y)

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a position of the window without a button."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the mouse's wheel at a position of the window; less than 0 is away from the person."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str, *, code: int = 0) -> None:
        """Press a key: a character, or the name of a key with its code."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        number = {"windowsVirtualKeyCode": code} if code else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **number)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **number)

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def text(self) -> str:
        return str(self.js("document.body.innerText"))

    def click(self, element: str) -> None:
        """Click with the mouse in the middle of an element."""
        x, y = self._middle(element)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        time.sleep(0.3)

    def type_into(self, element: str, text: str) -> None:
        """Click into a field and type."""
        self.click(element)
        self.call("Input.insertText", text=text)
        time.sleep(0.2)

    def picture(self, path: Path, *, quality: int = 80) -> None:
        data = self.call("Page.captureScreenshot", format="jpeg", quality=quality)["data"]
        path.write_bytes(base64.b64decode(data))

    def click_until(self, element: str, expression: str) -> None:
        """Click an element until something is true: a page that is still being built may take no notice."""
        for attempt in range(4):
            self.click(element)
            try:
                self.wait_for(expression, within_s=60 if attempt == 3 else 10)
                return
            except AssertionError:
                if attempt == 3:
                    raise

    def _middle(self, element: str) -> tuple[float, float]:
        """The middle of an element, once it has stayed at its place: pages move while they are built."""
        self.wait_for(f"!!({element})")
        self.js(f"({element}).scrollIntoView({{block: 'center'}})")
        box = f"(r => r ? [r.x, r.y, r.width, r.height] : null)(({element})?.getBoundingClientRect())"
        now = self.js(box)
        for _ in range(60):
            time.sleep(0.2)
            before, now = now, self.js(box)
            if now and now == before:
                break
        assert now, f"{element} is there no more"
        return now[0] + now[2] / 2, now[1] + now[3] / 2


def shown(text: str) -> str:
    """The innermost element that shows exactly this text."""
    same = f"e => e.innerText && e.innerText.trim() === {json.dumps(text)} && e.getClientRects().length"
    return f"[...document.querySelectorAll('main *, body *')].filter({same}).at(-1)"


@contextlib.contextmanager
def browser(folder: Path, *, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """A headless Chromium with one empty page; its profile goes to `folder`."""
    size = f"--window-size={width},{height}"
    process = subprocess.Popen(
        ["chromium", "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         "--disable-dev-shm-usage", "--no-first-run", size,
         "--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with connect(_address(folder, process), max_size=None) as connection:
            page = Page(connection)
            page.call("Page.enable")
            page.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            yield page
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def another_tab(folder: Path) -> Iterator[Page]:
    """Another tab of the browser whose profile is in `folder`."""
    port = int((folder / "DevToolsActivePort").read_text().split()[0])
    request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
    with urllib.request.urlopen(request, timeout=20) as answer:
        address = json.load(answer)["webSocketDebuggerUrl"]
    with connect(address, max_size=None) as connection:
        page = Page(connection)
        page.call("Page.enable")
        yield page


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the page listens; Chromium writes its port to its profile."""
    for _ in range(200):
        assert process.poll() is None, "Chromium ended"
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            port = int((folder / "DevToolsActivePort").read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                return str(next(t for t in json.load(answer) if t["type"] == "page")["webSocketDebuggerUrl"])
        time.sleep(0.2)
    raise AssertionError("Chromium did not open its debugging port")
