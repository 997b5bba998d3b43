"""Folders of images."""

import os
import pickle
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spikediff.data import load_images
from spikediff.data.decoding import decode_image, read_image
from spikediff.data.folder import list_files

SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "PNG")


@pytest.fixture
def flat(tmp_path, save_picture):
    """Forty images of six kinds in one folder, and files that are none."""
    for n in range(40):
        save_picture(tmp_path / f"image{n:02}.{SUFFIXES[n % 6]}")
    (tmp_path / ".hidden.png").write_text("no image")
    return tmp_path


def test_a_path_and_the_prefix_name_the_same_set(flat):
    by_path, by_prefix = load_images(str(flat)), load_images(f"folder:{flat}")
    assert torch.equal(by_path.stack(), by_prefix.stack())
    assert by_path[0][0].shape == (3, 10, 10)
    assert by_path[0][1] == -1
    assert by_path.labels is None
    assert by_path.num_classes == 0
    assert by_path.images is None
    assert not by_path.horizontal_flip


def test_the_splits_part_the_folder_and_stay_when_it_grows(flat, save_picture):
    def names(split):
        return {path.name for path in load_images(f"folder:{flat}", split)._pictures.items}

    train, test = names("train"), names("test")
    assert not train & test
    assert len(train | test) == 40
    assert 1 <= len(test) <= 10
    save_picture(flat / "aaa.png")
    assert train <= names("train")
    assert test <= names("test")


def test_first_level_subfolders_are_the_classes(tmp_path, save_picture):
    for n in range(20):
        save_picture(tmp_path / "cat" / "deep" / f"{n}.png", value=10)
        save_picture(tmp_path / "ant" / f"{n}.png", value=200)
    pets = load_images(f"folder:{tmp_path}")
    assert pets.class_names == ("ant", "cat")
    for image, label in pets:
        assert image.float().mean() == (10 if label else 200)
    held_out = load_images(f"folder:{tmp_path}", held_out=False)
    assert torch.equal(held_out.labels, torch.tensor([label for _, label in held_out]))
    save_picture(tmp_path / "stray.png")
    with pytest.warns(UserWarning, match=r"1 of 41 images lie beside the subfolders \(stray.png\)"):
        assert load_images(f"folder:{tmp_path}").labels is None


def test_mixed_sizes_and_colours_need_a_choice(tmp_path, save_picture, refused):
    for n in range(30):
        save_picture(tmp_path / f"{n:02}.png", mode="L")
    name = f"folder:{tmp_path}"
    assert load_images(name).channels == 1
    save_picture(tmp_path / "zz.png", size=(30, 20), mode="RGB")
    with_stray = next(s for s in ("train", "test") if "zz.png" in str(_paths(name, s)))
    assert "give image_size" in refused(load_images(name, with_stray).stack)
    assert "give channels" in refused(load_images(name, with_stray, image_size=8).stack)
    chosen = load_images(name, with_stray, image_size=8, channels=3)
    assert chosen.stack().shape[1:] == (3, 8, 8)


def _paths(name, split):
    return load_images(name, split, image_size=4, channels=3)._pictures.items


def test_pixels_are_exact_and_unusual_modes_are_understood(tmp_path):
    def only(picture):
        for path in tmp_path.iterdir():
            path.unlink()
        for n in range(5):
            picture.save(tmp_path / f"{n}.png")
        return load_images(f"folder:{tmp_path}")[0][0]

    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    assert np.array_equal(only(Image.fromarray(pixels)).permute(1, 2, 0).numpy(), pixels)
    assert only(Image.new("1", (6, 6), 1))[:, 0, 0].tolist() == [255]
    assert only(Image.new("P", (6, 6), 0)).shape == (3, 6, 6)
    deep = Image.fromarray(np.full((6, 6), 0x8001, np.uint16))
    assert only(deep)[:, 0, 0].tolist() == [0x80]


def test_the_orientation_tag_is_applied(tmp_path):
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    tag = Image.Exif()
    tag[0x0112] = 3  # upside down
    for n in range(5):
        picture.save(tmp_path / f"{n}.png", exif=tag)
    image, _ = load_images(f"folder:{tmp_path}")[0]
    assert torch.equal(image[0], torch.arange(63, -1, -1).reshape(8, 8).byte())


def test_a_lazy_set_travels_to_worker_processes(flat):
    dataset = load_images(f"folder:{flat}", image_size=4)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy.stack(), dataset.stack())


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_undecodable_file_is_named(flat, content, refused):
    path = flat / "image01.jpg"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    split = next(s for s in ("train", "test") if path in _paths(f"folder:{flat}", s))
    message = refused(load_images(f"folder:{flat}", split).stack)
    assert f"{path}: cannot be decoded as an image" in message
    assert "replace or remove it" in message


def test_a_file_that_vanished_is_named(flat, refused):
    dataset = load_images(f"folder:{flat}")
    last = _paths(f"folder:{flat}", "train")[-1]
    last.unlink()
    assert f"{last}: cannot be read" in refused(dataset.stack)


