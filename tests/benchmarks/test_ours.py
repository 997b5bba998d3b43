"""Where our fast paths plug in: with stand-ins for them, every row is there."""

import copy
import sys
from contextlib import contextmanager, nullcontext
from types import ModuleType

import pytest
import torch

from performance import ours, sampling_section, sources, systems
from performance.convolution_section import _compare
from performance.missing import Missing
from performance.settings import Settings
from performance.table import lines
from spikediff.errors import UserError
from spikediff.models import SpikingUNet
from spikediff.neurons import kernels
from spikediff.pipelines import SpikingDiffusionPipeline
from spikediff.schedulers import make_scheduler

TINY = {"sample_size": 8, "in_channels": 1, "base_channels": 8, "channel_mult": (1, 2)}
USED = []


@contextmanager
def using(kernel):
    if kernel not in ("reference", "native"):
        raise UserError(f"no kernel {kernel}")
    USED.append(kernel)
    yield


@pytest.fixture
def fast_paths(monkeypatch):
    """Stand-ins that compute the same as the plain paths."""
    USED.clear()
    events, memory = ModuleType("spikediff.events"), ModuleType("spikediff.training.memory")
    events.compile_for_inference = copy.deepcopy
    events.spike_conv2d = torch.nn.functional.conv2d
    memory.compressed_activations = nullcontext
    monkeypatch.setitem(sys.modules, "spikediff.events", events)
    monkeypatch.setitem(sys.modules, "spikediff.training.memory", memory)
    monkeypatch.setattr(kernels, "using", using, raising=False)


@pytest.fixture
def without_fast_paths(monkeypatch):
    for name in ("spikediff.events", "spikediff.training.memory"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(kernels, "using", raising=False)


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize(
    "name", [systems.REFERENCE, systems.NATIVE, systems.COMPILED, systems.LOW_MEMORY]
)
def test_every_way_of_ours_computes(name):
    model = SpikingUNet(**TINY).eval()
    sample = torch.randn(1, 1, 8, 8)
    got = systems.forward(systems.build(name, model, training=False), sample, 3)()
    assert torch.equal(got, systems.forward(systems.System(model), sample, 3)())


@pytest.mark.usefixtures("fast_paths")
def test_the_network_runs_in_its_kernel():
    system = systems.build(systems.NATIVE, SpikingUNet(**TINY), training=False)
    USED.clear()
    system(torch.randn(1, 1, 8, 8), 3)
    assert USED == ["native"]


@pytest.mark.usefixtures("fast_paths")
def test_an_unknown_kernel_is_a_missing_row():
    with pytest.raises(Missing, match="no kernel turbo"):
        ours.kernel("turbo")


@pytest.mark.usefixtures("fast_paths")
def test_the_convolution_has_a_row_of_events():
    spikes = (torch.rand(2, 8, 4, 4) < 0.2).float()
    conv = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1)
    group = _compare("case", conv, spikes, Settings(quick=True), {})
    assert list(group.rows) == ["dense NCHW", "dense channels_last", "ours event-driven"]
    assert group.facts["error_float32"]["ours event-driven"] < 1e-5


def pipeline():
    pipe = SpikingDiffusionPipeline(SpikingUNet(**TINY).eval(), make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.usefixtures("fast_paths")
def test_a_compiled_pipeline_makes_the_same_images():
    pipe = pipeline()
    made = ours.compiled_pipeline(pipe)
    assert made.unet is not pipe.unet
    one, other = (sampling_section.generate(p, 2, 3) for p in (pipe, made))
    assert torch.equal(one, other)


@pytest.mark.usefixtures("fast_paths")
def test_images_per_second_of_both_forms(tmp_path):
    pipeline().save_pretrained(tmp_path / "run")
    (group,) = sampling_section.measure(Settings(quick=True, pipelines={"X": tmp_path / "run"}))
    speeds = group.facts["images_per_second"]
    assert list(speeds) == ["ours plain", "ours compiled"]
    assert speeds["ours plain"] == sampling_section.IMAGES / group.rows["ours plain"].median
    assert "images/s" in "\n".join(lines(group))
    assert group.facts["weights"] == "trained, run"


@pytest.mark.usefixtures("without_fast_paths")
def test_what_does_not_exist_is_missing_and_the_reference_is_not():
    model = SpikingUNet(**TINY)
    systems.build(systems.REFERENCE, model, training=True)
    for name in (systems.NATIVE, systems.COMPILED, systems.LOW_MEMORY):
        with pytest.raises(Missing, match=r"no spikediff\."):
            systems.build(name, model, training=True)


def test_trained_weights_are_called_so(tmp_path):
    pipeline().save_pretrained(tmp_path / "run")
    source = sources.trained(tmp_path / "run", batch=2)
    assert source.weights == "trained, run"
    assert "trained weights" in source.title
    assert source.sample.shape == (2, 1, 8, 8)
    assert 0 < source.timestep < 999
