"""Exported programs: what they compute, and what they need."""

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from integer_networks import network

import spikediff as sd
from sizes import ONE_LEVEL, U_NET
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.interchange import programs
from spikediff.interchange.programs import export_onnx, export_program, export_torch
from spikediff.neurons import IF, LIF, NEURONS, ParametricLIF, SignedIF, as_operations
from spikediff.systems.converted.network import ConvertedUNet
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.integer.whole_layers import IntegerSynapse
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder

TOKENS = {"codebook_size": 8, "widths": (4, 4), "spiking_steps": 3}


def converted():
    unet = ddpm_unet(8, 1, None, 32, (1, 2), 1)
    return ConvertedUNet({key: value for key, value in unet.config.items() if key[0] != "_"})


def integer():
    return sd.load("digits-float").unet


def small_deployed():
    return network(block_out_channels=(6,), layers_per_block=1).to_integer()


DENOISERS = {
    "sddpm": lambda: SpikingUNet(**U_NET),
    "sdm": lambda: SpikingUNet(**U_NET, temporal_scaling=True),
    "parametric": lambda: SpikingUNet(**U_NET, neuron="plif"),
    "signed": lambda: SpikingUNet(**U_NET, neuron="signed_if"),
    "fsddim": lambda: SynapticCurrentUNet(**U_NET, spiking_steps=3),
    "tokens": lambda: SpikingImageDecoder(**TOKENS),
    "raw tokens": lambda: SpikingImageDecoder(**TOKENS, input="raw"),
    "signals": lambda: SpikingUNet(**U_NET, dimensions=1),
    "ddpm": lambda: ddpm_unet(8, 1, None, 32, (1, 2), 1),
    "converted": converted,
    "integer": integer,
    "deployed": lambda: integer().to_integer(),
}
ONE_BATCH_SIZE = {
    "fsddim": 5,
    "ddpm": 5,
    "converted": 5,
    "integer": 5,
    "deployed": 5,
}  # torch 2.13 cannot prove that every size will do


def made(name):
    torch.manual_seed(0)
    model = DENOISERS[name]().eval()
    tokens = isinstance(model, SpikingImageDecoder)
    sides = (8,) if name == "signals" else (8, 8)
    sample = torch.randint(9, (5, 4, 4)) if tokens else torch.randn(5, 1, *sides)
    with torch.no_grad():
        if isinstance(model, SpikingUNet):
            torch.nn.init.normal_(model.head.conv.weight, std=0.3)
        want = model(sample, torch.tensor(7)).sample
    assert want.std() > 0.05  # what is near zero agrees with anything
    return model, sample, want, 4 if tokens else None


@pytest.mark.parametrize(
    "neuron",
    [
        IF(),
        IF(v_reset=None),
        LIF(tau=3.0, v_reset=-0.2),
        LIF(decay=0.8, decay_input=False, strict_threshold=True),
        LIF(v_reset=None, v_init=0.5),
        ParametricLIF(init_tau=3.0),
        SignedIF(),
    ],
)
def test_neurons_as_operations_fire_bit_for_bit(neuron):
    current = torch.randn(6, 500, generator=torch.Generator().manual_seed(0))
    current[:, :4] = torch.tensor([0.5, 1.0, 2.0, -0.001])  # at the threshold, too
    with torch.no_grad():
        with as_operations():
            plain = neuron(current)
        assert torch.equal(plain, neuron(current))


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_of_the_table_becomes_operations(name):
    current = torch.zeros(4, 3)
    with torch.no_grad(), as_operations():
        program = torch.export.export(NEURONS[name](), (current,), strict=False)
    targets = [str(node.target) for node in program.graph.nodes]
    assert not any("spikediff" in target for target in targets)
    assert "aten.ge.Scalar" in targets  # nothing is written in place


def test_wrong_use(tmp_path, capsys, monkeypatch):
    model = made("tokens")[0]
    with pytest.raises(UserError, match="give sample_size"):
        export_program(model)
    with pytest.raises(UserError, match="eval"):
        export_program(model.train(), 4)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install 'onnx>="):
        export_onnx(model.eval(), tmp_path / "out.onnx", 4)


@pytest.mark.parametrize("name", ["tokens", "sddpm"])
def test_a_program_is_traced_on_the_device_of_the_network(name, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda _model, inputs, **_options: inputs)
    inputs = export_program(DENOISERS[name]().eval().to("meta"), 8)
    assert {x.device.type for x in inputs} == {"meta"}


@pytest.mark.parametrize("name", ONE_BATCH_SIZE)
def test_a_network_of_one_batch_size_says_so(name):
    model = DENOISERS[name]().eval()
    with pytest.raises(UserError, match=f"{type(model).__name__}: .* --batch-size 1"):
        export_program(model)
    with pytest.raises(UserError, match="batch_size = 0"):
        export_program(model, batch_size=0)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", DENOISERS)
def test_every_denoiser_is_one_program(name, plain):
    model, sample, want, size = made(name)
    program = export_program(model, size, plain, ONE_BATCH_SIZE.get(name))
    ours = {str(node.target) for node in program.graph.nodes if "spikediff" in str(node.target)}
    owned = IF | LIF | ParametricLIF | IntegerSynapse
    assert bool(ours) == (any(isinstance(m, owned) for m in model.modules()) and not plain)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(sample, torch.tensor(7)), want)


