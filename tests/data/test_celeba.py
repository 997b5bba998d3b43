"""CelebA, on files of its layout that the test makes."""

import pytest

from spikediff.data import load_images

PARTS = {"train": 3, "valid": 2, "test": 1}


@pytest.fixture
def celeba(tmp_path, save_picture):
    home, lines, number = tmp_path / "celeba", [], 0
    for part, count in enumerate(PARTS.values()):
        for _ in range(count):
            number += 1
            path = home / "img_align_celeba" / f"{number:06}.jpg"
            save_picture(path, size=(178, 218), value=40 * part)
            lines.append(f"{path.name} {part}")
    (home / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("part", range(3))
def test_official_splits(celeba, part):
    split = list(PARTS)[part]
    for folder in (celeba, celeba / "celeba"):
        faces = load_images("celeba", split, data_dir=folder)
        assert len(faces) == PARTS[split]
        image, label = faces[0]
        assert image.shape == (3, 64, 64)
        assert label == -1
        assert abs(image.float().mean() - 40 * part) < 2
    assert faces.horizontal_flip


def test_other_sizes_keep_the_crop(celeba):
    assert load_images("celeba", image_size=148, data_dir=celeba)[0][0].shape == (3, 148, 148)


def test_already_cropped_files_are_refused(celeba, save_picture, refused):
    path = save_picture(celeba / "celeba" / "img_align_celeba" / "000001.jpg", size=(64, 64))
    message = refused(load_images("celeba", data_dir=celeba).stack)
    assert message.startswith(f"{path}: 64x64 pixels, smaller than the 148x148 crop")


def test_missing_images_are_counted(celeba, refused):
    for number in (2, 3):
        (celeba / "celeba" / "img_align_celeba" / f"{number:06}.jpg").unlink()
    message = refused(load_images, "celeba", data_dir=celeba)
    assert "lacks 2 of the 3 images" in message
    assert "000002.jpg" in message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("000001.jpg", "line 1: expected 'NAME.jpg 0|1|2'"),
        ("000001.jpg 0\n000002.jpg 7\n", "line 2"),
        ("", "lists no image of the train split"),
        ("../../secret.jpg 0", "lacks 1 of the 1 images"),
    ],
)
def test_a_damaged_list(celeba, content, word, refused):
    (celeba / "celeba" / "list_eval_partition.txt").write_text(content)
    assert word in refused(load_images, "celeba", data_dir=celeba)


def test_a_list_without_images_is_missing_files(celeba, refused):
    (celeba / "celeba" / "list_eval_partition.txt").unlink()
    message = refused(load_images, "celeba", data_dir=celeba)
    assert "img_align_celeba, list_eval_partition.txt" in message
