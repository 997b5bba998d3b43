"""What the page does, without the page; and what it refuses."""

import io
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from small_pipelines import made, make
from spikediff import progress
from spikediff.cli import main
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.errors import UserError
from spikediff.hub.load import load_pipeline
from spikediff.web.page import MOST_BYTES, _steps, listen, read_drawing, read_upload
from spikediff.web.studio import Studio, Wish, streamed
from spikediff.web.views import generation, several


@pytest.fixture(scope="module")
def studio():
    return Studio(Path("mnist"))


def images_of(pipe, seeds, label, steps):
    pipe.set_progress_bar_config(disable=True)
    return pipe(seeds=seeds, class_labels=label, num_inference_steps=steps).images


def test_a_model_without_steps_is_asked_for_one():
    gr = SimpleNamespace(Slider=lambda *numbers, **_: numbers)
    steps = [_steps(gr, SimpleNamespace(most_steps=most)) for most in (0, 1, 5, 50)]
    assert steps == [(1, 2, 1), (1, 2, 1), (1, 5, 5), (1, 50, 20)]


def test_an_image_is_that_of_the_command_line(studio):
    *_, done, measured = studio.generate(Wish(5, 7, "ddim", steps=2))
    pipe = load_pipeline(Path("mnist"), "ddim", to_generate=True)
    (expected,) = images_of(pipe, [5], 7, 2)
    assert done.images[0].tobytes() == measured.images[0].tobytes() == expected.tobytes()
    assert done.energy is None
    columns = measured.energy.columns
    spiking, ordinary = columns["spiking_by_changes"].whole, columns["quantised"].whole
    assert spiking.energy_per_image_pj < ordinary.energy_per_image_pj
    page = generation(measured)
    for label, report in (("spiking, changes only", spiking), ("network, quantised", ordinary)):
        assert f"{label}</td><td>{report.energy_per_image_pj / 1e6:,.2f} µJ</td>" in page
    assert page.count("width:100.0%") == 2, "the longest bar of each table"


def test_every_step_is_shown_with_the_spikes_so_far(studio):
    moments = list(studio.generate(Wish(0, 1, steps=3), energy=False))
    assert [m.step for m in moments] == [1, 2, 3, 3]
    assert [m.seconds > 0 for m in moments] == [False] * 3 + [True]
    for moment in moments:
        assert [r.layer for r in moment.rasters] == [r.layer for r in moments[0].rasters]
    black = [int((np.asarray(m.rasters[0].picture) == 0).sum()) for m in moments]
    assert black == sorted(black)
    assert black[0] < black[2] == black[3]
    page = generation(moments[-1])
    assert page.count("data:image/png") == 1 + len(moments[-1].rasters)
    assert "step 3 of 3, finished" in page


def test_requests_at_once_share_nothing(studio):
    wishes = [Wish(seed, seed, ["ddim", "ddpm"][seed % 2], steps=1 + seed % 3) for seed in range(3)]
    alone = [list(studio.generate(wish, energy=False))[-1].images[0] for wish in wishes]
    together = [None] * len(wishes)

    def ask(k):
        together[k] = list(studio.generate(wishes[k], spikes=bool(k % 3), energy=k == 0))[-1]

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(wishes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [m.images[0].tobytes() for m in together] == [image.tobytes() for image in alone]


def test_whoever_leaves_holds_up_nobody(studio):
    moments = studio.generate(Wish(0, 1, steps=50))
    next(moments)
    moments.close()
    assert list(studio.generate(Wish(0, 1, steps=1), energy=False))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(-1), "the seed = -1 must lie between 0"),
        (Wish(0.5), "the seed = 0.5 must be a whole number"),
        (Wish(0, 10), "the class = 10"),
        (Wish(0, steps=51), "the number of steps = 51 must lie between 1 and 50"),
        (Wish(0, count=9), "the number of images = 9"),
        (Wish(0, sampler="euler"), "does not support this sampler"),
    ],
)
def test_wrong_wishes(studio, wish, said):
    with pytest.raises(UserError, match=said):
        studio.generate(wish)