@pytest.mark.parametrize(
    ("make", "execution"),
    [
        (small_deployed, "counts"),
        pytest.param(DENOISERS["deployed"], "counts", marks=pytest.mark.slow),
        pytest.param(DENOISERS["deployed"], "delta", marks=pytest.mark.slow),
    ],
    ids=["small-counts", "shipped-counts", "shipped-delta"],
)
def test_a_deployment_form_is_a_program_of_the_same_bits(make, execution):
    model = make().with_execution(execution).eval()
    sample = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = model(sample, torch.tensor(7)).sample
    assert want.std() > 0.05
    program = export_program(model, batch_size=len(sample))
    assert not [node for node in program.graph.nodes if "spikediff" in str(node.target)]
    with torch.no_grad():
        assert torch.equal(program.module()(sample, torch.tensor(7)), want)


@pytest.mark.slow
def test_a_file_runs_without_this_library(tmp_path):
    model, sample, want, size = made("tokens")
    export_torch(model, tmp_path / "tokens.pt2", size)
    torch.save(sample, tmp_path / "sample.pt")
    code = (
        "import sys, torch; sys.modules['spikediff'] = None; "
        "program = torch.export.load(sys.argv[1] + '/tokens.pt2').module(); "
        "answer = program(torch.load(sys.argv[1] + '/sample.pt'), torch.tensor(7)); "
        "torch.save(answer.detach(), sys.argv[1] + '/answer.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "answer.pt"), want)


def test_export_to_onnx_hides_the_warnings_of_torch(tmp_path, monkeypatch, caplog, recwarn):
    def export(*_given, **_options):
        name = "torch.onnx._internal.exporter._registration"
        logging.getLogger(name).warning("torchvision is not installed. Skipping torchvision::nms")
        told = "`isinstance(treespec, LeafSpec)` is deprecated, use `treespec.is_leaf()` instead."
        warnings.warn(told, FutureWarning, stacklevel=1)
        warnings.warn("of the network", stacklevel=1)
        return SimpleNamespace(save=lambda path: path.write_bytes(b"onnx"))

    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, SimpleNamespace())
    monkeypatch.setattr(torch.onnx, "export", export)
    monkeypatch.setattr(programs, "export_program", lambda *_given, **_options: None)
    export_onnx(torch.nn.Identity(), tmp_path / "net.onnx")
    assert caplog.records == []
    assert [str(told.message) for told in recwarn] == ["of the network"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DENOISERS if "deployed" not in name])
def test_onnxruntime_agrees(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, sample, want, size = made(name)
    export_onnx(model, tmp_path / "net.onnx", size, ONE_BATCH_SIZE.get(name))
    session = runtime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    given = {"sample": sample.numpy(), "timestep": torch.tensor(7).numpy()}
    asked = {entry.name for entry in session.get_inputs()}  # ONNX drops an input that nobody reads
    (answer,) = session.run(None, {key: given[key] for key in asked})
    torch.testing.assert_close(torch.from_numpy(answer), want, atol=1e-4, rtol=1e-3)


def of_the_page():
    """The sampler of docs/export.md."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    [block] = re.findall(r"```python\n(import onnxruntime\n.*?)```", page, re.S)
    return block


class TorchSession:
    """An `InferenceSession` that runs a network of torch."""

    def __init__(self, model):
        self.model = model

    def run(self, _outputs, inputs):
        with torch.no_grad():
            estimate = self.model(**{key: torch.from_numpy(x) for key, x in inputs.items()}).sample
        return [estimate.numpy()]


@pytest.fixture
def saved_run(tmp_path, monkeypatch):
    """A run of the page's name in the working folder, and its pipeline."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    unet = SpikingUNet(**ONE_LEVEL).eval()
    torch.nn.init.normal_(unet.head.conv.weight, std=0.3)
    pipe = SpikingDiffusionPipeline(unet, make_scheduler("dpmsolver++"))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained("runs/sddpm-digits/pipeline")
    return pipe


def check_the_page(pipe):
    made_there: dict = {}
    exec(of_the_page(), made_there)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    want = pipe(latents=noise, num_inference_steps=25, output_type="pt").images
    got = made_there["image"].clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(got, want, atol=1e-2, rtol=0)


def test_the_sampler_of_the_page_makes_the_pipelines_image(saved_run, monkeypatch):
    session = SimpleNamespace(InferenceSession=lambda _file: TorchSession(saved_run.unet))
    monkeypatch.setitem(sys.modules, "onnxruntime", session)
    check_the_page(saved_run)


@pytest.mark.slow
def test_the_sampler_of_the_page_with_onnxruntime(saved_run):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_onnx(saved_run.unet, "sddpm.onnx")
    check_the_page(saved_run)


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    model = made("sddpm")[0]
    pipe = SpikingDiffusionPipeline(model, make_scheduler("ddim"))
    pipe.save_pretrained(tmp_path / "model")
    arguments = ["export", str(tmp_path / "model"), "--output", str(tmp_path / "net.pt2")]
    assert main([*arguments, "--format", "torch"]) == 0
    assert "for batches of any size" in capsys.readouterr().out
    assert torch.export.load(tmp_path / "net.pt2")


def test_the_command_names_the_way_out(tmp_path, capsys):
    pipe = SpikingDiffusionPipeline(made("ddpm")[0], make_scheduler("ddim"))
    pipe.save_pretrained(tmp_path / "model")
    arguments = ["export", str(tmp_path / "model"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--format", "torch"]) == 2
    assert "UNet2DModel: torch exports it for one batch size only" in capsys.readouterr().err
    assert main([*arguments, "--batch-size", "1"]) == 2
    assert "NIR has no batch" in capsys.readouterr().err
    assert main([*arguments, "--format", "torch", "--first-convolution", "host"]) == 2
    assert "--first-convolution host: only for --format nir" in capsys.readouterr().err
    (tmp_path / "out").write_text("")
    assert main([*arguments, "--format", "torch"]) == 2
    assert "out: exists; choose another --output, or add --overwrite" in capsys.readouterr().err
