"""`spikediff data`: what is in a folder, and what training would make of it."""

import json
import shlex

import pytest
from PIL import Image

from spikediff.cli import main


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for label, count in (("cat", 20), ("dog", 30)):
        (folder / label).mkdir(parents=True)
        for n in range(count):
            mode = "L" if n == 0 else "RGB"
            Image.new(mode, (20 + n, 40), n).save(folder / label / f"{n}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "dog" / "broken.png").write_bytes(b"nonsense")
    return folder


def test_the_command_can_be_pasted(photos, capsys):
    mine = photos.rename(photos.with_name("Meine Bilder ñ"))
    assert main(["data", str(mine)]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:5] == ["spikediff", "train", "integer/images", "--data.dataset", str(mine)]


def test_a_folder(photos, tmp_path, capsys):
    facts, sheet = tmp_path / "facts.json", tmp_path / "new" / "sheet.png"
    assert main(["data", str(photos), "--sheet", "s.foo"]) == 2
    assert "--sheet s.foo: ends in none of .png, .jpg" in capsys.readouterr().err
    assert main(["data", str(photos), "--json", str(facts), "--sheet", str(sheet)]) == 0
    told = json.loads(facts.read_text())
    assert sum(told["images"].values()) == 51  # the broken one counts as a file of the folder
    assert told["classes"] == {"cat": 20, "dog": 31}
    assert told["width"] == {"min": 20, "median": 32, "max": 49}
    assert told["height"] == {"min": 40, "median": 40, "max": 40}
    assert told["grey"] == 2
    reasons = {row["file"].rpartition("/")[2]: row["reason"] for row in told["skipped"]}
    assert reasons["notes.txt"].startswith("is skipped")
    assert "cannot be decoded" in reasons["broken.png"]
    training = told["training"]
    assert (training["image_size"], training["channels"]) == (32, 3)
    assert Image.open(sheet).mode == "RGB"
    said = capsys.readouterr().out
    assert "cat 20, dog 31" in said
    assert "spikediff train integer/images --data.dataset" in said
    assert "--model.num-classes 2" in said


def test_of_many_files_that_are_not_used_the_first_are_named(photos, monkeypatch, capsys):
    monkeypatch.setattr("spikediff.cli.data._NAMED", 1)
    assert main(["data", str(photos)]) == 0
    said = capsys.readouterr().out
    assert "2 files" in said
    assert ("broken.png: " in said) != ("notes.txt: " in said)
    assert "... (--json FILE lists all)" in said


def test_a_listed_data_set(capsys):
    assert main(["data", "digits"]) == 0
    said = capsys.readouterr().out
    assert "1,442 train, 355 test" in said
    assert "at 8 x 8, 1 channel" in said


def test_pictures_that_are_too_small_to_train_on(tmp_path, capsys):
    for n in range(5):
        Image.new("L", (5, 6)).save(tmp_path / f"{n}.png")
    assert main(["data", str(tmp_path)]) == 0
    assert "cannot train on them" in capsys.readouterr().out


def test_nothing_there(tmp_path, capsys):
    assert main(["data", "nix"]) == 2
    assert "unknown data set 'nix'" in capsys.readouterr().err
    assert main(["data", "my/photos"]) == 2
    assert "data set my/photos: no such folder" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"nonsense")
    assert main(["data", str(tmp_path)]) == 2
    assert "none of its pictures can be used" in capsys.readouterr().err
