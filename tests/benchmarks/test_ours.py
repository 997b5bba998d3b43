"""Where our fast paths plug in: with stand-ins for them, every row is there."""

import pytest
import torch

from performance import ours, sampling_section, systems
from performance.convolution_section import _compare
from performance.missing import Missing
from performance.settings import Settings
from performance.table import lines
from sizes import ONE_LEVEL
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.native import native
from spikediff.systems.sddpm.network import SpikingUNet

needs_native = pytest.mark.skipif(native() is None, reason="the C kernels are not built")
WAYS = [systems.NATIVE, systems.COMPILED, systems.INT16, systems.LOW_MEMORY, systems.BY_EVENTS]


@needs_native
@pytest.mark.parametrize("name", WAYS)
def test_every_way_of_ours_computes(name):
    model = SpikingUNet(**ONE_LEVEL).eval()
    sample = torch.randn(1, 1, 8, 8)
    got = systems.forward(systems.build(name, model, training=False), sample, 3)()
    want = systems.forward(systems.System(model), sample, 3)()
    rounding = 1e-4 if name == systems.INT16 else 1e-5
    torch.testing.assert_close(got, want, rtol=rounding, atol=rounding / 10)


@needs_native
def test_mixed_precision_convolves_in_half_precision():
    seen = []
    system = systems.build(systems.BF16, SpikingUNet(**ONE_LEVEL), training=True)
    system.network.stem.synapse.conv.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    systems.training_step(system, torch.randn(1, 1, 8, 8), 3, torch.randn(1, 1, 8, 8))()
    assert seen == [torch.bfloat16]
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.network.parameters())


@needs_native
def test_the_network_runs_in_its_kernel():
    system = systems.build(systems.NATIVE, SpikingUNet(**ONE_LEVEL).double(), training=False)
    with pytest.raises(UserError, match="float64"):  # the C kernel has none
        system(torch.randn(1, 1, 8, 8).double(), 3)


@needs_native
def test_an_unknown_kernel_is_a_missing_row():
    with pytest.raises(Missing, match="turbo"):
        ours.kernel("turbo")


@needs_native
def test_the_convolution_has_a_row_of_events():
    spikes = (torch.rand(8, 8, 4, 4) < 0.2).float()
    conv = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1)
    group = _compare("case", conv, spikes, Settings(quick=True), {})
    dense = ["dense NCHW", "dense channels_last", "dense int8"]
    assert list(group.rows) == [*dense, "ours event-driven", "ours int16", "ours int8"]
    errors = group.facts["error_float32"]
    assert errors["ours event-driven"] < 1e-5
    assert errors["ours int16"] < 1e-4
    assert errors["ours int8"] == pytest.approx(errors["dense int8"], rel=1e-3)


def pipeline():
    pipe = SpikingDiffusionPipeline(SpikingUNet(**ONE_LEVEL).eval(), make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@needs_native
def test_a_compiled_pipeline_makes_the_same_images():
    pipe = pipeline()
    made = ours.compiled_pipeline(pipe)
    assert made.unet is not pipe.unet
    one, other = (sampling_section.generate(p, 2, 3) for p in (pipe, made))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@needs_native
def test_images_per_second_of_both_forms(tmp_path):
    pipeline().save_pretrained(tmp_path / "run")
    (group,) = sampling_section.measure(Settings(quick=True, pipelines={"X": tmp_path / "run"}))
    speeds = group.facts["images_per_second"]
    assert list(speeds) == ["ours plain", "ours compiled"]
    assert speeds["ours plain"] == sampling_section.IMAGES / group.rows["ours plain"].median
    assert "images/s" in "\n".join(lines(group))
    assert group.facts["weights"] == "trained, run"


def test_what_is_not_built_is_missing_and_the_reference_is_not(monkeypatch):
    monkeypatch.setattr(ours, "native", lambda: None)
    model = SpikingUNet(**ONE_LEVEL)
    systems.build(systems.REFERENCE, model, training=True)
    for name in WAYS:
        with pytest.raises(Missing, match="not built"):
            systems.build(name, model, training=True)
