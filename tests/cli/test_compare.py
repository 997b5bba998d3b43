"""`spikediff compare` and `sd.compare`: one table and one figure over several models."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spikediff as sd
from pixel_features import PIXELS, PROTOCOL
from sizes import ONE_LEVEL
from small_pipelines import made
from spikediff.cli import main
from spikediff.cli.comparison import ComparedModel, ModelComparison
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.evaluation.features import FEATURES
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.training import recipe_from, save_recipe

QUICK = ["--num-images", "1", "--num-inference-steps", "2"]
WITHOUT_WEIGHTS = PROTOCOL.replace("pixels, metrics: [frechet, kernel", "fad, metrics: [frechet")
WITHOUT_WEIGHTS = WITHOUT_WEIGHTS.replace(
    "[frechet, inception_score, neighbours]}", "[frechet], required: false}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run, a deployment form and an ordinary network, of random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    integer = IntegerSpikingUNet(8, 1, block_out_channels=(8,), layers_per_block=1).eval()
    networks = {
        "run/pipeline": SpikingUNet(**ONE_LEVEL),
        "whole": to_integer(integer),
        "ordinary": ddpm_unet(**ONE_LEVEL),
    }
    for name, unet in networks.items():
        pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        pipe.save_pretrained(folder / name)
    save_recipe(recipe_from({"name": "tiny"}, "test"), folder / "run" / "recipe.yaml")
    return folder


@pytest.fixture
def quality(monkeypatch, tmp_path):
    """Options that measure quality at no cost."""
    monkeypatch.setitem(FEATURES, "pixels", PIXELS)
    (tmp_path / "pixels.yaml").write_text(PROTOCOL)
    given = {"protocol": tmp_path / "pixels.yaml", "dataset": "digits", "num_samples": 24}
    return given | {"cache_dir": tmp_path / "cache"}


def typed(options):
    pairs = ((f"--{key.replace('_', '-')}", str(value)) for key, value in options.items())
    return [text for pair in pairs for text in pair]


@pytest.mark.usefixtures("figures_are_empty")
def test_a_table_and_every_file(models, quality, tmp_path, capsys):
    sources = [str(models / name) for name in ("run", "whole", "ordinary")]
    files = {name: tmp_path / "new" / f"c.{name}" for name in ("markdown", "latex", "json")}
    files["figure"] = tmp_path / "new" / "c.svg"
    assert main(["compare", *sources, *QUICK, *typed(quality), *typed(files)]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    found = json.loads(files["json"].read_text())
    run, whole, ordinary = found["models"]
    assert "arithmetic alone, of 1 image\n" in table
    for text in (table, files["markdown"].read_text(), files["latex"].read_text()):
        assert "24 samples instead of 100: not comparable with others" in text
        assert "the covariance is singular" in " ".join(text.split())
    assert [model["name"] for model in found["models"]] == ["run", "whole", "ordinary"]

    alone = sd.evaluate(sources[0], num_inference_steps=2, **quality)
    assert run["quality"] == json.loads(json.dumps(alone))
    for shown in (alone["metrics"]["pixels/clean/frechet"]["mean"], run["parameters"]):
        text = f"{shown:,}" if isinstance(shown, int) else f"{shown:.4g}"
        assert text in table
        assert text in files["markdown"].read_text()
        assert text in files["latex"].read_text()

    energy = tmp_path / "energy.json"
    assert main(["energy", sources[1], *QUICK, "--compare", "--json", str(energy)]) == 0
    columns = json.loads(energy.read_text())["comparison"]["columns"]
    for ours, theirs in (("energy_pj", "plain"), ("energy_whole_pj", "whole_numbers")):
        priced = {key: column[theirs] for key, column in columns.items() if column[theirs]}
        assert whole[ours] == {
            key: pytest.approx(figures["energy_per_image_pj"]["arithmetic"])
            for key, figures in priced.items()
        }
    assert set(whole["energy_whole_pj"]) == {"quantised", "spiking", "spiking_by_changes"}
    assert whole["spikes_per_synapse_by_changes"] == pytest.approx(
        columns["spiking_by_changes"]["spikes_per_synapse"]
    )
    assert list(ordinary["energy_pj"]) == ["ordinary"]
    assert ordinary["spiking_steps"] is None
    assert ordinary["bytes"] == 4 * ordinary["parameters"]  # float32, no buffers
    assert whole["bytes"] < 2 * whole["parameters"]  # weights of 8 bits
    assert all(model["seconds_per_image"] > 0 for model in found["models"])
    assert files["figure"].is_file()


def test_options_of_a_source_alone(models):
    source = models / "whole"
    named = [f"{source}@steps=1,execution=delta,name=few", f"{source}@scheduler=unipc", source]
    compared = sd.compare(named, num_inference_steps=2, num_images=1, quality=False)
    assert [model.network_calls for model in compared.models] == [1, 2, 2]
    assert [m.name for m in compared.models] == ["few", "whole@scheduler=unipc", "whole"]
    assert compared.models[0].options["execution"] == "delta"
    assert "| few | whole@scheduler=unipc | whole |" in compared._repr_markdown_()


@pytest.mark.usefixtures("figures_are_empty")
def test_without_a_feature_network_quality_is_left_out_with_a_word(models, tmp_path, capsys):
    (tmp_path / "fad.yaml").write_text(WITHOUT_WEIGHTS)
    options = ["--protocol", str(tmp_path / "fad.yaml"), "--figure", str(tmp_path / "c.png")]
    assert main(["compare", str(models / "run"), *QUICK, *options]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "run: quality not measured (protocol pixels: nothing to measure with; left out: fad" in told
    )
    assert (tmp_path / "c.png").is_file()


def test_pipelines_of_other_kinds(tmp_path):
    kinds = ("tokens", "fsvae", "vae")
    for name in kinds:
        made(name).save_pretrained(tmp_path / name)
    sources = [tmp_path / name for name in kinds]
    compared = sd.compare(sources, num_inference_steps=1, num_images=1, quality=False)
    tokens, fsvae, vae = compared.models
    assert list(tokens.energy_pj) == list(fsvae.energy_pj) == ["spiking"]
    assert list(vae.energy_pj) == ["ordinary"]
    assert tokens.network == "VQSVAE + SpikingImageDecoder"
    assert (tokens.network_calls, fsvae.spiking_steps, vae.spikes_per_synapse) == (1, 8, None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give one or more models"),
        (["{run}", "{run}"], "given twice"),
        (["{run}", "{nowhere}"], "error: {nowhere}: no such folder"),
        (["{run}@step=3"], "did you mean 'steps'"),
        (["{run}@steps=none"], "steps=none must be a whole number"),
        (["{run}@steps=99999"], "must be at most"),
        (["{run}@execution=delta"], "only the deployment form"),
        (["{run}@scheduler=euler"], "run@scheduler=euler"),
        (["{run}@threshold=much"], "much"),
        (["{run}@name="], "name has no value"),
        (["{run}@name=x,name=y"], "an option is given twice"),
        (["{run}", "--figure", "c.gif"], "--figure c.gif: ends in none of .svg, .pdf, .png"),
        (["{run}", "--figure", "{run}"], "is a folder"),
        (["{run}", "--num-images", "0"], "must be at least 1"),
        (["{run}", "--costs", "45mm"], "did you mean '45nm'"),
        (["{run}", "--quality", "--protocol", "fairer"], "did you mean 'fair'"),
        (["{whole}", "--quality"], "--no-quality skips quality"),
        (["{run}", "--repeats", "3"], "--no-quality: options of quality have no effect"),
    ],
)
def test_mistakes_are_one_line(models, arguments, told, capsys):
    names = {name: models / name for name in ("run", "whole", "nowhere")}
    wrong = [text.format(**names) for text in arguments]
    assert main(["compare", *QUICK, "--no-quality", *wrong]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert told.format(**names) in lines[0]


def test_mistakes_in_python():
    with pytest.raises(sd.UserError, match="did you mean 'figure'"):
        sd.compare(["digits"], figur="x.svg")
    with pytest.raises(sd.UserError, match="ends in none of"):
        sd.compare(["digits"], figure="x.gif")
    with pytest.raises(sd.UserError, match=r"^figure x\.gif: ends in none of"):
        ModelComparison((model("a", 1.0),), "45nm", 16).plot("x.gif")
    with pytest.raises(sd.UserError, match="must be at least 1"):
        sd.compare(["digits"], repeats=0)


energies = st.floats(1e-3, 1e16)
metric = st.fixed_dictionaries({"mean": st.floats(0, 1e9), "std": st.none() | st.floats(0, 1e9)})
compared_models = st.builds(
    ComparedModel,
    name=st.text([*map(chr, range(32, 127))], min_size=1, max_size=60),
    source=st.just("x"),
    options=st.just({}),
    network=st.just("SpikingUNet"),
    network_calls=st.integers(1, 10**6),
    spiking_steps=st.none() | st.integers(1, 1024),
    parameters=st.integers(0, 10**13),
    bytes=st.integers(0, 10**13),
    seconds_per_image=st.floats(1e-9, 1e9),
    spikes_per_synapse=st.none() | st.floats(0, 1024),
    energy_pj=st.fixed_dictionaries({"spiking": energies}, optional={"ordinary": energies}),
    quality=st.none()
    | st.fixed_dictionaries(
        {
            "metrics": st.fixed_dictionaries({"fad/published/frechet": metric}),
            "floor": st.fixed_dictionaries({"fad/published/frechet": st.floats(0, 1e9)}),
            "dataset": st.sampled_from(["mnist", "digits"]),
            "protocol": st.just({"name": "fsddim"}),
            "reference": st.just({"split": "test"}),
            "counts": st.sampled_from([9, 10]).map(
                lambda judged: {"judged": judged, "repeats": 1, "reference": 9, "floor": 9}
            ),
        }
    ),
)


@settings(max_examples=40)
@given(st.lists(compared_models, min_size=1, max_size=9))
def test_any_table_fits_a_terminal_and_keeps_every_column(models):
    compared = ModelComparison(tuple(models), "45nm", 16)
    assert all(len(line) <= 80 for line in compared.table().splitlines())
    assert compared.table().count("network calls per image") == -(-len(models) // 4)
    rows = [line for line in compared.latex().splitlines() if line.startswith("parameters")]
    assert rows[0].count(" & ") == len(models)
    assert ("different data sets" in compared.table()) == (
        len({m.quality["dataset"] for m in models if m.quality}) > 1
    )
    assert ("different numbers of images" in compared.table()) == (
        len({m.quality["counts"]["judged"] for m in models if m.quality}) > 1
    )


def model(name, energy, **more):
    given = {"source": name, "options": {}, "network": "", "network_calls": 1, "spiking_steps": 4}
    given |= {"parameters": 1, "bytes": 4, "seconds_per_image": energy, **more}
    return ComparedModel(name=name, energy_pj={"spiking": 1e6 * energy}, **given)


def test_latex_shows_what_was_typed():
    told = ModelComparison((model(r"a_b%c&d\e{f}~g^", 1.0),), "45nm", 16).latex()
    shown = r"a\_b\%c\&d\textbackslash{}e\{f\}\textasciitilde{}g\textasciicircum{}"
    assert f" & {shown} \\\\" in told
    assert r"$T \times$" not in told  # nobody has a rate
    assert r"$\mu$J per image, 45nm" in told


SLOW = [pytest.param(ending, marks=pytest.mark.slow) for ending in ("pdf", "png")]


@pytest.mark.parametrize("ending", ["svg", *SLOW])
def test_the_same_figure_twice(ending, tmp_path):
    count = 8 if ending == "svg" else 1
    models = tuple(model(f"model {i}", i + 1.0) for i in range(count))
    for name in ("a", "b"):
        ModelComparison(models, "45nm", 16).plot(tmp_path / f"{name}.{ending}")
    first = (tmp_path / f"a.{ending}").read_bytes()
    assert first == (tmp_path / f"b.{ending}").read_bytes()
    assert first.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[ending])
    if ending == "svg":
        assert all(f"<!-- model {i} -->" in first.decode() for i in range(count))
