"""`spikediff import`: from the file of an authors' checkpoint to images, for every system."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from goldens import Golden
from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.files.weights import read_foreign_weights
from spikediff.systems.released import load_authors_checkpoint, released_checkpoints
from spikediff.training.trained import load_trained

# The golden case of a system, what its weights do not tell, and the inputs of its network.
CASES = {
    "sddpm": ("A1_sddpm_unet", {"sample_size": 16}, ("in/x", "in/t")),
    "sdm": ("A2_sdm_tsm_unet", {"sample_size": 16}, ("in/x", "in/t")),
    "sdm-converted": ("A4_ann2snn", {"sample_size": 8}, ("in/x", "in/t")),
    "sdm-quantised": ("A4_ann2snn", {"sample_size": 8}, ("in/x", "in/t")),
    "fsddim": ("C1_fsddim_unet", {"sample_size": 16, "residual_alpha": 0.7071}, ("in/x", "in/t")),
    "spiking-diffusion": ("C4_vqsvae", {}, ("in/image",)),
    "spiking-diffusion-decoder": ("C5_sdid", {}, ("logits/tokens", "logits/t")),
    "fsvae": ("C6_fsvae", {}, ()),
}
# Noise schedule and target of the authors' training, and its steps.
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SCHEDULERS = {
    "sddpm": ("DDIMScheduler", {**LINEAR, "prediction_type": "epsilon"}),
    "sdm": ("DDIMScheduler", {**LINEAR, "prediction_type": "epsilon"}),
    "sdm-converted": ("DDIMScheduler", {**LINEAR, "prediction_type": "epsilon"}),
    "sdm-quantised": ("DDIMScheduler", {**LINEAR, "prediction_type": "epsilon"}),
    "fsddim": (
        "SynapticCurrentDDIMScheduler",
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    ),
    "spiking-diffusion-decoder": (
        "AbsorbingStateScheduler",
        {"num_train_timesteps": 49, "mask_token": 128, "temperature": 0.65},
    ),
}


def checkpoint(system, folder):
    """A file as the authors' code saves it; returns the arguments that name it."""
    golden, options, _ = CASES[system]
    torch.save({"net_model": Golden(golden).state(), "step": 1}, folder / "weights.pt")
    arguments = [str(folder / "weights.pt"), "--system", system]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    if system == "spiking-diffusion-decoder":
        save_file(Golden("C4_vqsvae").state(), folder / "first.safetensors")
        arguments += ["--first-stage", str(folder / "first.safetensors")]
    return arguments


def answer(model, system):
    """What a network says to the golden inputs."""
    golden = Golden(CASES[system][0])
    inputs = [golden[key] for key in CASES[system][2]]
    with torch.no_grad():
        if system == "fsvae":
            return model.generate(2, torch.Generator().manual_seed(0))
        if system == "fsddim":
            return model(inputs[0].movedim(-1, 0), inputs[1]).sample  # S last -> first
        if system == "spiking-diffusion-decoder":
            return model(inputs[0][:, 0], inputs[1]).sample
        return model(*inputs).sample


def check_diffusion(pipe, system):
    """The scheduler is that of the authors' training."""
    name, settings = SCHEDULERS.get(system, (None, {}))
    if name is None:
        assert "scheduler" not in pipe.components
        return
    assert type(pipe.scheduler).__name__ == name
    assert {key: pipe.scheduler.config[key] for key in settings} == settings
    if name != "AbsorbingStateScheduler":
        assert pipe.scheduler.config.num_train_timesteps == 1000


