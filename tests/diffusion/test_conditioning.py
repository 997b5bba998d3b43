"""Classes: guidance against exact scores, labels and batches, errors."""

from copy import deepcopy
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from mixture import MIXTURE, Mixture
from norms import see
from sizes import U_NET
from spikediff.diffusion.classes import (
    classes_in_turn,
    classifier_guided,
    conditioned,
    number_of_classes,
)
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

SIZES = {"base_channels": 8, "channel_mult": (1,), "layers_per_block": 1, "num_classes": 3}


def settle(model, *inputs):
    """Give norms statistics, and a head that answers loudly, so that a flipped spike shows."""
    for name, weight in model.named_parameters():
        if name in ("head.conv.weight", "class_embedding.table.weight", "conv_out.weight"):
            torch.nn.init.normal_(weight, std=3.0)
    return see(model, *(make() for make in inputs))


def images():
    return torch.randn(16, 1, 8, 8)


def times():
    return torch.randint(1000, (16,))


@cache
def made(kind):
    torch.manual_seed(0)
    if kind == "tokens":
        decoder = SpikingImageDecoder(16, (16, 16), spiking_steps=4, num_classes=3)
        settle(decoder, lambda: torch.randint(17, (16, 4, 4)))
        vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4).eval()
        pipe = VQSpikingDiffusionPipeline(vqvae, decoder, AbsorbingStateScheduler(16, 16))
    elif kind == "currents":
        unet = settle(SynapticCurrentUNet(8, 1, spiking_steps=4, **SIZES), images, times)
        pipe = SynapticCurrentPipeline(unet, make_scheduler("synaptic-ddim"))
    else:
        network = {"spiking": SpikingUNet, "ordinary": ddpm_unet}[kind]
        unet = settle(network(8, 1, **SIZES), images, times, lambda: torch.randint(4, (16,)))
        pipe = SpikingDiffusionPipeline(unet, make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_pipe(kind):
    """Return a pipeline of one's own; all of one kind are alike."""
    return deepcopy(made(kind))


def draw(pipe, **options):
    """Images, or tokens: the untrained VQ-SVAE makes one grey of all of them."""
    kind = "tokens" if isinstance(pipe, VQSpikingDiffusionPipeline) else "pt"
    return pipe(num_inference_steps=2, output_type=kind, **options).images


KINDS = ["spiking", "currents", "tokens"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_an_image_depends_on_its_seed_and_class_alone(kind, guidance):
    pipe = make_pipe(kind)
    seeds, labels = range(7), [0, 1, 2, 0, 1, 2, 0]
    together = draw(pipe, seeds=seeds, class_labels=labels, guidance_scale=guidance)
    for chosen in ([3], [0, 2, 4, 5]):
        part = draw(
            pipe,
            seeds=chosen,
            class_labels=[labels[i] for i in chosen],
            guidance_scale=guidance,
        )
        assert torch.equal(part, together[chosen])
    other = draw(pipe, seeds=seeds, class_labels=1, guidance_scale=guidance)
    assert torch.equal(other[1], together[1])
    assert not torch.equal(other[0], together[0]), "another class, the same image"


@pytest.mark.parametrize("kind", [*KINDS, "ordinary"])
def test_the_limits_of_guidance(kind):
    pipe = make_pipe(kind)
    plain = draw(pipe, seeds=[0, 1], class_labels=[0, 2])
    assert torch.equal(plain, draw(pipe, seeds=[0, 1], class_labels=[0, 2], guidance_scale=1.0))
    of_all = draw(pipe, seeds=[0, 1])  # no class
    none = draw(pipe, seeds=[0, 1], class_labels=[0, 2], guidance_scale=0.0)
    tolerance = 1e-5 if kind == "ordinary" else 0.0
    assert (of_all - none).abs().max() <= tolerance  # a spiking network has the very same bits
    assert not torch.equal(plain, of_all)
    assert len(draw(pipe, class_labels=[0, 1, 2])) == 3
    assert classes_in_turn(pipe, [4, 5]) == {"class_labels": [1, 2]}


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_a_callback_sees_the_guidance_of_the_call(guidance):
    seen = []
    call = {"seeds": [0], "class_labels": 1, "guidance_scale": guidance}
    look = {"callback_on_step_end": lambda pipe, *_: seen.append(pipe.guidance_scale)}
    draw(make_pipe(KINDS[0]), **call, **look)
    assert set(seen) == {guidance}


def test_streaming_is_the_window():
    pipe = make_pipe("currents")
    told = {"seeds": [0, 1], "class_labels": [0, 2], "guidance_scale": 1.5}
    assert torch.allclose(draw(pipe, **told), draw(pipe, stream=True, **told), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_labels": 3}, "from 3 to 3: the model knows 0 to 2"),
        ({"class_labels": [0, -1]}, "from -1 to 0"),
        ({"class_labels": [0, 1, 2]}, "for 2 images"),
        ({"class_labels": [1, None]}, r"class_labels = \[1, None\] must be whole numbers"),
        ({"class_labels": "cat"}, "the model has no class names; give numbers, 0 to 2"),
        ({"class_labels": torch.tensor([0.0, 1.0])}, "whole number"),
        ({"guidance_scale": 2.0}, "needs class_labels"),
        ({"class_labels": 0, "guidance_scale": -1.0}, "must not be negative"),
        ({"class_labels": 0, "guidance_scale": "2"}, "scale = '2' must be a finite number"),
        ({"class_labels": 0, "guidance_scale": float("nan")}, "nan must be a finite number"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_labels_are_told(kind, options, words):
    with pytest.raises(UserError, match=words):
        draw(make_pipe(kind), seeds=[0, 1], **options)


@pytest.mark.parametrize(
    "options", [{"class_labels": 0}, {"class_labels": "cat"}, {"guidance_scale": 2.0}]
)
def test_a_model_without_classes_takes_none(options):
    unet = SpikingUNet(**U_NET).eval()
    pipe = SpikingDiffusionPipeline(unet, make_scheduler("ddim"))
    with pytest.raises(UserError, match="was trained without classes"):
        draw(pipe, seeds=[0], **options)
    with pytest.raises(UserError, match="was trained without classes"):
        unet(torch.randn(1, 1, 8, 8), 5, class_labels=torch.tensor([0]))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (0.5, "must be whole numbers, got torch.float32"),
        (4, "class label 4: the model knows 0 to 2, and 3 for no class"),
        (-1, "class label -1"),
    ],
)
def test_a_network_refuses_labels_that_it_does_not_know(label, words):
    unet = SpikingUNet(**U_NET, num_classes=3).eval()
    with pytest.raises(UserError, match=words):
        unet(torch.zeros(1, 1, 8, 8), 5, class_labels=torch.tensor([label]))


def test_labels_are_counted_as_diffusers_counts_them():
    assert number_of_classes(ddpm_unet(8, 1, **SIZES)) == 3
    assert number_of_classes(ddpm_unet(**U_NET)) == 0


# Exact scores: class k of the mixture is its component k.


def component(k):
    return Mixture(torch.ones(1).double(), MIXTURE.means[k : k + 1], MIXTURE.stds[k : k + 1])


def of_scheduler(kind):
    return make_scheduler("ddim", {"prediction_type": kind, "clip_sample": False})


def as_kind(eps, x, alpha_bar, kind):
    """A noise estimate as what the scheduler's kind of network would answer."""
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    x_0 = (x - sigma * eps) / alpha
    return {"epsilon": eps, "sample": x_0, "v_prediction": alpha * eps - sigma * x_0}[kind]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("timestep", [20, 400, 800])
def test_an_exact_classifier_turns_the_score_of_all_into_that_of_a_class(kind, timestep):
    scheduler = of_scheduler(kind)
    alpha_bar = float(scheduler.alphas_cumprod[timestep])
    x = torch.linspace(-1.5, 1.5, 40, dtype=torch.float64)

    def classifier(x_t, _timestep):
        normals = MIXTURE._normals(alpha_bar)
        return MIXTURE.weights.log() + normals.log_prob(x_t[..., None])

    def denoiser(x_t, _timestep):
        return as_kind(MIXTURE.noise_estimate(x_t, alpha_bar), x_t, alpha_bar, kind)

    labels = torch.arange(40) % 2
    guided = classifier_guided(denoiser, scheduler, classifier, labels, 1.0, 40)
    exact = torch.stack([component(k).noise_estimate(x, alpha_bar) for k in (0, 1)])
    wanted = as_kind(exact[labels, torch.arange(40)], x, alpha_bar, kind)
    # The scheduler keeps its table in float32.
    assert torch.allclose(guided(x, torch.tensor(timestep)), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="needs class_labels"):
        classifier_guided(denoiser, scheduler, classifier, None, 1.0, 40)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_moves_along_the_log_ratio(scale):
    """The guided score is that of p(x) p(c | x)^w: the gradient of its logarithm, by autograd."""
    alpha_bar = 0.4
    x = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64, requires_grad=True)

    def network(x_t, _timestep, class_labels):
        rows = [MIXTURE, component(0)]  # 1 is "no class"
        return torch.stack(
            [
                rows[1 - k].noise_estimate(v, alpha_bar)
                for k, v in zip(class_labels, x_t, strict=True)
            ]
        )

    owner = SimpleNamespace(config={"num_classes": 1}, device="cpu")
    guided = conditioned(network, owner, 0, scale, len(x))
    estimate = guided(x.detach(), torch.tensor(5))
    log_p, log_p_0 = MIXTURE.density(x, alpha_bar).log(), component(0).density(x, alpha_bar).log()
    score = torch.autograd.grad((log_p + scale * (log_p_0 - log_p)).sum(), x)[0]
    assert torch.allclose(estimate, -((1 - alpha_bar) ** 0.5) * score, atol=1e-10)


def test_a_classifier_guides_the_pipeline():
    torch.manual_seed(0)
    unet = SpikingUNet(**U_NET).eval()
    pipe = SpikingDiffusionPipeline(unet, make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)

    def bright_or_dark(x_t, _timestep):
        brightness = x_t.flatten(1).mean(1)
        return torch.stack([-brightness, brightness], dim=1)

    plain = draw(pipe, seeds=range(4))
    told = {"seeds": range(4), "class_labels": [0, 1, 0, 1], "classifier": bright_or_dark}
    assert torch.equal(draw(pipe, classifier_scale=0.0, **told), plain)
    assert not torch.equal(draw(pipe, classifier_scale=1.0, **told), plain)
    for labels, words in (
        (2, "from 2 to 2: the model knows 0 to 1"),
        ([0, 1, 0, -1], "from -1 to 1"),
        ([0, 1, 0, None], "must be whole numbers"),
        ("cat", "the model has no class names; give numbers$"),
    ):
        with pytest.raises(UserError, match=words):
            draw(pipe, **{**told, "class_labels": labels})
