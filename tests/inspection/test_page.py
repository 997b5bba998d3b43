"""The page, as text and as a person sees it."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import chromium, open_page
from PIL import Image

TITLE = 'runs/<script>alert(1)</script> & "more"'  # as in conftest.py


@pytest.fixture(scope="module")
def page(report):
    return report[1][-1]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_names_are_text_and_nothing_is_fetched(page):
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert f"Spikes of {TITLE}" in reader.text
    assert "parts.<i>&" in reader.text
    assert "<Mine>" in reader.text
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert "i" not in [tag for tag, _ in reader.tags]
    sources = [told.get("src") or told.get("href") for _, told in reader.tags]
    assert all(re.match(r"data:|#layer-\d", source) for source in sources if source)
    assert not re.search(r"https?:|@import|url\(", page.read_text(encoding="utf-8"))


def test_the_table_has_the_figures(page, record):
    text = re.sub(r"<[^>]+>", "|", page.read_text(encoding="utf-8"))
    for layer in record.seen:
        for share in (layer.rate, layer.dead, layer.saturated):
            assert f"|{share:.1%}|" in text
    assert "|3\u00d76\u00d78|" in text


def colours(path):
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


VISIBLE = (
    "[...document.querySelectorAll('section.layer')].filter(l => l.offsetHeight).map(l => l.id)"
)
CANVAS = "document.querySelector('.layer.chosen canvas')?.toDataURL()"


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt install chromium")
def test_in_a_browser(page, tmp_path):
    with open_page(page.as_uri(), tmp_path / "browser") as tab:
        images = "[...document.images]"
        assert tab.run(f"{images}.length") == 6
        assert tab.run(f"{images}.every(i => i.complete && i.naturalWidth > 0)")
        assert tab.run("document.querySelectorAll('tbody tr').length") == 2
        assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
        tab.screenshot(tmp_path / "top.png")

        assert tab.run(VISIBLE) == ["layer-0"]
        first = tab.run(CANVAS)
        choose(tab, "choose-step", "value", 3)
        assert tab.run("document.getElementById('chosen-step').textContent").startswith("t = 0: ")
        assert tab.run(CANVAS) != first  # another step, another map
        tab.run("document.querySelector('.controls').scrollIntoView()")
        tab.screenshot(tmp_path / "layer.png")

        tab.run("document.querySelector('.strip img').dispatchEvent(new MouseEvent('click'))")
        assert tab.run(CANVAS) == first  # a click on the first map

        choose(tab, "choose-layer", "selectedIndex", 1)
        assert tab.run(VISIBLE) == ["layer-1"]
        tab.screenshot(tmp_path / "other.png")
        tab.run("document.querySelector('a[href=\"#layer-0\"]').click()")
        tab.run("new Promise(done => setTimeout(done, 50))", wait=True)
        assert tab.run(VISIBLE) == ["layer-0"]

        tab.command("Emulation.setScriptExecutionDisabled", value=True)
        tab.go_to(page.as_uri())
        assert tab.run(VISIBLE) == ["layer-0", "layer-1"]  # all of them, without the script
        assert tab.run("document.querySelector('.controls').offsetHeight") == 0

        assert tab.errors == []
        assert {address for address in tab.requests if not address.startswith("data:")} == {
            page.as_uri()
        }
    shots = [tmp_path / f"{name}.png" for name in ("top", "layer", "other")]
    assert all(colours(shot) > 100 for shot in shots)
    assert shots[1].read_bytes() != shots[2].read_bytes()


def choose(tab, control, what, value):
    """Use a control as a hand does: change it, and let it tell."""
    element = f"document.getElementById('{control}')"
    tab.run(f"{element}.{what} = {value}")
    tab.run(f"['input', 'change'].forEach(e => {element}.dispatchEvent(new Event(e)))")
