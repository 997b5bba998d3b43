"""The card: only what is known, whatever that is, and front matter that YAML reads."""

import json
import shutil

import pytest
import torch
import yaml

from pixel_features import PIXELS, PROTOCOL
from sizes import ONE_LEVEL
from small_pipelines import make
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.pipeline import weights_sha256
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.evaluation.features import FEATURES
from spikediff.hub.card import choose_picture, model_card
from spikediff.hub.describe import gather_facts, paper_of, shareable
from spikediff.hub.results import Results, collect_results, compare_with_ordinary
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.integer import IntegerSpikingUNet
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training import load_recipe, recipe_from, save_recipe
from spikediff.training.trained import load_trained

SECTIONS = [
    "How to load it",
    "The model",
    "Training",
    "Quality",
    "Energy",
    "Intended use and limits",
    "Licences",
    "Citation",
    "Versions",
]


@pytest.fixture(scope="module")
def measured(run_folder, tmp_path_factory):
    """The run, beside it what `evaluate` and `energy` wrote of it."""
    folder = shutil.copytree(run_folder, tmp_path_factory.mktemp("measured") / "run")
    (folder.parent / "pixels.yaml").write_text(PROTOCOL)
    short = ["--num-inference-steps", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FEATURES, "pixels", PIXELS)
        evaluate = ["--protocol", str(folder.parent / "pixels.yaml"), "--num-samples", "24"]
        evaluate += ["--cache-dir", str(folder.parent / "cache"), *short]
        told = ["--json", str(folder / "quality.json")]
        assert main(["evaluate", str(folder), *evaluate, *told]) == 0
    told = ["--json", str(folder / "energy.json"), "--num-images", "2", "--device", "cpu"]
    assert main(["energy", str(folder), *short, *told]) == 0
    return folder


def card_of(folder, results=None, licence=None):
    pipe = load_trained(folder)
    if results is None:
        results = collect_results(folder, weights_sha256(pipe))
    return model_card(gather_facts(pipe, folder, "tiny", results, licence), "me/tiny")


def sections(card):
    parts = card.text.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def test_of_a_run_that_nobody_measured(run_folder):
    card = card_of(run_folder)
    said = sections(card)
    assert list(said) == SECTIONS
    assert "not measured" in said["Quality"]
    assert "not measured" in said["Energy"]
    assert "Weights: not stated" in said["Licences"]
    assert "Data set digits: CC BY 4.0" in said["Licences"]
    for fact in (
        "| data set | digits |",
        "| split | train without its held-out tenth |",
        "| optimizer steps | 4 |",
        "| images seen | 32 (batches of 8) |",
        "| seed | 3 |",
        "| started from | random weights |",
    ):
        assert fact in said["Training"]
    unet = load_trained(run_folder).unet
    assert f"| unet | SpikingUNet | {unet.num_parameters():,} | T = 4 |" in said["The model"]
    assert "DDIMScheduler (num_train_timesteps 1000" in said["The model"]
    assert 'SpikingDiffusionPipeline.from_pretrained("me/tiny")' in said["How to load it"]
    assert "pip install .  " in said["How to load it"]
    assert "pip install dist/spikediff-*.whl" in said["How to load it"]
    assert "pip install spikediff" not in card.content
    imports = [line for line in card.text.splitlines() if line.startswith("from spikediff")]
    assert imports
    for line in imports:
        exec(line, {})
    assert "2306.17046" in said["Citation"]
    assert torch.__version__ in said["Versions"]
    front = yaml.safe_load(card.content.split("---\n")[1])
    assert front == {
        "library_name": "diffusers",
        "model_name": "tiny",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["spikediff", "spiking-neural-network", "neuromorphic", "diffusion", "sddpm"],
    }


