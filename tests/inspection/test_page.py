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
    assert "script" not in [tag for tag, _ in reader.tags]
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


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt install chromium")
def test_in_a_browser(page, tmp_path):
    with open_page(page.as_uri(), tmp_path / "browser") as tab:
        images = "[...document.images]"
        assert tab.run(f"{images}.length") == 7
        assert tab.run(f"{images}.every(i => i.complete && i.naturalWidth > 0)")
        assert tab.run("document.images[0].naturalWidth") == 40  # the generated images, on top
        assert tab.run("document.querySelectorAll('tbody tr').length") == 2
        assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
        tab.screenshot(tmp_path / "top.png")
        tab.run("document.querySelector('a[href=\"#layer-1\"]').click()")
        tab.run("new Promise(done => setTimeout(done, 50))", wait=True)
        top = "document.getElementById('layer-1').getBoundingClientRect().top"
        assert 0 <= tab.run(top) < tab.run("window.innerHeight")
        tab.screenshot(tmp_path / "layer.png")
        assert tab.errors == []
        assert {address for address in tab.requests if not address.startswith("data:")} <= {
            page.as_uri(),
            f"{page.as_uri()}#layer-1",
        }
    shots = [tmp_path / f"{name}.png" for name in ("top", "layer")]
    assert all(colours(shot) > 100 for shot in shots)
    assert shots[0].read_bytes() != shots[1].read_bytes()


def colours(path):
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))
