"""The deployment form in C: the bits of plain torch, whatever the network, batch and threads."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import deployed, inputs, network, networks

from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.events import compile_for_inference
from spikediff.native import native_name
from spikediff.systems.integer import compiled as room
from spikediff.systems.integer import to_integer
from spikediff.systems.integer.plan import has_kernels

needs_native = pytest.mark.skipif(not has_kernels(), reason="no C kernels for this processor")


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def generation(form, images, calls):
    """Arguments of some calls of a network, each a little further."""
    x, t, labels = inputs(form, images)
    for call in range(calls):
        yield x, (t - call).clamp(min=0), labels
        x = x + 0.1 * torch.randn_like(x)


def assert_same_bits(form, images, calls=3):
    fast, state = compile_for_inference(form), None
    delta = compile_for_inference(form.with_execution("delta"))
    for given_to in generation(form, images, calls):
        want = form(*given_to).sample
        assert torch.equal(fast(*given_to).sample, want)
        out = delta(*given_to, state=state)
        assert torch.equal(out.sample, want)
        state = out.state
    assert len(state) == images


@needs_native
@given(unet=networks, bits=st.sampled_from([8, 6, 4]), images=st.sampled_from([1, 2, 3, 5]))
@settings(max_examples=10)
def test_the_bits_of_plain_torch(unet, bits, images):
    assert_same_bits(to_integer(unet, bits), images)


@needs_native
@pytest.mark.parametrize("images", [1, 3, pytest.param(64, marks=pytest.mark.slow)])
def test_two_threads_give_the_same_bits(images, two_threads):
    widths = (48, 20, 100)  # blocks of two and three vectors, and channels that fill up
    form = deployed(block_out_channels=widths, sample_size=12, patch_size=1)
    assert_same_bits(form, images, calls=2)


@needs_native
def test_images_of_another_size_and_type():
    form = deployed(patch_size=2)
    fast = compile_for_inference(form)
    for height, width in ((8, 8), (4, 12), (16, 8)):
        x = torch.randn(2, 1, height, width)
        assert torch.equal(fast(x, 3).sample, form(x, 3).sample)
        wide = x.double() + 1e-9
        assert torch.equal(fast(wide, 3).sample, form(wide, 3).sample)
        holes = torch.randn(2, 1, width, height).transpose(2, 3)
        assert torch.equal(fast(holes, 3).sample, form(holes, 3).sample)
    assert "images of 4x12:" in list(fast.describe())
    runs = [run for run in fast.ran() if run.image_size == (4, 12)]
    assert runs[-1].name == "head"
    assert {run.images for run in runs} == {6}
    quads = [run.quads for run in runs if run.quads is not None]
    assert all(0 <= share <= 1 for share in (*quads, *(run.dense for run in runs)))
    assert any(share > 0 for share in quads)
    assert fast(torch.randn(0, 1, 8, 8), 3).sample.shape == (0, 1, 8, 8)


@pytest.mark.skipif(native_name() != "amx", reason="no AMX here")
def test_tiles_need_no_lists_unless_changes_are_followed():
    form = deployed(block_out_channels=(32,))
    for execution, listed in (("counts", False), ("delta", True)):
        fast = compile_for_inference(form.with_execution(execution))
        fast(*inputs(form, 2))
        assert {run.quads is not None for run in fast.ran()} == {listed}
        assert listed or {run.dense for run in fast.ran()} == {1.0}


@needs_native
def test_values_beyond_fixed_point_are_clipped_as_the_form_does():
    form = deployed()
    x = torch.tensor([1e30, -1e30, 8.0, -8.0, 2**-13, 3 * 2**-13, 1e-40, 0.0]).repeat(8)
    x = x.view(1, 1, 8, 8)
    assert torch.equal(compile_for_inference(form)(x, 0).sample, form(x, 0).sample)


@needs_native
def test_a_state_may_be_given_to_a_later_call_as_well():
    form = deployed().with_execution("delta")
    delta, calls = compile_for_inference(form), list(generation(form, 3, 3))
    first = delta(*calls[0]).state
    delta(*calls[1], state=first)
    assert torch.equal(delta(*calls[2], state=first).sample, form(*calls[2]).sample)


@needs_native
def test_states_of_others_are_refused():
    form = deployed().with_execution("delta")
    delta, given_to = compile_for_inference(form), inputs(form, 2)
    state, plain = delta(*given_to).state, form(*given_to).state
    for other, theirs in ((compile_for_inference(form), state), (delta, plain), (form, state)):
        with pytest.raises(UserError, match="state: a Kept"):
            other(*given_to, state=theirs)
    with pytest.raises(UserError, match="only 'delta' goes on"):
        compile_for_inference(form.with_execution("counts"))(*given_to, state=state)
    with pytest.raises(UserError, match="of 2 images, given with 1"):
        delta(*(x[:1] for x in given_to), state=state)


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "must be deployed first"), ({"activation": "silu"}, "the ordinary counterpart has no")],
)
def test_only_the_form_compiles(options, said):
    with pytest.raises(UserError, match=said):
        compile_for_inference(network(**options))


@pytest.mark.parametrize("kernels", [True, False])
def test_bad_input_is_refused_as_by_the_form(kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(room, "has_kernels", lambda: False)
    form = deployed()
    fast = compile_for_inference(form)
    x, t, labels = inputs(form, 3)
    for bad in (
        (x * torch.nan, t, labels),
        (x, t + 1000, labels),
        (x, t[:2], labels),
        (x, t, labels - 9),
        (x[:, :, :7], t, labels),
    ):
        for call in (form, fast):
            with pytest.raises(UserError):
                call(*bad)
    assert torch.equal(fast(x, t, labels).sample, form(x, t, labels).sample)


def test_a_pipeline_makes_the_same_images_with_it():
    form = deployed()
    images = []
    for execution in ("counts", "delta"):
        pipe = SpikingDiffusionPipeline(form.with_execution(execution), make_scheduler("ddim"))
        pipe.set_progress_bar_config(disable=True)
        options = {"seeds": range(2), "num_inference_steps": 3, "output_type": "pt"}
        images.append(pipe(**options).images)
        images.append(pipe.compile_for_inference()(**options).images)
    assert all(torch.equal(made, images[0]) for made in images)
    assert pipe.event_driven
    assert pipe.event_weights is None
    for forbidden in (lambda: EnergyMeter(pipe), lambda: pipe.save_pretrained("nowhere")):
        with pytest.raises(UserError, match="compiled for inference"):
            forbidden()


def test_what_is_compiled():
    form = deployed()
    fast = compile_for_inference(form)
    assert fast.head.weight is form.head.weight
    assert not isinstance(form, type(fast))
    with pytest.raises(UserError, match="whole numbers already"):
        compile_for_inference(form, weights="int8")
    with pytest.raises(UserError, match="save the model it came from"):
        fast.save_pretrained("nowhere")
    with pytest.raises(UserError, match="runs on the CPU"):
        compile_for_inference(copy.deepcopy(form).to("meta"))


@needs_native
def test_copies_lay_out_anew():
    form = deployed()
    fast, given_to = compile_for_inference(form), inputs(form, 2)
    want = fast(*given_to).sample
    for other in (copy.deepcopy(fast), copy.deepcopy(fast).with_execution("delta")):
        assert torch.equal(other(*given_to).sample, want)
    assert pickle.loads(pickle.dumps(fast.plans)) == {}
