"""Size, channels and name of a run on images of your own: chosen once, and kept."""

import random
from dataclasses import replace

import pytest
from PIL import Image

from spikediff.data.dataset import Pictures, PictureShape
from spikediff.data.decoding import read_image, read_shape
from spikediff.errors import UserError
from spikediff.pretrained import find_recipe
from spikediff.training import load_recipe, own_images
from spikediff.training.own_images import choose_shape, named_by_data
from spikediff.training.recipe import load_run_recipe, recipe_from
from spikediff.training.trainer import Trainer

RECIPE = load_recipe(find_recipe("integer/images"))


def of_sides(*sides, grey=False):
    return [PictureShape(side + 5, side, grey) for side in sides]


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ((20, 33, 100), 32),  # the median decides
        ((16, 17, 90), 16),
        ((400, 500, 600), 64),
        ((28, 28, 28), 28),  # all agree, and two levels of patches of 2x2 divide it
        ((30, 30, 30), 16),  # all agree, but 30 is not divisible by 4
        ((512, 512), 64),
    ],
)
def test_the_size_is_one_that_the_network_divides(sides, size):
    chosen, line = choose_shape(RECIPE, of_sides(*sides))
    assert (chosen.data.image_size, chosen.data.channels) == (size, 3)
    assert f"training at {size} x {size} with 3 channels" in line


def test_one_channel_only_where_all_pictures_are_grey():
    grey, colour = of_sides(32, 32, grey=True), of_sides(32)
    assert choose_shape(RECIPE, grey)[0].data.channels == 1
    assert choose_shape(RECIPE, grey + colour)[0].data.channels == 3


def test_pictures_that_must_be_decoded_are_sampled(monkeypatch):
    def chosen(*modes, **data):
        pictures = Pictures(modes, lambda mode: Image.new(mode, (32, 40)), str, "here")
        monkeypatch.setattr(own_images, "read_pictures", lambda *_: pictures)
        recipe, line = choose_shape(replace(RECIPE, data=replace(RECIPE.data, **data)))
        return recipe.data.channels, line.partition(": ")[2]

    monkeypatch.setattr(own_images, "_DECODED", 2)
    channels, line = chosen("RGB", "L", "L", "L")
    assert (channels, line[:26]) == (3, "2 pictures (a sample of 4)")
    channels, line = chosen("L", "RGB", "L", "L")
    assert (channels, line[:11]) == (3, "4 pictures,"), "all are read before a colour is lost"
    assert chosen("L", "RGB", "L", "L", channels=1)[1].startswith("2 pictures (a")


def test_what_is_given_is_kept_and_listed_data_sets_are_left_alone():
    given = replace(RECIPE, data=replace(RECIPE.data, image_size=24))
    assert choose_shape(given, of_sides(100))[0].data.image_size == 24
    whole = replace(given, data=replace(given.data, channels=1))
    assert choose_shape(whole, of_sides(100)) == (whole, None)
    digits = recipe_from({"model": {"network": "integer_unet"}}, "here")
    assert choose_shape(digits) == (digits, None)


def test_a_size_that_does_not_exist_is_told():
    with pytest.raises(UserError, match=r"median shorter side is 5 pixels.*give data\.image_size"):
        choose_shape(RECIPE, of_sides(4, 5, 6))
    deep = {"network": "integer_unet", "block_out_channels": [8] * 9}
    content = {"model": deep, "data": {"dataset": "folder:photos"}}
    with pytest.raises(UserError, match="no size of 8, 16, 32, 64 fits"):
        choose_shape(recipe_from(content, "here"), of_sides(100, 90))


@pytest.mark.parametrize(
    ("data", "name"),
    [("folder:my/photos", "photos"), ("hf:someone/cats", "cats"), ("digits", "run")],
)
def test_a_run_without_a_name_is_named_by_its_folder(data, name):
    recipe = replace(RECIPE, data=replace(RECIPE.data, dataset=data))
    assert named_by_data(recipe).name == name
    assert named_by_data(replace(recipe, name="mine")).name == "mine"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_head_of_a_file_tells_the_shape_of_its_picture(mode, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new(mode, (6, 4)).save(tmp_path / "a.png", exif=exif)
    picture = read_image(tmp_path / "a.png")
    assert read_shape(tmp_path / "a.png") == (*picture.size, picture.mode == "L")
    (tmp_path / "b.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be decoded as an image"):
        read_shape(tmp_path / "b.png")


@pytest.fixture
def photos(tmp_path):
    folder, draw = tmp_path / "photos", random.Random(0)
    folder.mkdir()
    for n in range(40):
        size = (draw.randint(17, 30), draw.randint(17, 30))
        Image.new("RGB", size, (n, 5 * n, 99)).save(folder / f"{n}.png")
    return folder


def with_steps(folder, steps):
    content = {
        "model": {"network": "integer_unet", "block_out_channels": [4], "layers_per_block": 1},
        "data": {"dataset": str(folder), "batch_size": 4},
        "training": {"steps": steps},
        "sampling": {"num_images": 1, "num_inference_steps": 1, "every": 0},
    }
    return recipe_from(content, "here")


def test_the_choice_stands_in_the_recipe_of_the_run(photos, tmp_path):
    root = tmp_path / "run"
    root.mkdir()  # by a run that was killed before it wrote its recipe
    first = Trainer(with_steps(photos, 1), root, resume=True, show_progress=False)
    assert "training at 16 x 16 with 3 channels" in first.choice
    first.train()
    data = load_run_recipe(root).data
    assert (data.image_size, data.channels) == (16, 3)


def test_a_resumed_run_goes_on_at_its_size(photos, tmp_path):
    root = tmp_path / "run"
    Trainer(with_steps(photos, 1), root, show_progress=False).train()
    resumed = Trainer(with_steps(photos, 2), root, resume=True, show_progress=False)
    assert resumed.choice is None
    assert resumed.dataset.image_size == 16
    assert resumed.train()
