"""Generating in currents: the authors' trajectories (golden file C3), and laws of the pipeline."""

import diffusers
import pytest
import torch

import spikediff
from goldens import Golden
from sizes import U_NET
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.systems.fsddim.latent_space import LINEAR, check_linear
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.fsddim.scheduler import SynapticCurrentDDIMScheduler
from spikediff.systems.released import load_authors_checkpoint


@pytest.fixture(scope="module")
def c3():
    return Golden("C3_fsddim_reverse")


# Steps of the schedule; residual alpha; the timesteps to visit, one more where the run stops early.
RUNS = {
    "a": (1000, 2**-0.5, range(999, 990, -1)),
    "b": (10, 2**-0.5, range(9, -1, -1)),
    "c": (10, 1.0, range(9, -1, -1)),
}


@pytest.mark.parametrize(
    ("run", "dtype"),
    [
        ("a", torch.float32),
        ("b", torch.float64),
        ("c", torch.float32),
        pytest.param("a", torch.float64, marks=pytest.mark.slow),
        pytest.param("b", torch.float32, marks=pytest.mark.slow),
        pytest.param("c", torch.float64, marks=pytest.mark.slow),
    ],
)
def test_the_authors_trajectory(c3, run, dtype):
    """Every state, all spikes being equal: one that flips would change everything after it."""
    length, alpha, timesteps = RUNS[run]
    state = c3.state() or Golden("C1_fsddim_unet").state()
    unet = load_authors_checkpoint(state, "fsddim", 4, 8, residual_alpha=alpha).to(dtype)
    scheduler = SynapticCurrentDDIMScheduler(num_train_timesteps=length)
    scheduler.set_timesteps(timesteps=list(timesteps))
    suffix, atol = ("", 1e-5) if dtype == torch.float32 else ("_f64", 1e-10)
    want = c3[f"{run}/I{suffix}"].movedim(-1, 1)  # [steps + 1, T, B, C, H, W]
    currents = c3[f"{run}/noise"].to(dtype).expand(4, -1, -1, -1, -1)
    torch.testing.assert_close(currents, want[0], atol=1e-6, rtol=0)
    for timestep, expected in zip(scheduler.timesteps, want[1:], strict=False):
        with torch.no_grad():
            output = unet(currents, timestep).sample
        currents = scheduler.step(output, timestep, currents).prev_sample
        torch.testing.assert_close(currents, expected, atol=atol, rtol=0)
    torch.testing.assert_close(currents.mean(0), c3[f"{run}/decoded{suffix}"], atol=atol, rtol=0)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    unet = SynapticCurrentUNet(**U_NET, spiking_steps=4)
    with torch.no_grad():
        for name, buffer in unet.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.02, 0.1)
    return unet.eval()


def make(unet, scheduler="synaptic-ddim", **config):
    config |= {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    pipe = SynapticCurrentPipeline(unet, make_scheduler(scheduler, config))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, seeds, **options):
    options = {"num_inference_steps": 3, "output_type": "pt"} | options
    return pipe(seeds=seeds, **options).images


@pytest.mark.parametrize("scheduler", ["synaptic-ddim", "dpmsolver++", "unipc", "deis"])
def test_an_image_depends_on_its_seed_alone(unet, scheduler):
    pipe = make(unet, scheduler)
    together = draw(pipe, range(5))
    assert together.shape == (5, 1, 8, 8)
    for batch in ([3], [4, 1]):
        for seed, image in zip(batch, draw(pipe, batch), strict=True):
            assert torch.equal(image, together[seed]), f"seed {seed} in a batch of {len(batch)}"
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("of", "steps"), [(12, 1), (12, 7), (12, 12), pytest.param(1000, 1000, marks=pytest.mark.slow)]
)
def test_any_number_of_steps(of, steps):
    small = SynapticCurrentUNet(4, 1, base_channels=2, channel_mult=(1,), spiking_steps=2).eval()
    output = make(small, num_train_timesteps=of)(
        seeds=[0], num_inference_steps=steps, output_type="pt"
    )
    assert len(output.current_variance) == steps + 1
    assert output.images.isfinite().all()


