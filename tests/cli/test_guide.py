"""`spikediff guide` and `--threshold` as a user types them."""

import json

import pytest
import torch
from PIL import Image

from pixel_features import PIXELS
from sizes import ONE_LEVEL
from small_pipelines import made
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.evaluation.features import FEATURES
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training import recipe_from, save_recipe

STEPS = ["--num-inference-steps", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run folder with a pipeline of random weights."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    unet = SpikingUNet(**ONE_LEVEL)
    torch.nn.init.normal_(unet.head.conv.weight, std=0.3)  # a random network's head is silent
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.save_pretrained(folder / "pipeline")
    save_recipe(recipe_from({"name": "tiny"}, "test"), folder / "recipe.yaml")
    return folder


@pytest.fixture(autouse=True)
def _pixels(monkeypatch):
    monkeypatch.setitem(FEATURES, "pixels", PIXELS)


@pytest.fixture
def common(tmp_path):
    small = ["--features", "pixels", "--num-samples", "6", "--seeds", "2", *STEPS]
    return [*small, "--thresholds", "0.5,2", "--cache-dir", str(tmp_path / "cache")]


def guide(model, *options, to):
    assert main(["guide", str(model), *map(str, options), "--json", str(to)]) == 0
    return json.loads(to.read_text())


def test_a_search_writes_its_curve(model, common, tmp_path, capsys):
    found = guide(model, *common, "--plot", tmp_path / "p" / "c.png", to=tmp_path / "a.json")
    assert [row["threshold"] for row in found["curve"]] == [0.5, 1, 2]
    assert all(len(row["values"]) == 2 and row["std"] > 0 for row in found["curve"])
    assert found["reference"] == {"split": "train, held-out tenth", "images": 144}
    assert Image.open(tmp_path / "p" / "c.png").width > 500
    said = capsys.readouterr().out
    assert "144 held-out images of digits/train" in said
    assert str(tmp_path) not in json.dumps(found)
    recommended = {"confirmed gain": found["best"]}.get(found["verdict"], 1.0)
    assert found["recommended"] == recommended
    assert any("is an end of the grid" in note for note in found["notes"])
    used = 4 if found["confirmation"] else 2
    assert found["seeds"] == {"first": 0, "last": used * 6 - 1}


def test_the_numbers_are_those_of_the_images_that_sample_writes(model, common, tmp_path):
    """Guidance in the search is guidance in `sample --threshold`, on the same seeds."""
    found = guide(model, *common, "--metric", "kernel", to=tmp_path / "a.json")
    folder = tmp_path / "png"
    sample = ["--num-images", "6", "--no-gif", "--seed", "6", "--output", str(folder), *STEPS]
    assert main(["sample", str(model), *sample, "--threshold", "0.5"]) == 0

    from spikediff.data import load_images
    from spikediff.evaluation.features.network import extract
    from spikediff.evaluation.kernel import kernel_distance
    from spikediff.evaluation.sources import open_folder

    network = PIXELS.load()
    real = extract(network, load_images("digits", "train", held_out=True).stack()).features
    fake = extract(network, open_folder(folder).take(0, 6)).features
    want = kernel_distance(fake, real, subset_size=3).mean
    assert found["curve"][0]["values"][1] == pytest.approx(want, rel=1e-5)


def test_an_interrupted_search_goes_on(model, common, tmp_path, monkeypatch):
    whole = guide(model, *common, to=tmp_path / "whole.json")
    made, limit = [], [3]
    call = SpikingDiffusionPipeline.__call__

    def counting(self, *arguments, **options):
        if len(made) == limit[0]:
            raise KeyboardInterrupt
        made.append(options["seeds"])
        return call(self, *arguments, **options)

    monkeypatch.setattr(SpikingDiffusionPipeline, "__call__", counting)
    again = ["guide", str(model), *common, "--work-dir", str(tmp_path / "work")]
    assert main(again) == 1
    limit[0] = None
    assert guide(model, *again[2:], to=tmp_path / "again.json") == whole
    assert len(made) == 6 + (4 if whole["confirmation"] else 0), "nothing was made twice"


def test_a_layer_group(model, common, tmp_path):
    one = [*common, "--thresholds", "0.5"]
    everything = guide(model, *one, to=tmp_path / "a.json")
    stem = guide(model, *one, "--layers", "stem", to=tmp_path / "b.json")
    by_threshold = [
        {row["threshold"]: row["values"] for row in found["curve"]} for found in (everything, stem)
    ]
    assert by_threshold[0][1] == by_threshold[1][1]
    assert by_threshold[0][0.5] != by_threshold[1][0.5]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--metric", "frechett"], "did you mean 'frechet'"),
        (["--features", "pixles"], "did you mean 'pixels'"),
        (["--thresholds", "0.9,x"], "'x' is not a positive number"),
        (["--thresholds", "1"], "other than 1"),
        (["--seeds", "1"], "--seeds 1 must be at least 2"),
        (["--seeds", "9" * 20], "must be at most 1000"),
        (["--num-samples", "1"], "needs 2"),
        (["--budget-images", "35"], "give 36 or more"),
        (["--layers", "stemm"], "no layer of neurons is named 'stemm'"),
        (["--dataset", "digit"], "did you mean 'digits'"),
        (["--plot", "x.foo"], "--plot x.foo: ends in none of .svg, .pdf, .png"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(options, word, model, common, capsys):
    assert main(["guide", str(model), *common, *options]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert said.count("\n") == 1


def test_a_model_without_a_denoiser_is_refused(common, tmp_path, capsys):
    made("tokens").save_pretrained(tmp_path)
    assert main(["guide", str(tmp_path), *common, "--dataset", "digits"]) == 2
    assert "a VQSpikingDiffusionPipeline has no denoiser" in capsys.readouterr().err


def test_a_budget_is_kept(model, common, tmp_path, capsys):
    found = guide(model, *common, "--budget-images", "40", to=tmp_path / "a.json")
    assert len(found["curve"][0]["values"]) == 2
    found = guide(model, *common, "--budget-seconds", "0", to=tmp_path / "b.json")
    assert (found["verdict"], found["curve"]) == ("not measured", [])
    assert "same command continues" in " ".join(capsys.readouterr().out.split())


def pixels(folder):
    return [Image.open(path).tobytes() for path in sorted(folder.glob("seed-*.png"))]


def test_sample_with_a_threshold(model, tmp_path):
    two = ["--num-inference-steps", "2"]

    def sample(name, *options):
        arguments = ["--num-images", "3", "--no-gif", "--batch-size", "2", *two, *options]
        output = tmp_path / name
        assert main(["sample", str(model), "--output", str(output), *arguments]) == 0
        return pixels(output)

    plain = sample("plain")
    assert sample("one", "--threshold", "1") == plain
    guided = sample("guided", "--threshold", "0.5")
    assert guided != plain
    assert sample("steps", "--threshold", "0.5,0.5") == guided
    assert sample("layers", "--threshold", "*=0.5") == guided
    nowhere = ["--output", str(tmp_path / "nowhere"), *two]
    assert main(["sample", str(model), "--threshold", "0.5,1,1", *nowhere]) == 2
    assert main(["sample", str(model), "--threshold", "tail=0.5", *nowhere]) == 2


def test_evaluate_does_not_take_other_thresholds_images_for_its_own(model, tmp_path):
    (tmp_path / "p.yaml").write_text(
        "name: p\nsummary: s\ncaveat: c\nnum_samples: 6\n"
        "measurements:\n  - {network: pixels, metrics: [frechet]}\n"
    )
    common = [
        "--protocol",
        str(tmp_path / "p.yaml"),
        "--cache-dir",
        str(tmp_path / "cache"),
        *STEPS,
    ]

    def value(*options):
        to = tmp_path / "e.json"
        assert main(["evaluate", str(model), *common, *options, "--json", str(to)]) == 0
        found = json.loads(to.read_text())
        return found["metrics"]["pixels/clean/frechet"]["mean"], found["source"].get("threshold")

    plain, guided = value(), value("--threshold", "0.5")
    assert plain[1] is None
    assert guided[1] == 0.5
    assert guided[0] != plain[0]
    assert value("--threshold", "1")[0] == value()[0] == plain[0]


def test_real_images_have_no_thresholds(tmp_path, capsys):
    data = ["data:digits/train", "--dataset", "digits", "--cache-dir", str(tmp_path)]
    assert main(["evaluate", *data, "--threshold", "0.9"]) == 2
    assert "only for models" in capsys.readouterr().err


def test_lower_thresholds_cost_more_energy(model, tmp_path):
    def spent(*options):
        to = tmp_path / "e.json"
        arguments = ["--num-images", "1", *STEPS, *options, "--json", str(to)]
        assert main(["energy", str(model), *arguments]) == 0
        return json.loads(to.read_text())["energy_per_image_pj"]

    assert spent("--threshold", "0.5") > spent() > spent("--threshold", "2")
