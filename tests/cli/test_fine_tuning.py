"""`spikediff train sdm/digits --init-from RUN` and the ordinary twin, as a user types them."""

import pytest

from spikediff.cli import main
from spikediff.layers.temporal_scaling import scaling_factors
from spikediff.training.trained import load_trained

TINY = ["--model.base-channels", "8", "--model.channel-mult", "1", "--model.layers-per-block", "1"]
TINY += ["--data.batch-size", "4", "--training.steps", "2", "--sampling.num-images", "2"]
TINY += ["--sampling.num-inference-steps", "1", "--sampling.every", "0", "--threads", "1"]


def train(recipe, folder, *arguments):
    return main(["train", recipe, "--output", str(folder), *TINY, *arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine_tuning")
    for recipe in ("sddpm", "ddpm"):
        assert train(f"{recipe}/digits", folder / recipe) == 0
    return folder


@pytest.mark.usefixtures("figures_are_empty")
def test_fine_tuning(runs, capsys):
    assert train("sdm/digits", runs / "sdm", "--init-from", str(runs / "sddpm")) == 0
    assert (runs / "sdm" / "temporal_scaling.png").is_file()
    assert len(scaling_factors(load_trained(runs / "sdm").unet)) == 15
    assert main(["train", "sdm/digits", "--output", str(runs / "sdm"), *TINY, "--resume"]) == 0
    assert main(["info", str(runs / "sdm")]) == 0
    assert "temporal_scaling" in capsys.readouterr().out


def test_the_ordinary_run_samples_finished_or_not(runs, tmp_path):
    (runs / "ddpm" / "pipeline").rename(tmp_path / "pipeline")
    options = ["--num-images", "2", "--num-inference-steps", "2", "--no-gif"]
    for source, out in ((runs / "ddpm", "a"), (tmp_path / "pipeline", "b")):
        assert main(["sample", str(source), "--output", str(tmp_path / out), *options]) == 0
    grids = [(tmp_path / out / "grid.png").read_bytes() for out in "ab"]
    assert grids[0] == grids[1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sdm/digits", "--init-from", "absent"], "absent: no such folder"),
        (["sdm/digits", "--init-from", "RUNS/ddpm"], "holds UNet2DModel, the recipe makes"),
        (["sdm/digits", "--init-from", "RUNS"], "neither a pipeline"),
        (
            ["ddpm/digits", "--model.spiking-steps", "8"],
            "Unrecognized options: --model.spiking-steps, 8",
        ),
        (["ddpm/digits", "--model.network", "unet"], "did you mean 'ddpm_unet'"),
        (["sddpm/digits", "--model.attention"], "model.attention"),
    ],
)
def test_mistakes_get_one_line_and_code_2(arguments, word, runs, tmp_path, capsys):
    recipe, *rest = [a.replace("RUNS", str(runs)) for a in arguments]
    capsys.readouterr()
    assert train(recipe, tmp_path / "out", *rest) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert word in said[0]
    assert not (tmp_path / "out").exists()