def test_streaming_gives_the_same_image(unet):
    pipe = make(unet)
    assert torch.equal(draw(pipe, [0, 1], stream=True), draw(pipe, [0, 1]))


def test_the_variance_over_the_spiking_steps_is_told(unet):
    seen = []

    def look(_pipe, _i, _t, tensors):
        seen.append(tensors["currents"].var(0, unbiased=False).mean().item())
        torch.testing.assert_close(tensors["sample"], tensors["currents"].mean(0))
        return {}

    output = make(unet)(seeds=[0, 1], num_inference_steps=3, callback_on_step_end=look)
    assert output.current_variance == pytest.approx([0.0, *seen])
    assert output.current_variance[-1] > 0


def test_a_callback_may_change_the_currents(unet):
    def blank(_pipe, i, _t, tensors):
        return {"currents": torch.zeros_like(tensors["currents"])} if i == 2 else {}

    images = draw(make(unet), [0], callback_on_step_end=blank)
    assert torch.equal(images, torch.full_like(images, 0.5))


def test_one_spiking_step_is_the_pipeline_of_images(unet):
    """With T = 1 a current is an image, and the pipeline is ordinary DDIM."""
    torch.manual_seed(0)
    single = SynapticCurrentUNet(**U_NET, spiking_steps=1).eval()
    ours = make(single)
    config = dict(ours.scheduler.config)
    ordinary = SpikingDiffusionPipeline(single, make_scheduler("ddim", config))
    ordinary.scheduler.register_to_config(clip_sample=False)
    ordinary.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(ours, [0, 1]), draw(ordinary, [0, 1]), atol=1e-4, rtol=0)


def test_round_trip_in_a_fresh_process(unet, tmp_path, fresh_process):
    pipe = make(unet)
    pipe.save_pretrained(tmp_path)
    program = (
        "import sys\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from spikediff import SynapticCurrentPipeline\n"
        "pipe = SynapticCurrentPipeline.from_pretrained(sys.argv[1])\n"
        "images = pipe(seeds=[7], num_inference_steps=3, output_type='pt').images\n"
        "print(images.double().sum().item().hex())\n"
    )
    done = fresh_process.run(program, tmp_path)
    want = draw(pipe, [7]).double().sum().item().hex()
    assert done.stdout.strip() == want, done.stderr


@pytest.mark.parametrize(
    "name", ["DDIM", "DDPM", "DDPMParallel", "EulerAncestralDiscrete", "LCM", "TCD", "SASolver"]
)
def test_schedulers_that_clip_or_draw_noise_are_refused(unet, name):
    with pytest.raises(UserError, match=r"Scheduler: .* synaptic currents .*; take"):
        SynapticCurrentPipeline(unet, getattr(diffusers, f"{name}Scheduler")())


@pytest.mark.parametrize("name", LINEAR)
def test_the_schedulers_of_currents_are_linear_and_draw_nothing(name):
    home = diffusers if hasattr(diffusers, name) else spikediff
    options = {"clip_sample": False} if name.startswith("DDIM") else {}
    scheduler = getattr(home, name)(**options)
    check_linear(scheduler)
    before = torch.get_rng_state()

    def image(x):
        scheduler.set_timesteps(8)
        for t in scheduler.timesteps:
            x = scheduler.step(0.5 * scheduler.scale_model_input(x, t), t, x).prev_sample
        return x

    x = torch.linspace(-1, 1, 9).view(1, 1, 9)
    torch.testing.assert_close(image(3 * x), 3 * image(x))
    assert torch.equal(before, torch.get_rng_state())


def test_bad_calls_are_told(unet):
    pipe = make(unet)
    with pytest.raises(UserError, match="no fresh noise"):
        pipe(seeds=[0], eta=0.5)
    with pytest.raises(UserError, match="one per image"):
        pipe(seeds=[0, 1], batch_size=3)
    with pytest.raises(UserError, match="num_inference_steps"):
        pipe(seeds=[0], num_inference_steps=0)
