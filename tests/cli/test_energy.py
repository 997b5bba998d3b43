"""`spikediff energy` as a user types it."""

import csv
import json

import pytest
import torch

from spikediff.cli import main
from spikediff.models import SpikingUNet, ddpm_unet
from spikediff.pipelines import SpikingDiffusionPipeline
from spikediff.schedulers import make_scheduler


def saved(unet, folder):
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
    return saved(unet, tmp_path_factory.mktemp("model"))


QUICK = ["--num-images", "2", "--num-inference-steps", "3"]


def test_everything_at_once(model, tmp_path, capsys):
    files = ["--json", str(tmp_path / "e.json"), "--csv", str(tmp_path / "new" / "e.csv")]
    extras = ["--audit", "--memory", "--compare", "--plots", str(tmp_path / "plots")]
    assert main(["energy", model, *QUICK, *files, *extras]) == 0
    told = capsys.readouterr().out
    for words in ("up_blocks", "per image", "not fully spiking", "memory traffic", "ordinary"):
        assert words in told
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["images"] == 2
    assert len(figures["timesteps"]) == 3
    assert figures["energy_pj"] == pytest.approx(4.6 * figures["macs"] + 0.9 * figures["acs"])
    assert figures["ordinary_network"]["energy_ratio"] == pytest.approx(
        figures["energy_per_image_pj"] / figures["ordinary_network"]["energy_per_image_pj"]
    )
    assert 0 < figures["audit"]["share"] < 1
    with open(tmp_path / "new" / "e.csv", newline="") as file:
        assert sum(int(row["acs"]) for row in csv.DictReader(file)) == figures["acs"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "comparison.png",
        "energy_by_part.png",
        "firing_rate.png",
    }


def test_the_same_twice(model, tmp_path):
    for name in ("a.json", "b.json"):
        assert main(["energy", model, *QUICK, "--json", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_an_ordinary_network(tmp_path, capsys):
    folder = saved(ddpm_unet(8, 1, base_channels=8, channel_mult=(1, 2)), tmp_path)
    assert main(["energy", folder, *QUICK, "--plots", str(tmp_path / "plots")]) == 0
    assert "T = None" not in capsys.readouterr().out
    assert not (tmp_path / "plots" / "firing_rate.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--costs", "45mm"], "did you mean '45nm'"),
        (["--costs", "none.yaml"], "none.yaml: cannot be read, no such file"),
        (["--costs", "loihi"], "no price for a multiply-accumulate"),
        (["--num-images", "0"], "must be at least 1"),
        (["--audit", "--accounting", "paper"], "--audit needs --accounting strict"),
        (["--by", "colour"], "--by"),
    ],
)
def test_wrong_use_is_one_line(model, arguments, message, capsys):
    assert main(["energy", model, *QUICK, *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told


def test_an_ordinary_network_has_no_counterpart(tmp_path, capsys):
    folder = saved(ddpm_unet(8, 1, base_channels=8, channel_mult=(1, 2)), tmp_path)
    assert main(["energy", folder, *QUICK, "--compare"]) == 2
    assert "has no ordinary counterpart" in capsys.readouterr().err
