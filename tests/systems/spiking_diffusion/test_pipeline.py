"""The pipeline of tokens: seeds, steps, inpainting, round trips."""

import numpy as np
import pytest
import torch

from norms import see
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE


def loud(model, *inputs):
    """Give batch norm statistics of its own, and gains above 1, so that neurons fire."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 3.0)
    return see(model, *inputs)


def make(source="embedding"):
    torch.manual_seed(0)
    vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
    decoder = SpikingImageDecoder(16, (16, 16), spiking_steps=4, input=source)
    pipe = VQSpikingDiffusionPipeline(
        loud(vqvae, torch.rand(32, 1, 8, 8) - 0.5),
        loud(decoder, torch.randint(17, (32, 4, 4)), 5),
        AbsorbingStateScheduler(num_train_timesteps=16, mask_token=16),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=["embedding", "raw"])
def pipe(request):
    return make(request.param)


def draw(pipe, seeds, **options):
    return pipe(seeds=seeds, output_type="pt", **options).images


@pytest.mark.parametrize("unmasking", ["ancestral", "confidence"])
@pytest.mark.parametrize("steps", [None, 5])
def test_an_image_depends_on_its_seed_alone(pipe, unmasking, steps):
    options = {"unmasking": unmasking, "num_inference_steps": steps, "top_p": 0.95}
    together = draw(pipe, range(5), **options)
    assert together.shape == (5, 1, 8, 8)
    for batch in ([3], [4, 1, 3]):
        for seed, image in zip(batch, draw(pipe, batch, **options), strict=True):
            assert torch.equal(image, together[seed]), f"seed {seed} in a batch of {len(batch)}"
    assert not torch.equal(together[0], together[1])


def test_round_trip_is_bit_equal(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = VQSpikingDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again, range(4)), draw(pipe, range(4)))
    assert type(again.scheduler) is AbsorbingStateScheduler
    assert tuple(again.vqvae.config.input_range) == (-0.5, 0.5)


def test_loads_in_a_fresh_process(tmp_path, fresh_process):
    make().save_pretrained(tmp_path)
    program = (
        "import sys\n"
        "from spikediff import VQSpikingDiffusionPipeline as P\n"
        "print(*(type(c).__name__ for c in P.from_pretrained(sys.argv[1]).components.values()))\n"
    )
    done = fresh_process.run(program, tmp_path)
    want = {"VQSVAE", "SpikingImageDecoder", "AbsorbingStateScheduler"}
    assert set(done.stdout.split()) == want, done.stderr


def test_one_network_call_a_step(pipe):
    calls = []
    hook = pipe.decoder.register_forward_pre_hook(lambda _m, inputs: calls.append(inputs[1]))
    for steps, want in ((None, 16), (16, 16), (3, 3), (1, 1)):
        calls.clear()
        draw(pipe, [0, 1], num_inference_steps=steps)
        assert len(calls) == want
        assert calls[0].tolist() == [16, 16]
    hook.remove()


def test_output_types_and_the_range(pipe):
    options = {"seeds": [0, 1], "num_inference_steps": 3}
    tokens = pipe(**options, output_type="tokens").images
    unit = pipe(**options, output_type="pt").images
    want = (pipe.vqvae.decode(tokens) + 0.5).clamp(0, 1)  # the model's range is [-0.5, 0.5]
    torch.testing.assert_close(unit, want.detach())
    array = pipe(**options, output_type="np").images
    np.testing.assert_array_equal(array, unit.permute(0, 2, 3, 1).numpy())
    pictures = pipe(**options).images
    assert [p.mode for p in pictures] == ["L", "L"]
    want = (unit[:, 0] * 255).numpy()
    np.testing.assert_allclose(np.stack([np.asarray(p) for p in pictures]), want, atol=0.51)
    assert pipe(**options, return_dict=False)[0][0].size == (8, 8)


def test_inpainting_keeps_what_is_known(pipe):
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)) - 0.5
    with torch.no_grad():
        tokens = pipe.vqvae.encode(images)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3] = True
    options = {"num_inference_steps": 4, "output_type": "tokens", "seeds": [0, 1, 2]}
    got = pipe(tokens=tokens, mask=mask, **options).images
    assert torch.equal(got[:, ~mask], tokens[:, ~mask])
    assert not torch.equal(got[:, mask], tokens[:, mask])
    assert got.max() < 16
    same = pipe(tokens=tokens.masked_fill(mask, 16), **options).images
    assert torch.equal(same, got), "MASK among the tokens says the same"
    alone = pipe(tokens=tokens[1], mask=mask, **{**options, "seeds": [1]}).images
    assert torch.equal(alone[0], got[1])
    untouched = pipe(tokens=tokens, num_inference_steps=4, output_type="tokens").images
    assert torch.equal(untouched, tokens)


def test_inpainting_tells_the_network_how_many_masks_there_are():
    pipe, times = make("raw"), []
    pipe.decoder.register_forward_pre_hook(lambda _m, inputs: times.append(inputs[1].tolist()))
    tokens = torch.zeros(2, 4, 4, dtype=torch.long)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0], mask[1, 0] = True, True
    pipe(tokens=tokens, mask=mask, num_inference_steps=4)
    assert times == [[16, 4], [12, 3], [8, 2], [4, 1]]


def test_callback_sees_and_may_change_every_step(pipe):
    seen = []

    def look(_pipe, i, timestep, tensors):
        seen.append((i, int(timestep), int((tensors["sample"] == 16).sum())))
        return {"sample": torch.zeros_like(tensors["sample"])} if i == 3 else {}

    got = pipe(
        seeds=[0, 1], num_inference_steps=4, output_type="tokens", callback_on_step_end=look
    ).images
    assert [(i, t) for i, t, _ in seen] == [(0, 16), (1, 12), (2, 8), (3, 4)]
    assert seen[-1][2] == 0
    assert (got == 0).all()


def test_greedy_needs_no_luck(pipe):
    a = draw(pipe, [0], temperature=0.0, num_inference_steps=1)
    b = draw(pipe, [1], temperature=0.0, num_inference_steps=1)
    assert torch.equal(a, b)


def test_generator_instead_of_seeds(pipe):
    options = {"batch_size": 2, "num_inference_steps": 3, "output_type": "pt"}
    one = pipe(generator=torch.Generator().manual_seed(3), **options).images
    two = pipe(generator=torch.Generator().manual_seed(3), **options).images
    assert torch.equal(one, two)


def test_the_energy_of_an_image(pipe):
    with EnergyMeter(pipe) as meter:
        pipe(seeds=[0, 1], num_inference_steps=3)
    report = meter.report()
    assert report.acs > 0
    assert any(row.layer.startswith("vqvae.decoder") and row.acs for row in report.layers)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seeds": [1, 2], "batch_size": 3}, "one per image"),
        ({"seeds": [1], "generator": torch.Generator()}, "not both"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"num_inference_steps": 17}, "between 1 and 16"),
        ({"unmasking": "best"}, "unknown unmasking"),
        ({"temperature": -0.1}, "temperature"),
        ({"mask": torch.ones(4, 4, dtype=torch.bool)}, "known tokens"),
        ({"tokens": torch.zeros(3, 3, dtype=torch.long)}, "give"),
        ({"tokens": torch.zeros(2, 4, 4, dtype=torch.long), "seeds": [1]}, "give"),
        ({"tokens": torch.full((4, 4), 17)}, "from 0 to 15"),
        ({"tokens": torch.zeros(4, 4)}, "whole numbers"),
    ],
)
def test_bad_calls_are_told(pipe, options, word):
    with pytest.raises(UserError, match=word):
        pipe(**options)


def test_parts_of_different_codebooks_are_told():
    pipe = make()
    with pytest.raises(UserError, match="they must be one"):
        VQSpikingDiffusionPipeline(
            pipe.vqvae, pipe.decoder, AbsorbingStateScheduler(mask_token=128)
        )
