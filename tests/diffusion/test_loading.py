"""Networks are loaded whole, or what is wrong is named; their weights have memory of their own."""

import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sizes import U_NET
from small_pipelines import MAKERS, made, make
from spikediff.cli import main
from spikediff.diffusion.classes import class_names
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.model import with_own_memory
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.hub.load import load_pipeline
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.released import load_authors_checkpoint
from spikediff.systems.sddpm.network import SpikingUNet

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def damage(path, change):
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_weights_out_of_the_middle_of_a_file():
    file = torch.randn(1 + 12 * 64)
    layer = nn.Linear(12, 64)
    layer.weight.data = file[1:].view(64, 12)
    model = nn.Sequential(layer)
    with_own_memory(model, None)
    assert torch.equal(layer.weight, file[1:].view(64, 12))
    assert layer.weight.untyped_storage().nbytes() == 4 * 12 * 64
    assert layer.weight.data_ptr() % 64 == 0
    assert model[0] is layer


def test_the_type_that_was_asked_for():
    half = nn.BatchNorm1d(2)
    with_own_memory(half, torch.float16)
    assert half.running_mean.dtype == half.weight.dtype == torch.float16
    assert half.num_batches_tracked.dtype == torch.int64


def ordinary():
    unet = ddpm_unet(**U_NET)
    return SpikingDiffusionPipeline(unet, make_scheduler("ddim"))


@pytest.fixture(scope="module", params=["denoiser", "ordinary"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (ordinary() if request.param == "ordinary" else make(request.param)).save_pretrained(folder)
    return folder


def test_weights_of_a_variant_are_named(tmp_path):
    make("denoiser").save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(UserError, match=r"variant='fp16'\) reads diffusion_pytorch_model.fp16.s"):
        load_pipeline(tmp_path)


def test_types_in_diffusers_forms(saved):
    """By part, "auto", and for other parts than a network of the caller's own."""
    asked = {"dtype": {"unet": torch.float16, "default": torch.float32}}
    assert SpikingDiffusionPipeline.from_pretrained(saved, **asked).unet.dtype == torch.float16
    asked = {"dtype": {"default": torch.float16}}
    mine = SpikingDiffusionPipeline.from_pretrained(saved, **asked).unet
    assert mine.dtype == torch.float16
    again = SpikingDiffusionPipeline.from_pretrained(saved, unet=mine, dtype=torch.float32)
    assert again.unet is mine
    assert mine.dtype == torch.float16
    assert type(mine).from_pretrained(saved / "unet", dtype="auto").dtype == torch.float32


@pytest.fixture
def model(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change(state, what):
    """Spoil a tensor; return its name."""
    name = next((n for n in state if "running_var" in n), None) if what == "buffer" else None
    name = name or next(n for n, t in state.items() if t.dim() == 4)
    if what in ("buffer", "parameter"):
        del state[name]
    elif what == "unknown":
        name = "extra.weight"
        state[name] = torch.zeros(2)
    elif what == "shape":
        state[name] = state[name][:1].clone()
    elif what == "NaN":
        state[name].view(-1)[-1] = torch.nan
    elif what == "infinity":
        state[name].view(-1)[0] = torch.inf
    else:
        state[name] = state[name].to(getattr(torch, what))
    return name


SPOILT = ["buffer", "parameter", "unknown", "shape", "NaN", "infinity", "int32", "bool"]


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_not_whole_is_named(model, what):
    path = model / "unet" / WEIGHTS
    state = load_file(path)
    name = change(state, what)
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        SpikingDiffusionPipeline.from_pretrained(model)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    if (model / "unet" / "spikediff_models_spiking_unet.py").exists():
        with pytest.raises(UserError) as caught:
            SpikingUNet.from_pretrained(model / "unet")
        assert name in str(caught.value)


def test_a_command_names_it_in_one_line(model, tmp_path, capfd):
    path = model / "unet" / WEIGHTS
    state = load_file(path)
    name = change(state, "NaN")
    save_file(state, path)
    call = ["sample", str(model), "--output", str(tmp_path / "out"), "--num-images", "1"]
    assert main(call) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert name in said
    assert not (tmp_path / "out").exists()


def test_sharded_weights_are_loaded(saved, tmp_path):
    pipe = SpikingDiffusionPipeline.from_pretrained(saved)
    pipe.unet.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    model = shutil.copytree(saved, tmp_path / "model")
    shutil.rmtree(model / "unet")
    (tmp_path / "unet").rename(model / "unet")
    assert len(list((model / "unet").glob("*.safetensors"))) > 1
    again = SpikingDiffusionPipeline.from_pretrained(model)
    assert all(map(torch.equal, pipe.unet.state_dict().values(), again.unet.state_dict().values()))
    assert main(["info", str(model)]) == 0
    shard = next((model / "unet").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        SpikingDiffusionPipeline.from_pretrained(model)


def test_variants_and_half_precision_are_loaded(model):
    pipe = SpikingDiffusionPipeline.from_pretrained(model)
    pipe.unet.half().save_pretrained(model / "unet", variant="fp16")
    (model / "unet" / WEIGHTS).unlink()
    half = SpikingDiffusionPipeline.from_pretrained(model, variant="fp16", dtype=torch.float32)
    assert half.unet.dtype == torch.float32


@pytest.mark.parametrize(
    "change",
    [
        {"base_channels": 10**9},
        {"layers_per_block": 10**6},
        {"channel_mult": [1] * 1000},
        {"neuron_options": {"surrogate": 1e308}},
        {"neuron": 3},
        {"of_tomorrow": True},
        {"sample_size": "8"},
    ],
)
def test_a_configuration_of_no_network_is_named(tmp_path, change):
    make("denoiser").save_pretrained(tmp_path)
    damage(tmp_path / "unet" / "config.json", change)
    for load in (
        lambda: SpikingUNet.from_pretrained(tmp_path / "unet"),
        lambda: SpikingDiffusionPipeline.from_pretrained(tmp_path),
    ):
        with pytest.raises(UserError, match=r"config\.json"):
            load()


@pytest.mark.parametrize(
    "change",
    [
        {"num_train_timesteps": 0},
        {"num_train_timesteps": 10**9},
        {"beta_end": 7.0},
        {"beta_start": -1.0},
        {"trained_betas": []},
        {"trained_betas": [0.1]},
        {"timestep_spacing": "none such"},
        {"prediction_type": "none such"},
        {"final_sigmas_type": "none such"},
        {"disable_corrector": "none such"},
        {"solver_order": 10**9},
    ],
)
def test_a_scheduler_that_makes_no_steps_is_named(tmp_path, change):
    pipe = make("denoiser")
    pipe.scheduler = make_scheduler("unipc", pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    damage(tmp_path / "scheduler" / "scheduler_config.json", change)
    with pytest.raises(UserError, match=r"scheduler_config\.json"):
        SpikingDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"clip_covariance": "none such"},
        {"clip_sample_range": None},
        {"clip_last_noise": 1e308},
        {"beta_end": 0.5},
        {"timestep_spacing": "none such"},
    ],
)
def test_settings_of_analytic_dpm_that_make_no_steps_are_named(tmp_path, change):
    pipe = make("denoiser")
    pipe.scheduler = make_scheduler("analytic-dpm", {"second_moment": [0.5] * 1000})
    pipe.save_pretrained(tmp_path)
    damage(tmp_path / "scheduler" / "scheduler_config.json", change)
    with pytest.raises(UserError, match=r"scheduler_config\.json"):
        SpikingDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"temperature": None}, {"top_p": []}, {"unmasking": "x"}])