@pytest.mark.parametrize("system", released_checkpoints())
def test_from_a_checkpoint_to_images(system, tmp_path, capsys):
    out = tmp_path / "pipeline"
    told = ["--output", str(out), "--json", str(tmp_path / "told.json")]
    assert main(["import", *checkpoint(system, tmp_path), *told]) == 0
    assert "parameters" in capsys.readouterr().out

    pipe = load_trained(out)
    parts = {"spiking-diffusion": "vae", "spiking-diffusion-decoder": "decoder", "fsvae": "vae"}
    golden, options, _ = CASES[system]
    want = load_authors_checkpoint(Golden(golden).state(), system, **options)
    assert torch.equal(
        answer(pipe.components[parts.get(system, "unet")], system), answer(want, system)
    )

    check_diffusion(pipe, system)
    if system != "spiking-diffusion":
        pipe.set_progress_bar_config(disable=True)
        assert len(pipe(seeds=[0], num_inference_steps=1).images) == 1
    else:
        assert main(["sample", str(out), "--output", str(tmp_path / "samples")]) == 2
        assert "reconstructs images and has no prior" in capsys.readouterr().err
        images = Golden("C4_vqsvae")["in/image"]
        torch.testing.assert_close(pipe.reconstruct(2 * images) / 2, want(images).sample)

    facts = json.loads((tmp_path / "told.json").read_text())
    assert facts["origin"]["system"] == system
    assert facts["origin"] == json.loads((out / "origin.json").read_text())
    assert facts["origin"]["checkpoint"]["file"] == "weights.pt"
    assert facts["origin"]["options"] == options


@pytest.mark.parametrize("system", released_checkpoints())
def test_another_system_is_told_which_one_it_is(system, tmp_path, capsys):
    named = "fsvae" if system != "fsvae" else "sddpm"
    torch.save(Golden(CASES[system][0]).state(), tmp_path / "w.pt")
    wrong = [str(tmp_path / "w.pt"), "--system", named, "--output", str(tmp_path / "out")]
    assert main(["import", *wrong]) == 2
    likely = "sdm-converted" if system == "sdm-quantised" else system
    error = capsys.readouterr().err.strip()
    assert error.endswith(f"its keys look like system '{likely}'")
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


class Payload:
    """What a malicious checkpoint would run when it is unpickled."""

    ran = False

    def __reduce__(self):
        return (setattr, (Payload, "ran", True))


def test_what_cannot_work_is_told_in_a_line(tmp_path, capsys):
    good = tmp_path / "w.pt"
    torch.save(Golden("C6_fsvae").state(), good)
    (tmp_path / "damaged.pt").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Payload()))
    decoder, other = tmp_path / "decoder.pt", tmp_path / "other.pt"
    torch.save(Golden("C5_sdid").state(), decoder)
    state = Golden("C4_vqsvae").state()
    book = "vq_layer.embeddings.weight"
    torch.save(state | {book: state[book][:64].clone()}, other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    new = ["--output", str(tmp_path / "new")]
    fsvae, second = ["--system", "fsvae"], ["--system", "spiking-diffusion-decoder"]
    cases = [
        ([str(tmp_path / "no.pt"), *fsvae, *new], "no.pt: cannot be read, no such file"),
        ([str(tmp_path / "damaged.pt"), *fsvae, *new], "cannot be read as weights"),
        ([str(tmp_path / "text.pt"), *fsvae, *new], "cannot be read as weights"),
        ([str(tmp_path / "code.pt"), *fsvae, *new], "cannot be read as weights"),
        ([str(good), *fsvae, "--output", str(tmp_path / "full")], "choose another --output"),
        ([str(good), "--system", "fsva", *new], "did you mean 'fsvae'?"),
        ([str(good), *fsvae, "--residual-alpha", "1", *new], "'fsvae' has none"),
        ([str(good), *fsvae, "--first-stage", str(other), *new], "has one stage"),
        ([str(decoder), *second, *new], "give the authors' checkpoint of the VQ-SVAE"),
        (
            [str(decoder), *second, "--first-stage", str(tmp_path / "x"), *new],
            "x: cannot be read, no such file",
        ),
        ([str(decoder), *second, "--first-stage", str(other), *new], "codebooks of 64"),
    ]
    for arguments, said in cases:
        assert main(["import", *arguments]) == 2, said
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
    assert Payload.ran is False
    assert not (tmp_path / "new").exists()


def refusal(path):
    """What is said of a file, None where it can be read."""
    try:
        read_foreign_weights(path)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_checkpoint_never_ends_in_a_traceback(tmp_path):
    """Bits that flip in a pickle end in exceptions of every kind inside torch."""
    path, state = tmp_path / "w.pt", {"net_model": {"w": torch.zeros(2)}}
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        whole, said = path.read_bytes(), []
        for place in range(0, min(len(whole), 240), 5):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            said.append(refusal(path))
        refusals = [line for line in said if line is not None]
        assert len(refusals) > 20
        assert not any("\n" in line for line in refusals)
