"""The page behind a socket: as people see it, at two widths, and asked by twenty at once."""

import base64
import http.client
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import chromium, open_page
from PIL import Image

from spikediff.hub.load import load_pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is missing"),
]
STEPS, USERS, SECONDS = 3, 20, float(os.environ.get("SPIKEDIFF_LOAD_S", 20))
OWN = "the model's own"


@pytest.fixture(scope="module")
def address():
    command = [sys.executable, "-m", "spikediff", "web", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env={**os.environ}, **pipes) as server:
        line = next(line for line in server.stdout if "http://" in line)
        yield line.split()[2]
        server.terminate()
        assert server.wait(20) in (0, -15)


def ask(address, path, body):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/gradio_api/{path}", body, headers)
    return urllib.request.urlopen(request, timeout=300)


def events(address, name, data):
    """What the page says to a request: pairs of an event and its data."""
    with ask(address, f"call/{name}", json.dumps({"data": data}).encode()) as answer:
        number = json.load(answer)["event_id"]
    stream = f"{address}/gradio_api/call/{name}/{number}"
    with urllib.request.urlopen(stream, timeout=300) as answer:
        lines = answer.read().decode().splitlines()
    named = [line.partition(": ")[2] for line in lines if line]
    said = zip(named[::2], map(json.loads, named[1::2]), strict=True)
    return [(event, data) for event, data in said if event != "heartbeat"]


def picture(html):
    encoded = html.split("base64,")[1].split('"')[0]
    return Image.open(io.BytesIO(base64.b64decode(encoded))).tobytes()


def test_twenty_users_get_their_own_images(address):
    pipe = load_pipeline(Path("mnist"), to_generate=True)
    pipe.set_progress_bar_config(disable=True)
    end = time.monotonic() + SECONDS

    def use(user):
        made = []
        while not made or time.monotonic() < end:
            seed, label = 100 * user + len(made), (user + len(made)) % 10
            said = events(address, "generate", [label, seed, OWN, STEPS, user % 7 == 0])
            assert {event for event, _ in said} == {"generating", "complete"}
            assert len(said) >= STEPS + 1
            made.append((seed, label, picture(said[-1][1][0])))
        return made

    with ThreadPoolExecutor(USERS) as people:
        made = [one for of_user in people.map(use, range(USERS)) for one in of_user]
    seeds, labels, pictures = zip(*made, strict=True)
    expected = pipe(seeds=seeds, class_labels=list(labels), num_inference_steps=STEPS).images
    assert [image.tobytes() for image in expected] == list(pictures)


def test_wrong_requests_are_refused_in_a_sentence(address):
    (*_, (event, said)) = events(address, "generate", [3, 0, OWN, 5000, False])
    assert event == "error"
    assert "5000" in str(said) or "steps" in str(said)
    large = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    large.putrequest("POST", "/gradio_api/upload")
    large.putheader("Content-Length", str(9 * 2**20))
    large.endheaders()
    assert large.getresponse().status == 413
    large.close()
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt install chromium")
@pytest.mark.parametrize(("width", "height"), [(1280, 850), (390, 844)], ids=["desktop", "phone"])
def test_in_a_browser(address, tmp_path, width, height):
    with open_page("about:blank", tmp_path / "browser", width, height) as tab:
        tab.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                    deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        tab.go_to(address)
        wait(tab, "!!document.querySelector('#generate')")
        time.sleep(1)
        tab.run("document.querySelector('#generate').click()")
        wait(tab, "!!document.querySelector('#generated .sd-energy')")
        assert tab.run("document.querySelector('#generated img').naturalWidth") == 28
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert all(asked.startswith((address, "data:", "blob:")) for asked in tab.requests[1:])
        if folder := os.environ.get("SPIKEDIFF_SCREENSHOTS"):
            shot = tab.command("Page.captureScreenshot", captureBeyondViewport=True)
            name = "web.png" if width > 500 else "web_phone.png"
            (Path(folder) / name).write_bytes(base64.b64decode(shot["data"]))


def wait(tab, what):
    end = time.monotonic() + 120
    while not tab.run(what):
        assert time.monotonic() < end, what
        time.sleep(0.2)