def test_of_a_run_that_was_measured(measured):
    card = card_of(measured, licence="apache-2.0")
    said = sections(card)
    quality = json.loads((measured / "quality.json").read_text())
    energy = json.loads((measured / "energy.json").read_text())
    assert "Weights: apache-2.0" in said["Licences"]
    assert (
        "Protocol `pixels`: 24 images of the seeds 0 to 23; against 355 of digits/test; "
        in (said["Quality"])
    )
    assert "DDIMScheduler, 2 steps" in said["Quality"]
    assert "- pixels are no features" in said["Quality"]
    for name, value in quality["metrics"].items():
        row = f"| {name} | {value['mean']:.5g} | {quality['floor'][name]:.5g} |"
        assert row in said["Quality"]
    per_image = energy["energy_per_image_pj"] / 1e6
    assert f"| strict | 45nm | 2 | 2 | {per_image:,.3f} |" in said["Energy"]
    for layer, rate in energy["firing_rates"].items():
        assert f"| {layer} | {rate:.1%} |" in said["Energy"]
    assert "not measured on a device" in said["Energy"]
    front = yaml.safe_load(card.content.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert {"frechet", "kernel"} < set(front["metrics"])
    (entry,) = front["model-index"]
    values = {
        metric["name"].split(" ")[0]: metric["value"]
        for result in entry["results"]
        for metric in result["metrics"]
    }
    assert values == {name: value["mean"] for name, value in quality["metrics"].items()}


def test_the_card_names_what_changes_an_energy(measured):
    energy = json.loads((measured / "energy.json").read_text())
    energy |= {"execution": "delta", "batch_norm": "billed", "padding_counted": False}
    said = sections(card_of(measured, Results(energies=(energy,))))
    assert "| strict, by delta, batch norm billed, without padding | 45nm |" in said["Energy"]


def test_results_count_for_their_own_weights_only(measured, run_folder, tmp_path, caplog):
    other = tmp_path / "run"
    shutil.copytree(measured, other)
    pipe = load_trained(other)
    next(pipe.unet.parameters()).data += 1.0
    pipe.save_pretrained(other / "pipeline")
    weights = weights_sha256(load_trained(other))
    assert weights != weights_sha256(load_trained(measured))
    assert collect_results(other, weights) == Results()
    assert "was not measured on these weights; left out" in caplog.text
    quality = json.loads((measured / "quality.json").read_text())
    real = tmp_path / "real.json"
    real.write_text(json.dumps(quality | {"source": {"kind": "data", "sha256": "ab"}}))
    for kind, path, fault in (
        ("evaluations", measured / "quality.json", "was measured on other weights"),
        ("evaluations", real, "names no weights"),
        ("energies", measured / "energy.json", "was measured on other weights"),
    ):
        with pytest.raises(UserError, match=fault):
            collect_results(other, weights, **{kind: [path]})
    own = weights_sha256(load_trained(run_folder))
    given = collect_results(run_folder, own, energies=[measured / "energy.json"])
    assert len(given.energies) == 1
    assert given.evaluations == ()


def test_files_that_are_no_results_are_told(measured, tmp_path):
    wrong = tmp_path / "x.json"
    wrong.write_text("{}")
    with pytest.raises(UserError, match="is not a file of `spikediff evaluate --json`"):
        collect_results(measured, "", evaluations=[wrong])
    with pytest.raises(UserError, match="is not a file of `spikediff energy --json`"):
        collect_results(measured, "", energies=[measured / "quality.json"])
    wrong.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        collect_results(measured, "", energies=[wrong])
    with pytest.raises(UserError, match="no such file"):
        collect_results(measured, "", energies=[tmp_path / "absent.json"])


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("energy", {"images": 0}, "it counts no images"),
        ("energy", {"macs": "many"}, "macs: is damaged, 'many' is not a result"),
        ("energy", {"images": True}, "images: is damaged, True is not a result"),
        ("quality", {"metrics": {"new": {"mean": 1.0}}}, "it is not complete"),
        ("quality", {"source": {"weights_sha256": "", "scheduler": "D"}}, "it is not complete"),
    ],
)
def test_damaged_results_are_told(measured, tmp_path, kind, change, words):
    path = tmp_path / "x.json"
    content = json.loads((measured / f"{kind}.json").read_text()) | change
    weights = content.get("source", content)["weights_sha256"]
    path.write_text(json.dumps(content))
    given = {"evaluations" if kind == "quality" else "energies": [path]}
    with pytest.raises(UserError) as caught:
        collect_results(measured, weights, **given)
    assert f"{words}; measure again" in str(caught.value)


