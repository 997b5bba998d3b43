"""Parity with the authors' Spiking-Diffusion networks, layer by layer (C4, C5, C5_sdid_full)."""

import zlib
from functools import partial

import numpy as np
import pytest
import torch

from goldens import Golden
from spikediff.neurons import LIF
from spikediff.systems.released import load_authors_checkpoint
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler, absorbing_loss
from spikediff.systems.spiking_diffusion.released import image_decoder_key, vq_svae_key
from spikediff.systems.spiking_diffusion.vq_svae import vq_svae_terms

OUTPUT = {torch.float32: (1e-5, 1e-5), torch.float64: (1e-10, 0.0)}
GRADIENT = {torch.float32: 5e-5, torch.float64: 1e-9}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
DECODERS = pytest.mark.parametrize(
    ("c5", "dtype"),
    [
        pytest.param("C5_sdid", torch.float32, id="C5_sdid-f32"),
        pytest.param("C5_sdid", torch.float64, id="C5_sdid-f64"),
        pytest.param("C5_sdid_full", torch.float32, id="C5_sdid_full-f32"),
        pytest.param("C5_sdid_full", torch.float64, id="C5_sdid_full-f64", marks=pytest.mark.slow),
    ],
    indirect=["c5"],
)


def twin(key, dtype):
    return key if dtype == torch.float32 else f"{key}_f64"


def close(got, want, dtype=torch.float32):
    atol, rtol = OUTPUT[dtype]
    torch.testing.assert_close(got, want, atol=atol, rtol=rtol)


def record(model):
    """Keep what every module makes, by its name, of the calls that follow."""
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    return seen


def check_gradients(model, golden, key, dtype):
    compared = 0
    for name, parameter in model.named_parameters():
        want = golden.tensors.get(twin(f"grad/{key(name)}", dtype))
        if want is not None:
            error = (parameter.grad - want).norm() / want.norm()
            assert error < GRADIENT[dtype], name
            compared += 1
    stored = [k for k in golden.tensors if k.startswith("grad/") and not k.endswith("_f64")]
    assert compared == len(stored)


