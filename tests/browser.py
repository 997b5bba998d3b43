"""A headless Chromium, driven through a pipe: a page as a person sees it, with nothing to install.

It speaks the DevTools protocol: JSON messages that end in a zero byte, on descriptors 3 and 4.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

PATIENCE_S = 60.0
_FLAGS = [
    "--headless=new",
    "--no-sandbox",  # root, as in a container, may not have one; it reads one file of ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


def chromium():
    """Return the path of a Chromium, or None."""
    named = os.environ.get("SPIKEDIFF_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome", "chrome"]
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def open_page(address, folder, width=1280, height=1000):
    """Open a page in a browser of its own; `folder` is for what the browser writes."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]

    def put_in_place():
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    command = [chromium(), *_FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"]
    process = subprocess.Popen(
        command, preexec_fn=put_in_place, pass_fds=(3, 4), stderr=subprocess.DEVNULL
    )
    for end in (theirs_in, theirs_out, *high):
        os.close(end)
    try:
        page = Page(ours_in, ours_out)
        page.go_to(address)
        yield page
        page.command("Browser.close", of_page=False)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Page:
    """One tab: what it says, asks for and shows."""

    def __init__(self, ends, out):
        self._in, self._out = ends, out
        self._unread, self._number, self._session = b"", 0, None
        self.errors = []  # what the console or an exception said
        self.requests = []  # addresses that were asked for
        self._loaded = False
        target = self.command("Target.createTarget", url="about:blank", of_page=False)
        attached = self.command(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True, of_page=False
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method, of_page=True, **options):
        """Send a command, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": options}
        if of_page:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def go_to(self, address):
        """Load a page."""
        self._loaded = False
        self.command("Page.navigate", url=address)
        while not self._loaded:
            self._read()

    def run(self, script, wait=False):
        """Return the value of an expression, or of what it promises."""
        answer = self.command(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=wait
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path):
        """Write what the window shows."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))

    def _read(self):
        """Return the next message, and note what it tells."""
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._unread:
            left = end - time.monotonic()
            assert left > 0, f"the browser was silent for {PATIENCE_S:g} s"
            assert select.select([self._in], [], [], left)[0], "the browser is silent"
            part = os.read(self._in, 2**20)
            assert part, "the browser has left"
            self._unread += part
        text, self._unread = self._unread.split(b"\0", 1)
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, told):
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.errors.append(str(told["args"]))
