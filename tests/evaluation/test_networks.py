"""Which networks are used follows from the protocol, the data set and the weights."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from spikediff.errors import UserError
from spikediff.evaluation.plan import choose_networks
from spikediff.evaluation.protocol import Measurement, load_protocol

FAIR, FSDDIM, SDDPM = map(load_protocol, ("fair", "fsddim", "sddpm"))


def dataset(name="mnist", labels=True):
    return SimpleNamespace(name=name, labels=labels or None)


def chosen(protocol, data, given=None, asked=None):
    return {p.key: w for p, w in choose_networks(protocol, data, given, asked)[0].items()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/mnist_64.pth", "a/fashion_64.pth", "resnet20-12fca82f.th", "mine.pth"):
        (tmp_path / name).touch()
    return tmp_path


def test_the_data_set_decides_which_weights_fit(folder):
    assert chosen(FAIR, dataset()).keys() == {"classifier/clean"}
    assert chosen(FAIR, dataset(), folder)["fad/clean"].name == "mnist_64.pth"
    assert chosen(FAIR, dataset("fashion-mnist"), folder)["fad/clean"].name == "fashion_64.pth"
    assert chosen(FAIR, dataset("cifar10"), folder).keys() == {"classifier/clean", "resnet20/clean"}
    assert chosen(FAIR, dataset("digits"), folder).keys() == {"classifier/clean"}
    assert chosen(FAIR, dataset("celeba", labels=False), folder / "mine.pth").keys() == {
        "fad/clean"
    }


def test_a_file_is_its_networks_or_the_first_ones(folder):
    assert chosen(FSDDIM, dataset(), folder / "mine.pth").keys() == {"fad/published"}
    own = dataset("folder:pictures")  # has no file of its own
    assert chosen(FSDDIM, own, folder / "a" / "mnist_64.pth").keys() == {"fad/published"}
    assert chosen(FAIR, dataset("cifar10"), folder / "resnet20-12fca82f.th").keys() == {
        "classifier/clean",
        "resnet20/clean",
    }


def test_every_network_with_a_published_file_finds_it(folder):
    part = Measurement("resnet56", ("frechet",))
    protocol = replace(FAIR, measurements=(part,))
    (folder / "resnet56-4bfd9763.th").touch()
    assert chosen(protocol, dataset("cifar10"), folder)["resnet56/clean"].name.endswith("63.th")


def test_what_is_left_out_is_noted():
    _, notes = choose_networks(FAIR, dataset(), None, None)
    assert len(notes) == 3
    assert any("mnist_64.pth" in note for note in notes)


def test_asking_for_some_takes_only_them_and_needs_them(folder):
    assert chosen(FAIR, dataset(), folder, ("fad",)).keys() == {"fad/clean"}
    with pytest.raises(UserError, match=r"pass --feature-weights with mnist_64\.pth"):
        choose_networks(FAIR, dataset(), None, ("fad",))
    with pytest.raises(UserError, match="did you mean 'classifier'"):
        choose_networks(FAIR, dataset(), None, ("clasifier",))
    with pytest.raises(UserError, match="'resnet56'; it has classifier, fad, resnet20, inception"):
        choose_networks(FAIR, dataset(), None, ("resnet56",))


@pytest.mark.parametrize(
    ("protocol", "data", "given", "word"),
    [
        (FSDDIM, dataset(), None, "mnist_64.pth"),
        (FSDDIM, dataset("cifar10"), "", "weights for cifar10"),
        (SDDPM, dataset(), None, "weights-inception-2015-12-05-6726825d.pth"),
        (SDDPM, dataset(), "a/mnist_64.pth", "is of fad"),
        (FSDDIM, dataset(), "a/fashion_64.pth", "is for fashion-mnist; give mnist_64.pth"),
        (FSDDIM, dataset("digits"), None, "fad has no published weights for digits"),
        (FAIR, dataset(), "absent", "no such file or folder"),
        (FAIR, dataset("celeba", labels=False), None, "nothing to measure with"),
    ],
)
def test_what_is_needed_is_told(protocol, data, given, word, folder):
    with pytest.raises(UserError) as error:
        choose_networks(protocol, data, None if given is None else folder / given, None)
    assert word in str(error.value)