def check_buffers(model, golden, key):
    ours = {key(name): buffer for name, buffer in model.named_buffers()}
    after = [k for k in golden.tensors if k.startswith("after/")]
    assert after
    for k in after:
        torch.testing.assert_close(ours[k.removeprefix("after/")], golden[k], rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def c4():
    return Golden("C4_vqsvae")


def vq_svae(c4, dtype=torch.float32):
    return load_authors_checkpoint(c4.state(), "spiking-diffusion", sample_size=28).to(dtype)


SPIKES = {
    "encoder.layers.0": "encoder.snn_convs.2",
    "encoder.layers.1": "encoder.snn_convs.5",
    "encoder.layers.2": "encoder.snn_convs.8",
    "spike_generator.layer": "vq_layer.poisson.2",
    "decoder.layers.0": "decoder.snn_convs.2",
    "decoder.layers.1": "decoder.snn_convs.5",
}


@DTYPES
def test_autoencoder_in_evaluation(c4, dtype):
    model = vq_svae(c4, dtype)
    seen = record(model)
    with torch.no_grad():
        output = model(c4["in/image"].to(dtype))
    for ours, theirs in SPIKES.items():
        spikes = seen[f"{ours}.neuron"]
        assert int(spikes.sum()) == c4.facts["modes"]["eval"]["spike_count"][theirs], ours
        if f"spikes/eval/{theirs}" in c4.tensors:
            assert torch.equal(spikes.byte(), c4[f"spikes/eval/{theirs}"]), ours
    close(seen["spike_feature"], c4[twin("mid/z_E", dtype)], dtype)
    assert torch.equal(output.tokens, c4["out/tokens"])
    close(output.sample, c4[twin("out/recon", dtype)], dtype)
    if dtype == torch.float32:
        close(seen["quantiser"].values, c4["mid/z_Q"])
        close(seen["decoder.last"].view(16, 2, 1, 28, 28), c4["out/decoder_currents"])
        close(output.reconstruction_loss, c4["out/mse"])


def test_there_and_back_is_the_reconstruction(c4):
    model = vq_svae(c4)
    with torch.no_grad():
        tokens = model.encode(c4["in/image"])
        assert torch.equal(tokens, c4["out/tokens"])
        close(model.decode(tokens), c4["out/recon"])


@DTYPES
def test_autoencoder_in_training(c4, dtype):
    model = vq_svae(c4, dtype).train()
    seen = record(model)
    output = model(c4["train/image"].to(dtype))
    for theirs in ("encoder.snn_convs.8", "vq_layer.poisson.2"):
        ours = next(name for name, key in SPIKES.items() if key == theirs)
        assert torch.equal(seen[f"{ours}.neuron"].byte(), c4[f"spikes/train/{theirs}"])
    assert torch.equal(output.tokens, c4["train/tokens"])
    if dtype == torch.float32:
        close(seen["spike_feature"].detach(), c4["train/z_E"])

    variance, beta = c4.facts["config"]["data_variance"], 0.25
    total = torch.stack([*vq_svae_terms(output, variance, beta).values()]).sum()
    for got, name in [
        (output.codebook_loss, "codebook"),
        (beta * output.commitment_loss, "commitment"),
        (output.spike_loss, "psp_codebook"),
        (beta * output.spike_commitment_loss, "psp_commitment"),
        (output.reconstruction_loss, "recon_mse"),
        (output.reconstruction_loss / variance, "recon_over_variance"),
        (total, "total"),
    ]:
        close(got.detach(), c4[twin(f"loss/{name}", dtype)], dtype)
    total.backward()
    check_gradients(model, c4, vq_svae_key, dtype)
    if dtype == torch.float32:
        check_buffers(model, c4, vq_svae_key)


def recipe_weight(key, shape, scale):
    """The large weights of C5_sdid_full, which a hash of key and index defines."""
    n = np.arange(np.prod(shape), dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (np.uint64(zlib.crc32(key.encode()) << 32) + n + np.uint64(1)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = ((z >> np.uint64(40)).astype(np.float64) + 0.5) / 2**23 - 1
    return torch.from_numpy((unit * scale).astype(np.float32).reshape(shape))


@pytest.fixture(scope="module")
def c5(request):
    golden = Golden(request.param)
    for key, row in golden.facts.get("recipe_weights", {}).items():
        weight = recipe_weight(key, row["shape"], row["scale"])
        assert weight.flatten()[:3].tolist() == row["first3"]
        golden.tensors[f"state/{key}"] = weight
    return golden


def image_decoder(c5, dtype=torch.float32):
    state = c5.state()
    return load_authors_checkpoint(state, "spiking-diffusion-decoder", spiking_steps=16).to(dtype)


@DECODERS
def test_decoder_logits(c5, dtype):
    model = image_decoder(c5, dtype)
    assert model.num_parameters() == c5.facts["config"]["parameter_count"]
    seen = record(model)
    with torch.no_grad():
        logits = model(c5["logits/tokens"][:, 0], c5["logits/t"]).sample
    for i in range(5):
        count = int(seen[f"layers.{i}.neuron"].sum())
        assert count == c5.facts["modes"]["logits"]["spike_count"][f"conv{i + 1}.2"]
        if f"spikes/conv{i + 1}.2" in c5.tensors:
            assert torch.equal(seen[f"layers.{i}.neuron"].byte(), c5[f"spikes/conv{i + 1}.2"])
    close(logits, c5[twin("logits/logits", dtype)], dtype)


@DECODERS
def test_decoder_in_training(c5, dtype):
    model = image_decoder(c5, dtype).train()
    scheduler = AbsorbingStateScheduler(num_train_timesteps=49, mask_token=128)
    x_0, t = c5["loss/x_0"][:, 0], c5["loss/t"]
    x_t = scheduler.add_noise(x_0, c5["loss/u"][:, 0], t)
    masked = x_t == 128
    assert torch.equal(masked, c5["loss/mask"][:, 0])
    logits = model(x_t, t).sample
    loss = partial(absorbing_loss, logits, x_0, masked, t, num_train_timesteps=49)
    close(loss(weighting="elbo").detach(), c5[twin("loss/elbo", dtype)], dtype)
    released = loss(weighting="released")
    close(released.detach(), c5[twin("loss/reweighted_elbo", dtype)], dtype)
    released.backward()
    check_gradients(model, c5, image_decoder_key, dtype)
    if dtype == torch.float32:
        check_buffers(model, c5, image_decoder_key)


def test_the_sampler_replayed_with_its_draws():
    """49 steps of the authors' sampler: every grid after every step, and the stored logits."""
    c5 = Golden("C5_sdid")
    model, x = image_decoder(c5), c5["sampler/x"].long()
    scheduler = AbsorbingStateScheduler(num_train_timesteps=49, mask_token=128)
    scheduler.set_timesteps(49)
    assert scheduler.timesteps.tolist() == c5.facts["sampler"]["t"]
    tokens = torch.full_like(x[0], 128)
    stored = dict(zip(c5["sampler/logits_steps"].tolist(), c5["sampler/logits"], strict=True))
    for k, t in enumerate(scheduler.timesteps):
        assert torch.equal(tokens, x[k])
        with torch.no_grad():
            logits = model(tokens, t).sample
        if int(t) in stored:
            close(logits, stored.pop(int(t)))
        draws = (c5["sampler/u"][k], c5["sampler/E"].movedim(-1, 1))
        tokens = scheduler.step(
            logits, t, tokens, temperature=c5.facts["sampler"]["temperature"], draws=draws
        ).prev_sample
    assert not stored
    assert torch.equal(tokens, c5["sampler/tokens"])


def test_the_neuron(c4):
    """The default LIF is theirs, an exact tie at the threshold and the gradient included."""
    neuron, x = LIF(), c4["lif/x"].requires_grad_()
    spikes = neuron(x)
    assert torch.equal(spikes.byte(), c4["lif/spikes"])
    spikes.backward(c4["lif/grad_out"])
    torch.testing.assert_close(x.grad, c4["lif/grad_x"], atol=1e-6, rtol=1e-5)
    state = None
    for current, v in zip(c4["lif/x"].detach(), c4["lif/v_after_reset"], strict=True):
        _, state = neuron.step(current, state)
        torch.testing.assert_close(state.v, v, atol=1e-6, rtol=1e-5)
