"""What diffusers expects of a pipeline, of every pipeline class of the package.

The list is that of diffusers' documentation and of its common tests: batches, outputs, saving,
half precision, callbacks, generators, offloading, and `from_pipe`.
"""

import inspect
from functools import cache

import accelerate
import numpy as np
import pytest
import torch
from contracts_small import PIPELINES, call_of, classes_of, pipeline
from diffusers import AutoModel, DDIMPipeline, DDIMScheduler
from diffusers.callbacks import PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from small_pipelines import make
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.errors import UserError
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline

STEPPED = sorted(set(PIPELINES) - {"VAEPipeline"})
DRAWN = sorted(set(PIPELINES) - {"SpikingInversionPipeline"})
HALF = [
    *((name, torch.float16) for name in PIPELINES),
    ("SpikingDiffusionPipeline", torch.bfloat16),
    *(
        pytest.param(name, torch.bfloat16, marks=pytest.mark.slow)
        for name in PIPELINES
        if name != "SpikingDiffusionPipeline"
    ),
]
DENOISED = ("SpikingDiffusionPipeline", "SynapticCurrentPipeline")


def test_every_class_is_here():
    assert classes_of(DiffusionPipeline) == sorted(PIPELINES)


def images_of(pipe, name, **options):
    return pipe(**{**call_of(name), **options}).images


shared = cache(pipeline)  # for tests that call it and change nothing


@cache
def expected_of(name):
    """What every pipeline of a class generates, by the first law below."""
    return images_of(shared(name), name)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_same_twice_and_as_a_tuple(name):
    pipe = shared(name)
    assert torch.equal(images_of(pipe, name), expected_of(name))
    assert torch.equal(pipe(**call_of(name), return_dict=False)[0], expected_of(name))


@pytest.mark.parametrize("name", PIPELINES)
def test_types_of_output(name):
    pipe = shared(name)
    arrays = images_of(pipe, name, output_type="np")
    pictures = images_of(pipe, name, output_type="pil")
    assert np.array_equal(arrays, expected_of(name).permute(0, 2, 3, 1).numpy())
    assert len(pictures) == len(arrays)
    assert pictures[0].size == arrays.shape[2:0:-1]


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_does_not_depend_on_its_batch(name):
    pipe = shared(name)
    together = pipe(**call_of(name, seeds=(4, 5, 6))).images
    alone = pipe(**call_of(name, seeds=(5,))).images
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("name", PIPELINES)
def test_saved_and_loaded(name, tmp_path):
    pipe = shared(name)
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(images_of(again, name), expected_of(name))


@pytest.mark.parametrize("name", PIPELINES)
def test_from_pipe_shares_the_parts(name):
    pipe = shared(name)
    again = type(pipe).from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    networks = [key for key, part in pipe.components.items() if isinstance(part, nn.Module)]
    assert networks
    assert all(getattr(again, key) is getattr(pipe, key) for key in networks)
    assert torch.equal(images_of(again, name), expected_of(name))


def test_from_pipe_goes_back():
    pipe = make("denoiser")
    edits = pipeline("SpikingImg2ImgPipeline")
    assert SpikingDiffusionPipeline.from_pipe(edits).unet is edits.unet
    theirs = DDIMPipeline(unet=pipe.unet, scheduler=DDIMScheduler())
    assert SpikingDiffusionPipeline.from_pipe(theirs).unet is pipe.unet
    currents = make("currents")
    assert SynapticCurrentPipeline.from_pipe(currents).unet is currents.unet
    with pytest.raises(UserError, match="has no 'shceduler'; did you mean 'scheduler'"):
        SpikingDiffusionPipeline.from_pipe(pipe, shceduler=DDIMScheduler())
    with pytest.raises(UserError, match="has no vae"):
        type(make("vae")).from_pipe(pipe)


@pytest.mark.parametrize("name", DRAWN)
def test_generators(name):
    pipe = shared(name)
    call = {key: value for key, value in call_of(name).items() if key != "seeds"}
    by_seed = expected_of(name)
    several = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    assert torch.equal(pipe(**call, generator=several, batch_size=2).images, by_seed)
    several = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    assert torch.equal(pipe(**call, generator=several).images, by_seed)
    for count in (1, 3):
        with pytest.raises(UserError, match=f"2 generators for batch_size = {count}"):
            pipe(**call, generator=several, batch_size=count)
    one = pipe(**call, generator=torch.Generator().manual_seed(0), batch_size=2).images
    assert len(one) == 2


@pytest.mark.parametrize(("name", "dtype"), HALF)
def test_half_precision_to_numpy(name, dtype):
    pipe = pipeline(name).to(dtype)
    arrays = images_of(pipe, name, output_type="np")
    assert arrays.dtype == np.float32
    assert np.isfinite(arrays).all()