def test_other_files_beside_a_run_are_no_results(tmp_path, caplog):
    (tmp_path / "notes.json").write_text("{ not JSON")
    (tmp_path / "list.json").write_text("[1, 2]")
    assert collect_results(tmp_path, "ab") == Results()
    assert caplog.text == ""


def test_the_counterpart_of_a_network_of_classes_is_called_without_them():
    unet = SpikingUNet(**ONE_LEVEL, num_classes=3)
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    call = {"seeds": [0], "num_inference_steps": 1, "output_type": "pt"}
    columns = compare_with_ordinary(pipe, class_labels=1, **call).columns
    assert columns["ordinary"].plain.acs == 0 < columns["spiking"].plain.acs


def test_nothing_of_the_machine_stands_in_it(measured, run_folder):
    recipe = load_recipe(run_folder / "recipe.yaml")
    assert "secret" in recipe.data.data_dir
    assert shareable(recipe).data.data_dir is None
    assert "secret" not in card_of(measured).content
    assert str(measured.parent) not in card_of(measured).content
    folders = {
        "init_from": "/home/me/runs/a",
        "first_stage": "spiking-diffusion/mnist-first-stage",
        "data": {"dataset": "/home/me/cats"},
    }
    clean = shareable(recipe_from(folders, "test"))
    assert clean.init_from == "a"
    assert clean.first_stage == "spiking-diffusion/mnist-first-stage"
    assert clean.data.dataset == "folder:cats"


def test_a_resumed_run_does_not_pretend(run_folder, tmp_path):
    """Its recipe has more steps than the weights that lie beside it."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    recipe = load_recipe(folder / "recipe.yaml")
    save_recipe(
        recipe_from({"training": {"steps": 100}, "data": vars(recipe.data)}, ""),
        folder / "recipe.yaml",
    )
    training = sections(card_of(folder))["Training"]
    assert "| optimizer steps | not stated |" in training
    assert "| images seen | not stated" in training
    shutil.rmtree(folder / "pipeline")
    save_recipe(recipe, folder / "recipe.yaml")
    assert "| optimizer steps | 4 |" in sections(card_of(folder))["Training"]


def test_weights_without_a_run(tmp_path):
    make("fsvae").save_pretrained(tmp_path)
    said = sections(card_of(tmp_path))
    assert "there is no run beside the weights" in said["Training"]
    assert "No scheduler: one call makes an image" in said["The model"]
    assert "2110.00375" in said["Citation"]


@pytest.mark.parametrize(
    ("name", "arxiv"),
    [("currents", "2312.01742"), ("tokens", "2308.10187"), ("vae", "1312.6114")],
)
def test_every_system_cites_its_paper(name, arxiv, tmp_path):
    pipe = make(name)
    facts = gather_facts(pipe, tmp_path, "x", Results())
    card = model_card(facts, "me/x")
    assert arxiv in sections(card)["Citation"]
    spiking = "spiking-neural-network" in yaml.safe_load(card.content.split("---\n")[1])["tags"]
    assert spiking == (name != "vae")


def test_classes_can_be_asked_for(tmp_path):
    unet = SpikingUNet(**ONE_LEVEL, num_classes=3)
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    facts = gather_facts(pipe, tmp_path, "x", Results())
    assert "class_labels=0).images    # one of the classes 0 to 2" in model_card(facts, "me/x").text
    pipe.set_progress_bar_config(disable=True)
    picture = choose_picture(facts, tmp_path, pipe, num_inference_steps=1, count=2)
    assert picture.caption == "Images of the seeds 0 to 1, of the classes in turn, not selected"


def test_an_integer_network_has_counts_instead_of_steps(tmp_path):
    unet = IntegerSpikingUNet(8, 1, block_out_channels=(8,), layers_per_block=1, levels=3)
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    said = sections(model_card(gather_facts(pipe, tmp_path, "x", Results()), "me/x"))
    assert "| counts, D = 3 |" in said["The model"]


def test_temporal_scaling_is_sdms():
    assert paper_of([SpikingUNet(**ONE_LEVEL, temporal_scaling=True)]).name == "SDM"
    assert paper_of([ddpm_unet(8, 1, base_channels=32, channel_mult=(1,))]).name == "DDPM"
    assert paper_of([]) is None
