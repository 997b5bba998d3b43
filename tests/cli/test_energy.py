"""`spikediff energy` as a user types it."""

import csv
import json
import re
from types import SimpleNamespace

import pytest
import torch

from sizes import ONE_LEVEL
from spikediff.cli import main
from spikediff.cli.arguments import build
from spikediff.cli.energy import EnergyOptions, _draw
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.converted.network import ConvertedUNet
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsddim.scheduler import SynapticCurrentDDIMScheduler
from spikediff.systems.fsvae import VAE
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.sddpm.network import SpikingUNet


def saved(unet, folder):
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    unet = SpikingUNet(**ONE_LEVEL)
    return saved(unet, tmp_path_factory.mktemp("model"))


QUICK = ["--num-images", "2", "--num-inference-steps", "3"]
LEAST = ["--num-images", "1", "--num-inference-steps", "1"]


@pytest.mark.usefixtures("figures_are_empty")
def test_everything_at_once(model, tmp_path, capsys):
    files = ["--json", str(tmp_path / "e.json"), "--csv", str(tmp_path / "new" / "e.csv")]
    extras = ["--audit", "--memory", "--compare", "--plots", str(tmp_path / "plots")]
    assert main(["energy", model, *QUICK, *files, *extras]) == 0
    told = capsys.readouterr().out
    for words in ("up_blocks", "per image", "not fully spiking", "memory traffic", "T x rate"):
        assert words in told
    lines = [line for line in told.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    assert " uJ per image, " in lines[0]
    assert re.search(r"neurons fire at [\d.]+% of their\s+updates", told)
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["images"] == 2
    assert len(figures["timesteps"]) == 3
    assert figures["energy_pj"] == pytest.approx(4.6 * figures["macs"] + 0.9 * figures["acs"])
    columns = figures["comparison"]["columns"]
    assert list(columns) == ["ordinary", "quantised", "spiking", "spiking_by_changes"]
    energy = columns["spiking"]["plain"]["energy_per_image_pj"]
    assert energy["arithmetic"] == pytest.approx(figures["energy_per_image_pj"])
    assert energy["with_memory_tensors_once"] * 2 == pytest.approx(
        figures["memory"]["every_tensor_once"]["energy_with_memory_pj"]
    )
    assert columns["spiking_by_changes"]["plain"] is None  # windows of T = 4 keep nothing
    assert columns["ordinary"]["plain"]["macs"] == columns["quantised"]["whole_numbers"]["macs"]
    assert 0 < figures["audit"]["share"] < 1
    with open(tmp_path / "new" / "e.csv", newline="") as file:
        assert sum(int(row["acs"]) for row in csv.DictReader(file)) == figures["acs"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "comparison.png",
        "energy_by_part.png",
        "firing_rate.png",
    }


def test_the_bars_of_both_accountings_share_the_other_settings(monkeypatch, tmp_path):
    for name in ("plot_parts", "plot_comparison"):
        monkeypatch.setattr(f"spikediff.energy.plots.{name}", lambda *_: None)
    asked = []
    meter = SimpleNamespace(report=lambda *which, **how: asked.append((which, how)))
    given = {"source": "digits", "plots": tmp_path, "batch_norm": "billed", "padding": False}
    _draw(meter, SimpleNamespace(neuron_updates=0), meter, build(EnergyOptions, given))
    assert asked == [(("paper", "45nm"), {"batch_norm": "billed", "padding": False})]


@pytest.mark.slow
def test_figures_and_plots_are_the_same_files_twice(model, tmp_path):
    """A PDF is, too: see `test_the_same_figure_twice` of the function that writes both."""
    for name in ("a", "b"):
        plots = ["--plots", str(tmp_path / name), "--plot-format", "svg"]
        json_file = ["--json", str(tmp_path / name / "energy.json")]
        assert main(["energy", model, *QUICK, *plots, *json_file]) == 0
    for name in ("energy_by_part.svg", "firing_rate.svg", "energy.json"):
        written = (tmp_path / "a" / name).read_bytes()
        assert written.startswith(b"<?xml" if name.endswith("svg") else b"{")
        assert written == (tmp_path / "b" / name).read_bytes()


@pytest.mark.usefixtures("figures_are_empty")
@pytest.mark.parametrize("network", ["unet", "vae"])
def test_an_ordinary_network(network, tmp_path, capsys):
    folder = str(tmp_path)
    if network == "unet":
        saved(ddpm_unet(**ONE_LEVEL), tmp_path)
    else:
        VAEPipeline(VAE(8, 1, channels=(4, 8), latent_channels=6)).save_pretrained(tmp_path)
    assert (
        main(["energy", folder, *LEAST[2:], "--num-images", "2", "--plots", f"{folder}/plots"]) == 0
    )
    assert "images measured: 2; no neurons" in capsys.readouterr().out
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
        (["--differences"], "need --compare"),
        (["--plot-format", "svg"], "--plot-format needs --plots"),
        (["--compare", "--differences", "--accounting", "paper"], "needs --accounting strict"),
        (["--execution", "delta"], "--execution delta"),
        (["--json", "-"], "--json -: standard output is not supported"),
        (["--plots", __file__], "is not a folder; choose another --plots"),
        (["--synapses", "merged"], "only a SynapticCurrentUNet (FSDDIM) has them"),
    ],
)
def test_wrong_use_is_one_line(model, arguments, message, capsys):
    assert main(["energy", model, *LEAST, *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told


def test_an_ordinary_network_has_no_counterpart(tmp_path, capsys):
    folder = saved(ddpm_unet(**ONE_LEVEL), tmp_path)
    assert main(["energy", folder, *LEAST, "--compare"]) == 2
    assert "has no ordinary counterpart" in capsys.readouterr().err


@pytest.fixture(scope="module")
def integer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("integer")
    unet = IntegerSpikingUNet(8, 1, block_out_channels=(8,), layers_per_block=1).eval()
    saved(unet.ann_counterpart(), folder / "ordinary")
    saved(ddpm_unet(**ONE_LEVEL), folder / "other")
    saved(to_integer(unet), folder / "deployed")
    saved(
        ddpm_unet(16, 1, base_channels=8, channel_mult=(1, 2), layers_per_block=1), folder / "large"
    )
    return folder


def test_the_deployment_form_beside_a_trained_counterpart(integer, tmp_path, capsys):
    given = ["--compare", "--counterpart", str(integer / "ordinary"), "--differences"]
    figures = {}
    quick = ["--num-images", "1", "--num-inference-steps", "2"]
    for execution in ("counts", "delta"):
        file = tmp_path / f"{execution}.json"
        how = ["--execution", execution, "--json", str(file)]
        assert main(["energy", str(integer / "deployed"), *quick, *given, *how]) == 0
        figures[execution] = json.loads(file.read_text())
    table = capsys.readouterr().out.split("\n\n")[-1]
    assert max(map(len, table.splitlines())) <= 80
    assert "of a trained counterpart" in table
    assert figures["counts"]["comparison"] == figures["delta"]["comparison"]
    columns = figures["counts"]["comparison"]["columns"]
    assert len(columns) == 5
    rates = {name: column["spikes_per_synapse"] for name, column in columns.items()}
    assert rates["spiking_by_changes"] == figures["delta"]["spikes_per_synapse"]
    assert rates["spiking"] == figures["counts"]["spikes_per_synapse"] > 0
    assert 0 < columns["quantised_by_differences"]["changed_share"] < 1


def test_a_counterpart_of_another_size_is_told(integer, tmp_path, capsys):
    given = ["--compare", "--counterpart", str(integer / "other"), "--json", str(tmp_path / "e")]
    assert main(["energy", str(integer / "deployed"), *LEAST, *given]) == 0
    found = json.loads((tmp_path / "e").read_text())["comparison"]
    assert found["counterpart"] == "other"
    sizes = f"{found['counterpart_parameters']:,} parameters; the network's own has"
    assert f"{sizes} {found['own_parameters']:,}" in " ".join(capsys.readouterr().out.split())
    given = [str(integer / "other"), *LEAST, "--compare", "--counterpart", str(integer / "other")]
    assert main(["energy", *given]) == 0  # an ordinary network has no counterpart of its own


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("deployed", "DeployedIntegerUNet has neurons"),
        ("large", "sample_size is 16, not 8"),
        ("none", "none"),
    ],
)
def test_another_counterpart_is_refused_before_the_work(
    integer, other, message, monkeypatch, capsys
):
    monkeypatch.setattr("spikediff.cli.energy._observe", None)
    given = ["--compare", "--counterpart", str(integer / other)]
    assert main(["energy", str(integer / "deployed"), *LEAST, *given]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def converted():
    unet = ddpm_unet(**ONE_LEVEL)
    architecture = {key: value for key, value in unet.config.items() if key[0] != "_"}
    return SpikingDiffusionPipeline(ConvertedUNet(architecture).eval(), make_scheduler("ddim"))


def fsddim(**options):
    unet = SynapticCurrentUNet(**ONE_LEVEL, spiking_steps=2, **options)
    return SynapticCurrentPipeline(unet.eval(), SynapticCurrentDDIMScheduler())


def integer_spiking():
    unet = IntegerSpikingUNet(8, 1, block_out_channels=(8,), layers_per_block=1).eval()
    return SpikingDiffusionPipeline(unet, make_scheduler("unipc"))


@pytest.mark.parametrize(("make", "bits"), [(converted, 2), (fsddim, 2), (integer_spiking, 3)])
def test_every_network_has_a_counterpart(make, bits, tmp_path, capsys):
    make().save_pretrained(tmp_path / "model")
    told = ["--compare", "--json", str(tmp_path / "e.json")]
    assert main(["energy", str(tmp_path / "model"), *LEAST, *told]) == 0
    comparison = json.loads((tmp_path / "e.json").read_text())["comparison"]
    assert comparison["activation_bits"] == bits
    ordinary, quantised, spiking = list(comparison["columns"].values())[:3]
    assert ordinary["plain"]["macs"] == quantised["whole_numbers"]["macs"] > 0
    assert ordinary["plain"]["acs"] == 0 < spiking["plain"]["acs"]
    assert f"8x{bits} bits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("synapses", "multiplied"),
    [("merged", "layers.stem_neuron.synapses.image"), ("carried", "stem")],
)
def test_of_merged_and_carried_synapses_only_those_of_the_image_multiply(
    synapses, multiplied, tmp_path
):
    fsddim(spiking_stem=True).save_pretrained(tmp_path / "model")
    call = ["energy", str(tmp_path / "model"), "--num-images", "1", "--num-inference-steps", "2"]
    told = ["--synapses", synapses, "--audit", "--json", str(tmp_path / "e.json")]
    assert main([*call, *told]) == 0
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["synapses"] == synapses
    assert {row["layer"] for row in figures["audit"]["findings"]} == {"scheduler", multiplied}


def test_a_price_of_neuron_updates_is_told_beside_the_energy(model, tmp_path, capsys):
    prices = "mac_pj: 2\nac_pj: 1\nneuron_update_pj: 1000\nsource: my simulator\n"
    (tmp_path / "mine.yaml").write_text(prices)
    told = ["--costs", str(tmp_path / "mine.yaml"), "--json", str(tmp_path / "e.json")]
    assert main(["energy", model, *LEAST, *told]) == 0
    updates = json.loads((tmp_path / "e.json").read_text())["neuron_updates"]
    assert f"neuron updates add {updates / 1e3:,.3f} uJ per image" in capsys.readouterr().out