def test_inpainting_keeps_what_is_not_red(studio):
    side = 12 * studio.size
    composite = np.full((side, side, 4), 255, np.uint8)
    composite[: side // 2] = [80, 80, 80, 255]
    layer = np.zeros((side, side, 4), np.uint8)
    layer[:, : side // 2] = composite[:, : side // 2] = [255, 0, 0, 255]
    picture, mask = read_drawing(composite, [layer], studio.size, "L")
    assert np.asarray(mask)[:, :14].min() == 255
    assert np.asarray(mask)[:, 14:].max() == 0
    *_, done = studio.inpaint(Wish(1, 3, steps=3, count=2), picture, mask)
    for image in done.images:
        assert (np.asarray(image)[:14, 14:] == 80).all()
        assert (np.asarray(image)[14:, 14:] == 255).all()
    assert "seed 2" in several(done, 1)


def test_the_picture_to_edit_is_an_image_of_the_model(studio):
    *_, done = studio.generate(Wish(3, 3), spikes=False, energy=False)
    assert studio.example().tobytes() == done.images[0].tobytes()


def test_an_autoencoder_has_no_sampler_and_no_ordinary_counterpart(tmp_path):
    make("fsvae").save_pretrained(tmp_path)
    studio = Studio(tmp_path)
    assert studio.samplers == ["the model's own"]
    assert studio.most_steps == 0
    *_, done = studio.generate(Wish(0, steps=1))
    assert done.energy is None
    assert done.images[0].size == (16, 16)


def test_what_generates_no_images_has_no_page(tmp_path):
    VAEPipeline(made("tokens").vqvae).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a VAEPipeline generates no images"):
        Studio(tmp_path)


def test_a_canvas_without_red(studio):
    nothing = np.zeros((56, 56, 4), np.uint8)
    with pytest.raises(UserError, match="paint red"):
        read_drawing(nothing, [], studio.size, "L")


def png(image):
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def test_uploads_become_pictures_of_the_model(studio):
    paper = Image.new("RGB", (300, 200), "white")
    paper.paste("black", (140, 50, 160, 150))
    black = Image.new("L", (28, 28))
    seen = read_upload(png(paper), 28, "L", like=black)
    assert (seen.size, seen.mode, seen.getpixel((0, 0))) == ((28, 28), "L", 0)
    assert seen.getpixel((14, 14)) == 255
    assert read_upload(png(paper), 28, "RGB", like=black).getpixel((0, 0)) == (255,) * 3


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"", "cannot be decoded as an image"),
        (b"<svg onload=alert(1)>", "cannot be decoded as an image"),
        (png(Image.new("L", (9, 9)))[:42], "cannot be decoded as an image"),
        (bytes(MOST_BYTES + 1), "more than 4 MB"),
        (png(Image.new("1", (9000, 9000))), "pixels, more than"),
    ],
    ids=["empty", "svg", "cut", "large file", "large picture"],
)
def test_bad_uploads(encoded, said):
    with pytest.raises(UserError, match=said):
        read_upload(encoded, 28, "L", Image.new("L", (28, 28)))


def test_a_fault_reaches_whoever_asked():
    def work(tell):
        tell(1)
        raise UserError("no")

    heard = streamed(work)
    assert next(heard) == 1
    with pytest.raises(UserError, match=r"^no$"):
        next(heard)


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["web"]) == 2
    assert "pip install 'gradio>=6'" in capsys.readouterr().err


@pytest.mark.parametrize("typed", [["none"], ["--beside", "none"]], ids=["first", "second"])
def test_models_that_are_not_there(typed, capsys):
    assert main(["web", *typed]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_a_server_that_waits_says_nothing():
    with progress.at_work("web"):
        with progress.waiting():
            assert not progress._works
            with progress.at_work("asked"):
                assert [work.what for work in progress._works] == ["asked"]
        assert [work.what for work in progress._works] == ["web"]


def test_an_address_that_is_taken():
    with listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="choose another"):
        listen("127.0.0.1", taken.getsockname()[1])