def test_settings_of_tokens_that_draw_nothing_are_one_line(tmp_path, change):
    make("tokens").save_pretrained(tmp_path)
    damage(tmp_path / "scheduler" / "scheduler_config.json", change)
    with pytest.raises(UserError, match=r"unmasking|temperature|top_p"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("names", [3, "cat", [1, 2], {"cat": 0}])
def test_damaged_names_of_classes_are_one_line(names):
    network = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2), num_classes=2)
    network.register_to_config(_class_names=names)
    with pytest.raises(UserError, match="class names"):
        class_names(network)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmsolver++", "unipc", "deis", "analytic-dpm"])
def test_loading_a_scheduler_draws_no_random_number(tmp_path, name):
    pipe = make("denoiser")
    pipe.scheduler = make_scheduler(name, pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    loaded = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is type(pipe.scheduler)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["PNDMScheduler", "HeunDiscreteScheduler", "LCMScheduler"])
def test_schedulers_of_diffusers_without_a_row_are_loaded(tmp_path, name):
    pipe = make("denoiser")
    pipe.scheduler = getattr(diffusers, name)()
    pipe.save_pretrained(tmp_path)
    loaded = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is type(pipe.scheduler)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_is_loaded_as_it_was_saved(kind, tmp_path):
    pipe = make(kind)
    pipe.save_pretrained(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.rglob("*.*")}) == 1
    again = type(pipe).from_pretrained(tmp_path)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            state = again.components[name].state_dict()
            assert all(torch.equal(state[key], t) for key, t in part.state_dict().items())


@pytest.mark.parametrize("what", ["NaN", "int32", "complex64"])
def test_weights_of_others_are_whole_too(what):
    model = SpikingUNet(8, 1, base_channels=4, channel_mult=(1,), layers_per_block=1)
    from spikediff.systems.sddpm.released import sddpm_key

    state = {sddpm_key(key): tensor.clone() for key, tensor in model.state_dict().items()}
    name = change(state, what)
    with pytest.raises(UserError, match=name):
        load_authors_checkpoint(state, "sddpm", sample_size=8)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": None}, r"config\.json: missing; it defines the network"),
        ({"config.json": []}, r"config\.json: is damaged, it holds \[\]"),
        ({INDEX: {"metadata": {}}}, "is damaged, it has no weight_map"),
        ({INDEX: {"weight_map": {"a": 3}}}, "is damaged, it has no weight_map"),
        ({INDEX: {"weight_map": {"a": "../w"}}}, "is damaged, it names files of other folders"),
    ],
)
def test_damaged_json_of_a_network_is_named(tmp_path, files, words):
    made("denoiser").unet.save_config(tmp_path)
    for name, content in files.items():
        (tmp_path / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        SpikingUNet.from_pretrained(tmp_path)


def test_a_network_that_is_not_there_is_named(tmp_path):
    index = {"_class_name": "SpikingDiffusionPipeline", "unet": ["spikediff", "SpikingUNet"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"unet: missing; model_index\.json names it"):
        SpikingDiffusionPipeline.from_pretrained(tmp_path)