class Halves(PipelineCallback):
    """As diffusers' own callbacks are."""

    tensor_inputs = ["latents"]  # noqa: RUF012

    def callback_fn(self, pipe, step, timestep, tensors):
        assert list(tensors) == ["latents"]
        assert pipe.num_timesteps == 2
        pipe.seen.append(tensors["latents"])
        return {"latents": tensors["latents"] * 0}


@pytest.mark.parametrize("name", STEPPED)
def test_a_callback_in_diffusers_words(name):
    pipe = shared(name)
    parameters = inspect.signature(pipe.__call__).parameters
    assert "callback_on_step_end_tensor_inputs" in parameters
    assert "latents" in pipe._callback_tensor_inputs
    plain, seen = expected_of(name), []

    def shown(_pipe, i, _timestep, tensors):
        seen.append((i, list(tensors)))
        return tensors

    options = {"callback_on_step_end_tensor_inputs": ["latents"]}
    same = images_of(pipe, name, callback_on_step_end=shown, **options)
    assert torch.equal(same, plain)
    assert seen == [(i, ["latents"]) for i in range(len(seen))]
    assert len(seen) > 1

    def replaced(_pipe, _i, _timestep, tensors):
        return {"latents": tensors["latents"] * 0}

    other = images_of(pipe, name, callback_on_step_end=replaced)
    assert not torch.equal(other, plain) or name == "VQSpikingInpaintPipeline"
    with pytest.raises(UserError, match="which is not used"):
        images_of(pipe, name, callback_on_step_end=lambda *_: {"noise": plain})
    with pytest.raises(UserError, match="returned a Tensor; return a dict"):
        images_of(pipe, name, callback_on_step_end=lambda *given: given[-1]["latents"])
    with pytest.raises(UserError, match="must stay a tensor of shape"):
        images_of(pipe, name, callback_on_step_end=lambda *_: {"latents": torch.zeros(1)})
    for look in (shown, None):
        call = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": ["latent"]}
        with pytest.raises(UserError, match="unknown 'latent'; did you mean 'latents'"):
            images_of(pipe, name, **call)


@pytest.mark.parametrize("name", DENOISED)
def test_a_callback_class_of_diffusers(name):
    pipe = pipeline(name)
    pipe.seen = []
    images = images_of(pipe, name, callback_on_step_end=Halves())
    assert len(pipe.seen) == 2
    assert images.std() < 1e-6


@pytest.mark.parametrize("name", STEPPED)
def test_a_callback_ends_the_steps(name):
    pipe, steps = pipeline(name), []

    def stop(pipe, i, _timestep, tensors):
        steps.append(i)
        pipe._interrupt = True
        return {}

    images_of(pipe, name, callback_on_step_end=stop)
    assert steps == [0]
    steps.clear()
    images_of(pipe, name)
    assert not pipe.interrupt


OFFLOADED = sorted(PIPELINES)


@pytest.mark.parametrize("name", OFFLOADED)
def test_weights_that_are_elsewhere_until_a_layer_runs(name):
    """As `enable_sequential_cpu_offload` puts them, with the CPU in the place of a GPU."""
    pipe = pipeline(name)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            accelerate.cpu_offload(part, "cpu", offload_buffers=len(part._parameters) > 0)
    assert pipe.device.type == "meta"
    assert pipe._execution_device.type == "cpu"
    torch.testing.assert_close(images_of(pipe, name), expected_of(name))


@pytest.mark.parametrize("name", OFFLOADED)
def test_weights_that_come_with_the_first_call(name):
    """As `enable_model_cpu_offload` does: whatever uses a network brings it first."""
    pipe = pipeline(name)
    brought = set()

    class Hook(accelerate.hooks.ModelHook):
        execution_device = torch.device("cpu")

        def pre_forward(self, module, *args, **kwargs):
            brought.add(module)
            return args, kwargs

    used = []
    for key, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        part._hf_hook = Hook()
        forward = part.forward

        def hooked(*args, _part=part, _forward=forward, **kwargs):
            brought.add(_part)
            return _forward(*args, **kwargs)

        part.forward = hooked
        for module in part.modules():
            if not list(module.children()):
                module.register_forward_pre_hook(
                    lambda *_, _part=part, _key=key: used.append((_key, _part in brought))
                )
    assert torch.equal(images_of(pipe, name), expected_of(name))
    assert used
    assert all(there for _, there in used), sorted({key for key, there in used if not there})
    assert type(pipe).model_cpu_offload_seq


@pytest.mark.parametrize("name", ["denoiser", "tokens", "fsvae"])
def test_auto_model_finds_every_network(name, tmp_path):
    pipe = make(name)
    pipe.save_pretrained(tmp_path)
    for key, part in pipe.components.items():
        if isinstance(part, nn.Module):
            found = AutoModel.from_pretrained(str(tmp_path), subfolder=key, trust_remote_code=True)
            assert type(found) is type(part)
            alone = AutoModel.from_pretrained(str(tmp_path / key), trust_remote_code=True)
            assert type(alone) is type(part)
            for one, other in zip(found.parameters(), part.parameters(), strict=True):
                assert torch.equal(one, other)
