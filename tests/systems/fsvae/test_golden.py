"""Parity with the authors' FSVAE: inference, prior sampling, training (golden file C6)."""

import pytest
import torch

from goldens import Golden
from spikediff.layers.coding import postsynaptic_potential
from spikediff.neurons import LIF, NeuronLayer
from spikediff.systems.fsvae.latent import Coins
from spikediff.systems.fsvae.network import FSVAE, LatentDraws, fsvae_neuron_options
from spikediff.systems.fsvae.released import fsvae_key
from spikediff.systems.released import load_authors_checkpoint

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.float64: {"atol": 1e-10, "rtol": 0}}
GRAD_RTOL = {torch.float32: 5e-5, torch.float64: 1e-9}


@pytest.fixture(scope="module")
def c6():
    return Golden("C6_fsvae")


def load(c6, dtype=torch.float32, **options):
    """The model; in float64 with the read-out's coefficients in float32, as the authors' run."""
    model = load_authors_checkpoint(c6.state(), "fsvae").to(dtype)
    changed = FSVAE(**{k: v for k, v in model.config.items() if k[0] != "_"} | options).to(dtype)
    changed.load_state_dict(model.state_dict())
    coefficients = c6["state/membrane_output_layer.coef"].view(-1, 1, 1, 1, 1).to(dtype)
    changed.readout = lambda y: (coefficients * y).sum(0)
    return changed.eval()


def name_of(key, dtype):
    return key if dtype == torch.float32 else f"{key}_f64"


def close(got, want, dtype):
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])


def same_spikes(ours, theirs):
    """Ours [T, B, ...] against theirs (N, ..., T)."""
    assert torch.equal(ours.byte(), theirs.movedim(-1, 0))


def spikes_of(model, run):
    """Run; return the spikes of every neuron layer by name, a window for each of its calls."""
    seen, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, NeuronLayer):
            windows = seen.setdefault(name, [])
            hooks.append(
                module.register_forward_hook(lambda _m, _i, out, kept=windows: kept.append(out))
            )
    out = run()
    for hook in hooks:
        hook.remove()
    return seen, out


def their_counts(seen):
    return {
        fsvae_key(f"{name}.x", 4).removesuffix(".neuron.x") + ".spike": sum(
            int(window.sum()) for window in windows
        )
        for name, windows in seen.items()
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference(c6, dtype):
    model = load(c6, dtype)
    draws = LatentDraws(c6["eval/random_index"])
    with torch.no_grad():
        seen, out = spikes_of(model, lambda: model(c6["eval/image"].to(dtype), draws=draws))
    same_spikes(out.latent, c6["eval/sampled_z"])
    same_spikes(out.posterior, c6["eval/q_z"])
    same_spikes(out.prior, c6["eval/p_z"])
    close(out.sample, c6[name_of("eval/recon", dtype)], dtype)
    counts, theirs = their_counts(seen), c6.facts["modes"]["eval"]["spike_count"]
    for layer in counts:  # theirs are of 136 steps of the posterior, not of 31
        assert counts[layer] == theirs[layer] or layer.startswith("posterior."), layer
    for key in [k for k in c6.tensors if k.startswith("spikes/eval/")]:
        layer = key.removeprefix("spikes/eval/").removesuffix(".spike")
        ours = next(n for n in seen if fsvae_key(f"{n}.x", 4) == f"{layer}.neuron.x")
        same_spikes(seen[ours][0], c6[key])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("divergence", "key"), [("mmd", "loss_mmd"), ("kl", "loss_kld")])
def test_losses(c6, dtype, divergence, key):
    model = load(c6, dtype, divergence=divergence, divergence_weight=None)
    draws = LatentDraws(c6["eval/random_index"])
    with torch.no_grad():
        out = model(c6["eval/image"].to(dtype), draws=draws)
    close(out.divergence, c6[name_of(f"eval/{key}/distance", dtype)], dtype)
    close(out.loss, c6[name_of(f"eval/{key}/total", dtype)], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_prior_sampling(c6, dtype, monkeypatch):
    model = load(c6, dtype)
    monkeypatch.setattr(model, "draw", lambda *_: LatentDraws(c6["prior/random_index"]))
    latents = []
    model.from_latent.register_forward_pre_hook(lambda _m, inputs: latents.append(inputs[0]))
    images = model.generate(2)
    same_spikes(latents[0], c6["prior/sampled_z"])
    close(images, c6[name_of("prior/image", dtype)], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_step(c6, dtype):
    model = load(c6, dtype, training_draws="prefixes").train()
    probability = c6.facts["config"]["scheduled_sampling_p"]
    draws = LatentDraws(c6["train/random_index"], coins_of(c6, probability))
    run = lambda: model(c6["train/image"].to(dtype), None, draws, probability)  # noqa: E731
    seen, out = spikes_of(model, run)
    same_spikes(out.latent, c6["train/sampled_z"])
    same_spikes(out.posterior, c6["train/q_z"])
    same_spikes(out.prior, c6["train/p_z"])
    assert their_counts(seen) == c6.facts["modes"]["train"]["spike_count"]
    close(out.sample, c6[name_of("train/recon", dtype)], dtype)
    close(out.divergence, c6[name_of("train/loss_mmd/distance", dtype)], dtype)
    close(out.loss, c6[name_of("train/loss_mmd/total", dtype)], dtype)

    out.loss.backward()
    compared = 0
    for name, parameter in model.named_parameters():
        want = c6.tensors.get(name_of(f"grad/{fsvae_key(name, 4)}", dtype))
        if want is not None:
            error = (parameter.grad - want.view_as(parameter)).norm() / want.norm()
            assert error < GRAD_RTOL[dtype], name
            compared += 1
    assert compared == 8
    if dtype == torch.float32:
        buffers = {fsvae_key(name, 4): buffer for name, buffer in model.named_buffers()}
        after = [key for key in c6.tensors if key.startswith("after/")]
        assert len(after) == 15
        for key in after:
            got = buffers[key.removeprefix("after/")]
            torch.testing.assert_close(got, c6[key], rtol=1e-5, atol=1e-7)


def coins_of(c6, probability):
    """Their draws, of the steps t = 5 .. T-2 alone and for the batch, as coins [T, B]."""
    steps, images, channels = c6["train/random_index"].shape
    uniform, normal = torch.ones(steps, images), torch.zeros(steps, images, channels)
    uniform[5 : steps - 1] = c6["train/scheduled_uniform"].float()[:, None]
    normal[uniform[:, 0] < probability] = c6["train/scheduled_normal"]
    return Coins(uniform, normal)


def test_neuron_trace(c6):
    neuron = LIF(**fsvae_neuron_options())
    current = c6["lif/x"].movedim(-1, 0).clone().requires_grad_()
    spikes = neuron(current)
    same_spikes(spikes.detach(), c6["lif/spikes"])
    spikes.backward(c6["lif/grad_out"].movedim(-1, 0))
    want = c6["lif/grad_x"].movedim(-1, 0)
    torch.testing.assert_close(current.grad, want, atol=1e-5, rtol=1e-5)


def test_postsynaptic_potential(c6):
    got = postsynaptic_potential(c6["psp/x"].movedim(-1, 0))
    torch.testing.assert_close(got.movedim(0, -1), c6["psp/y"], atol=1e-5, rtol=1e-5)
