"""Sources: image i is image i, whoever asks and whatever the batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from sizes import U_NET
from spikediff.data import load_images
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.evaluation import sources
from spikediff.evaluation.sources import (
    generated_images,
    open_archive,
    open_folder,
    open_images,
    pipeline_images,
    quantise,
    real_images,
)
from spikediff.systems.sddpm.network import SpikingUNet


def make_pipe(seed=0):
    torch.manual_seed(seed)
    unet = SpikingUNet(**U_NET)
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return make_pipe()


def test_generated_images_are_those_of_a_png(pipe):
    source = pipeline_images(pipe, seed=5, num_inference_steps=2)
    pictures = pipe(seeds=range(6, 9), num_inference_steps=2).images
    expected = np.stack([np.array(picture) for picture in pictures])[:, None]
    assert np.array_equal(source.take(1, 3).numpy(), expected)


def test_the_batch_does_not_change_an_image(pipe):
    alone, together = (pipeline_images(pipe, 0, 2, size).take(0, 5) for size in (1, 4))
    assert torch.equal(alone, together)


def test_the_fingerprint_knows_all_that_decides_an_image(pipe):
    same = pipeline_images(make_pipe(), 0, 2)
    one = pipeline_images(pipe, 0, 2)
    assert one.fingerprint == same.fingerprint
    other_scheduler = make_pipe()
    other_scheduler.scheduler = make_scheduler("ddpm")
    other_betas = make_pipe()
    other_betas.scheduler = make_scheduler("ddim", {"beta_end": 0.01})
    others = [
        pipeline_images(make_pipe(seed=1), 0, 2),
        pipeline_images(pipe, 1, 2),
        pipeline_images(pipe, 0, 3),
        pipeline_images(other_scheduler, 0, 2),
        pipeline_images(other_betas, 0, 2),
    ]
    prints = {source.fingerprint for source in [one, *others]}
    assert len(prints) == 6


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (torch.full((2, 1, 4, 4), torch.nan), "NaN"),
        (torch.full((2, 1, 4, 4), 1.5), "expected [0, 1]"),
        (torch.full((2, 1, 4, 4), -0.5), "expected [0, 1]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "floating point"),
        (torch.zeros(2, 4, 4), "floating point"),
    ],
)
def test_what_no_generator_should_give_is_refused(images, word):
    with pytest.raises(UserError) as error:
        generated_images(lambda _: images, 7, 2, "", {}).take(0, 2)
    assert word in str(error.value)
    assert "seeds 7 to 8" in str(error.value)


def test_every_grey_level_survives_quantisation():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(quantise(levels / 255, [0]), levels)


def test_real_images_come_in_the_order_of_the_permutation():
    dataset = load_images("digits")
    order = np.random.default_rng(3).permutation(len(dataset))
    source = real_images(dataset, seed=3)
    assert torch.equal(source.take(2, 5), dataset.stack()[order[2:7]])
    assert source.available == len(dataset)
    in_order = real_images(dataset, limit=4)
    assert torch.equal(in_order.take(0, 4), dataset.stack()[:4])
    assert in_order.available == 4
    prints = {
        s.fingerprint for s in (source, in_order, real_images(dataset), real_images(dataset, 0))
    }
    assert len(prints) == 4


def test_one_pixel_changes_the_fingerprint():
    dataset = load_images("digits", "test")
    before = real_images(dataset).fingerprint
    dataset.images = dataset.stack().clone()
    dataset.images[7, 0, 3, 3] ^= 1
    assert real_images(dataset).fingerprint != before


def test_a_fingerprint_covers_the_code_that_makes_images(monkeypatch, tmp_path):
    for room in sources.ROOMS:
        assert list((sources._PACKAGE / room).rglob("*.py")), f"{room} holds no code"
        (tmp_path / room).mkdir()
        (tmp_path / room / "code.py").write_text("1")
    monkeypatch.setattr(sources, "_PACKAGE", tmp_path)
    before = sources._code_sha256.__wrapped__()
    (tmp_path / "systems" / "code.py").write_text("2")
    assert sources._code_sha256.__wrapped__() != before


def write_pngs(folder, images, name="{:03d}.png"):
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(index))


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., 0]], ids=["rgb", "grey"])
def test_a_folder_and_archives_hold_the_same_images(pixels, tmp_path):
    write_pngs(tmp_path / "pngs", pixels)
    rows = pixels if pixels.ndim == 4 else pixels[..., None]
    layouts = {"images": pixels, "arr_0": rows, "nchw": rows.transpose(0, 3, 1, 2)}
    expected = torch.from_numpy(layouts["nchw"].copy())
    folder = open_folder(tmp_path / "pngs")
    assert torch.equal(folder.take(3, 9), expected[3:])
    prints = set()
    for name, layout in layouts.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{"images" if name == "nchw" else name: layout})
        archive = open_archive(path)
        assert torch.equal(archive.take(0, 12), expected)
        prints.add(archive.fingerprint)
    assert len(prints) == 1
    assert folder.available == 12


def test_a_folder_of_the_sample_command_is_its_seeds(tmp_path):
    write_pngs(tmp_path / "s", PIXELS, "seed-{:06d}.png")
    Image.new("L", (64, 64)).save(tmp_path / "s" / "grid.png")
    assert open_folder(tmp_path / "s").available == 12


def test_mixed_images_are_refused_by_name(tmp_path):
    write_pngs(tmp_path / "m", PIXELS[:3])
    Image.new("RGB", (7, 6)).save(tmp_path / "m" / "x.png")
    source = open_folder(tmp_path / "m")
    with pytest.raises(UserError, match=r"x\.png: 7x6 colour, but the first image is 6x6"):
        source.take(0, 4)
    Image.new("L", (6, 6)).save(tmp_path / "m" / "x.png")
    with pytest.raises(UserError, match="grey"):
        source.take(3, 1)


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"images": PIXELS / 255}, "uint8"),
        ({"images": PIXELS[0, 0]}, "expected [N, H, W]"),
        ({"images": np.zeros((2, 5, 6, 6), np.uint8)}, "C 1 or 3"),
        ({"images": PIXELS[:0]}, "expected [N, H, W]"),
        ({"pictures": PIXELS}, "no array"),
    ],
)
def test_archives_of_other_things_are_refused(arrays, word, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as error:
        open_archive(tmp_path / "a.npz")
    assert word in str(error.value)


def test_names_of_sources(tmp_path):
    source = open_images("data:digits/test", 0, None)
    assert source.description["kind"] == "data"
    assert torch.equal(source.take(0, 9), real_images(load_images("digits", "test"), 0).take(0, 9))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    assert open_images(str(tmp_path / "run"), 0, None) is None
    write_pngs(tmp_path / "p", PIXELS)
    assert open_images(str(tmp_path / "p"), 0, None).description["kind"] == "folder"
    for name, word in [
        ("data:digits", "name a split too"),
        ("data:digits/tset", "unknown split"),
        (str(tmp_path / "absent"), "no such file or folder"),
        (str(tmp_path), "no model"),
    ]:
        if name == str(tmp_path):
            (tmp_path / "empty").mkdir()
            name = str(tmp_path / "empty")
        with pytest.raises(UserError, match=word):
            open_images(name, 0, None)
