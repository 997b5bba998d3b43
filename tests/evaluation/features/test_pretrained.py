"""Feature networks of timm: a random tiny one from a file, and what is said where it is absent."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.evaluation.features import load_features
from spikediff.evaluation.plan import choose_networks
from spikediff.evaluation.protocol import load_protocol


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def images(count, side, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)
    )


def test_features_are_what_the_classifier_of_timm_sees(weights):
    import timm
    from safetensors.torch import load_file

    network = load_features("timm:test_resnet", weights=weights)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    kept = {k: v for k, v in load_file(weights).items() if k in model.state_dict()}
    model.load_state_dict(kept)
    config = timm.data.resolve_model_data_config(model)
    assert network.image_size == config["input_size"][1]
    assert network.resize_filter == config["interpolation"]
    pixels = images(2, network.image_size)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = model((pixels / 255 - mean) / std)
    torch.testing.assert_close(network(pixels).features, wanted)
    assert network(pixels).probabilities is None


def test_the_short_name_takes_dinov2_at_224_pixels(tmp_path):
    timm = pytest.importorskip("timm")
    from spikediff.evaluation.features.pretrained import DINOV2

    torch.manual_seed(0)
    state = timm.create_model(DINOV2).state_dict()  # at 518 pixels, as it is published
    torch.save(state, tmp_path / "dino.pth")
    network = load_features("dinov2", weights=tmp_path / "dino.pth")
    assert (network.image_size, network.dimensions) == (224, 384)


def test_mistakes_are_told(weights, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'test_resnet'"):
        load_features("timm:test_resne", weights=weights)
    with pytest.raises(UserError, match="not the weights of test_vit"):
        load_features("timm:test_vit", weights=weights)
    torch.save({"w": print}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_features("timm:test_resnet", weights=tmp_path / "code.pth")

    import timm

    def offline(*_args, **_options):
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    told = r"no connection.*--feature-weights with the file model.safetensors of https://hugg"
    with pytest.raises(UserError, match=told):
        load_features("timm:test_resnet")


def test_an_absent_package_is_told_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if not installed
    with pytest.raises(UserError, match="is not installed; pip install 'timm>="):
        load_features("dinov2")


class Unlabelled:
    name, labels = "folder:photos", None


def test_a_protocol_takes_networks_of_timm_by_name(tmp_path):
    fair = load_protocol("fair").with_features(["timm:resnet18", "classifier"])
    chosen, _ = choose_networks(fair, Unlabelled, None, ("timm:resnet18",))
    [(part, file)] = chosen.items()
    assert (part.key, file) == ("timm:resnet18/clean", None)  # fetched
    (tmp_path / "resnet18.safetensors").touch()
    chosen, _ = choose_networks(fair, Unlabelled, tmp_path, ("timm:resnet18",))
    assert next(iter(chosen.values())).name == "resnet18.safetensors"
    (tmp_path / "mine.pth").touch()
    chosen, _ = choose_networks(fair, Unlabelled, tmp_path / "mine.pth", ("timm:resnet18",))
    assert next(iter(chosen.values())).name == "mine.pth"
    assert load_protocol("own-images").with_features(["dinov2"]) == load_protocol("own-images")


def test_own_images_are_judged_beside_their_floor(weights, tmp_path):
    folder, draw = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for n in range(120):
        pixels = draw.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    told = tmp_path / "told.json"
    call = ["evaluate", f"data:{folder}/train", "--dataset", str(folder), "--json", str(told)]
    by = ["--protocol", "own-images", "--features", "timm:test_resnet"]
    where = ["--feature-weights", str(weights), "--cache-dir", str(tmp_path / "cache")]
    assert main([*call, *by, *where]) == 0
    result = json.loads(told.read_text())
    for name in ("frechet", "kernel", "precision", "recall", "density", "coverage"):
        assert f"timm:test_resnet/clean/{name}" in result["metrics"]
        assert f"timm:test_resnet/clean/{name}" in result["floor"]