def test_folders_without_images(tmp_path, save_picture, refused):
    assert "no such folder" in refused(load_images, f"folder:{tmp_path}/nowhere")
    assert "no images under it" in refused(load_images, str(tmp_path))
    save_picture(tmp_path / "only.png")
    outcomes = [refused(load_images, str(tmp_path), "dev")]
    for split in ("train", "test"):
        try:
            load_images(str(tmp_path), split)
        except ValueError as error:
            outcomes.append(str(error))
    assert "unknown split 'dev'; choose from train, test" in outcomes[0]
    assert "falls into the" in outcomes[1]


def test_a_folder_that_is_gone_cannot_be_listed(tmp_path, refused):
    message = refused(list_files, tmp_path / "gone")
    assert message.endswith("gone: cannot be listed (No such file or directory); check the folder")


def decoded(picture, kind="PNG", **options):
    """Return the first pixel of a picture that went through a file."""
    file = BytesIO()
    picture.save(file, kind, **options)
    pixel = decode_image(file.getvalue(), "here").getpixel((0, 0))
    return list(pixel) if isinstance(pixel, tuple) else [pixel]


@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from(["PNG", "WEBP"]))
def test_transparent_pictures_lie_over_white(level, alpha, kind):
    seen = (level * alpha + 255 * (255 - alpha)) / 255
    picture = Image.new("RGBA", (6, 6), (level, 0, 0, alpha))
    red, green, _ = decoded(picture, kind, lossless=True)
    assert abs(red - seen) <= 1
    assert abs(green - (255 - alpha)) <= 1
    [grey] = decoded(Image.new("LA", (6, 6), (level, alpha)))
    assert abs(grey - seen) <= 1


@pytest.mark.parametrize(
    ("mode", "value", "transparency", "seen"),
    [
        ("P", 3, 3, [255, 255, 255]),
        ("P", 3, b"\xff\xff\xff\x00", [255, 255, 255]),
        ("L", 9, 9, [255]),
        ("L", 9, 8, [9]),
        ("1", 0, 0, [255]),
        ("RGB", (9, 8, 7), (9, 8, 7), [255, 255, 255]),
        ("I;16", 700, 700, [255]),
        ("I;16", 700, 701, [2]),
    ],
)
def test_a_transparent_colour_lies_over_white(mode, value, transparency, seen):
    picture = Image.new(mode, (6, 6), value)
    if mode == "P":
        picture.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 200, 0, 0])
    assert decoded(picture, transparency=transparency) == seen


def test_what_is_passed_over_is_counted_and_named(tmp_path, save_picture):
    for n in range(15):
        save_picture(tmp_path / f"{n}.png")
    for n in range(30):
        (tmp_path / f"scan{n:02}.tif").write_bytes(b"II*")
    with pytest.warns(UserWarning, match=r"skipped 30 files .*\(scan00.tif, .*\.\.\.\)"):
        load_images(f"folder:{tmp_path}")


def test_linked_folders_are_followed(tmp_path, save_picture):
    elsewhere, pets = tmp_path / "elsewhere", tmp_path / "pets"
    for n in range(9):
        save_picture(elsewhere / "tabby" / f"{n}.png")
        save_picture(pets / "dogs" / f"{n}.png")
    (pets / "cats").symlink_to(elsewhere)
    (pets / "felines").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(pets)
    train, test = load_images(f"folder:{pets}"), load_images(f"folder:{pets}", "test")
    assert train.class_names == ("cats", "dogs", "felines")
    # Behind each link lie the cats, and behind those, by the link back, the dogs are not: the
    # folder of pets is above.
    assert len(train) + len(test) == 27


def test_links_without_end_are_refused(tmp_path, monkeypatch, refused):
    monkeypatch.setattr("spikediff.data.folder.MOST_FOLDERS", 100)
    for n in range(9):
        (tmp_path / f"{n}").mkdir()
        for m in range(9):
            (tmp_path / f"{n}" / f"{m}").symlink_to(tmp_path / f"{m}")
    assert "do its links form a circle" in refused(load_images, f"folder:{tmp_path}")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_refused(flat, make, refused):
    path = flat / "image01.jpg"
    path.unlink()
    make(path)
    split = next(s for s in ("train", "test") if path in _paths(f"folder:{flat}", s))
    assert f"{path}: cannot be read, it is not a regular" in refused(
        load_images(f"folder:{flat}", split, image_size=4).stack
    )


def test_pictures_of_too_many_pixels_and_of_other_formats_are_refused(tmp_path, refused):
    for side in (9_000, 60_000):
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        (tmp_path / "bomb.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\x0aIDAT" + bytes(14)
        )
        assert "pixels" in refused(read_image, tmp_path / "bomb.png")
    Image.new("L", (4, 4)).save(tmp_path / "other.tif")
    (tmp_path / "named.png").write_bytes((tmp_path / "other.tif").read_bytes())
    (tmp_path / "text.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    for name in ("named.png", "text.png"):
        assert "unknown format" in refused(read_image, tmp_path / name)
