"""Spiking-Diffusion as one recipe of two stages: tokens that belong to their first stage."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from spikediff.cli import main
from spikediff.data import change_range, to_model_range
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.errors import UserError
from spikediff.files.tensors import read_with_metadata, write_tensors
from spikediff.pretrained import find_recipe
from spikediff.systems.fsvae.vae import VAE
from spikediff.systems.spiking_diffusion.absorbing import absorbing_loss
from spikediff.systems.spiking_diffusion.loss import TokenObjective, VQObjective
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE, vq_svae_terms
from spikediff.training import recipe_from
from spikediff.training.build import Parts, build_objective, check_both_stages
from spikediff.training.checkpoint import load_latest
from spikediff.training.computation import cpu_has_bf16
from spikediff.training.curve import read_curve
from spikediff.training.first_stage import (
    encode_all,
    first_stage_folder,
    is_finished,
    like_first_stage,
    load_first_stage,
    token_dataset,
)
from spikediff.training.recipe import load_recipe, save_recipe
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer

SHORT = ["--training.log-every", "2", "--sampling.num-images", "4"]


@pytest.fixture(scope="module")
def first_recipe(small, with_steps):
    model = {"network": "vq_svae", "neuron": "lif", "spiking_steps": 3, "widths": [8]}
    model |= {"codebook_size": 12, "embedding_channels": 4, "codebook": "ema"}
    built = recipe_from({"model": model, "loss": {"name": "vq_svae"}}, "here")
    return replace(with_steps(small, 3), model=built.model, loss=built.loss, name="first")


@pytest.fixture(scope="module")
def second_recipe(small, with_steps):
    model = {"network": "spiking_image_decoder", "neuron": "lif", "spiking_steps": 3}
    model |= {"widths": [8, 8]}
    built = recipe_from({"model": model, "loss": {"name": "absorbing"}}, "here")
    sampling = replace(small.sampling, num_inference_steps=3, temperature=0.7)
    recipe = replace(small, model=built.model, loss=built.loss, sampling=sampling)
    return with_steps(recipe, 3)


@pytest.fixture(scope="module")
def root(first_recipe, second_recipe, tmp_path_factory):
    """The folder of the second stage, the first being trained beside it."""
    root = tmp_path_factory.mktemp("runs") / "run"
    assert Trainer(first_recipe, root.with_name("run-first-stage"), show_progress=False).train()
    assert Trainer(second_recipe, root, show_progress=False).train()
    return root


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bf16")
def test_the_first_stage_trains_in_mixed_precision(first_recipe, tmp_path):
    training = replace(first_recipe.training, mixed_precision="bf16")
    mixed = replace(first_recipe, training=training)
    assert Trainer(mixed, tmp_path / "run", show_progress=False).train()


def test_a_first_stage_goes_on_with_its_own_spiking_steps_alone(root, first_recipe, tmp_path):
    """Every spiking step has a weight in its read-out."""
    start = str(root.with_name("run-first-stage"))
    longer = replace(
        first_recipe, init_from=start, model=replace(first_recipe.model, spiking_steps=5)
    )
    with pytest.raises(UserError, match="spiking_steps is 3 there and 5 in the recipe"):
        Trainer(longer, tmp_path / "longer", show_progress=False)


def test_both_stages_leave_pipelines(root, second_recipe):
    first = load_trained(root.with_name("run-first-stage"))
    assert isinstance(first, VAEPipeline)
    assert isinstance(first.vae, VQSVAE)
    second = load_trained(root)
    assert isinstance(second, VQSpikingDiffusionPipeline)
    second.set_progress_bar_config(disable=True)
    assert second.scheduler.config.temperature == 0.7
    assert second(seeds=[0, 1], num_inference_steps=4, output_type="pt").images.shape[0] == 2
    for a, b in zip(first.vae.parameters(), second.vqvae.parameters(), strict=True):
        assert torch.equal(a, b), "the first stage is frozen"
    with pytest.raises(UserError, match="second stage"):
        first(seeds=[0])


def test_the_curves_have_the_terms(root):
    for folder, terms, watched in [
        (root, {"absorbing"}, {"right"}),
        (
            root.with_name("run-first-stage"),
            {"reconstruction", "codebook", "commitment", "spikes", "spike_commitment"},
            {"mse", "perplexity"},
        ),
    ]:
        point = read_curve(folder / "loss.csv")[-1]
        shown = {k: v for k, v in point.terms.items() if k in terms}
        assert watched <= point.terms.keys()
        if len(terms) > 1:
            assert sum(shown.values()) == pytest.approx(point.loss)


def test_tokens_are_kept_and_belong_to_their_first_stage(root, second_recipe):
    kept, facts = read_with_metadata(root.with_name("run-first-stage") / "tokens.safetensors")
    vqvae = load_first_stage(second_recipe, root)
    dataset = token_dataset(second_recipe, root)
    assert torch.equal(dataset.tokens[:, 0], kept["tokens"])
    assert torch.equal(encode_all(vqvae, dataset.images), kept["tokens"])
    assert dataset[3][0].shape == (1, 4, 4)
    assert facts["images"].startswith("digits train")


def test_tokens_of_another_first_stage_are_refused(root, first_recipe, second_recipe, tmp_path):
    other = tmp_path / "run-first-stage"
    Trainer(replace(first_recipe, seed=5), other, show_progress=False).train()
    (other / "tokens.safetensors").write_bytes(
        (root.with_name("run-first-stage") / "tokens.safetensors").read_bytes()
    )
    with pytest.raises(UserError, match="tokens of another first stage"):
        Trainer(second_recipe, tmp_path / "run", show_progress=False)


@pytest.fixture
def second_root(root, tmp_path):
    """The folder of another second stage, beside a first stage of its own."""
    shutil.copytree(root.with_name("run-first-stage"), tmp_path / "run-first-stage")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tokens: tokens.int(), r"holds no tokens int16 \[1442, 4, 4\]; delete the file"),
        (lambda tokens: tokens[1:], "holds no tokens int16"),
        (lambda tokens: tokens + 12, "contains tokens outside 0 to 11; delete the file"),
    ],
)
def test_stored_tokens_that_are_none_are_refused(change, words, second_root, second_recipe):
    path = second_root.with_name("run-first-stage") / "tokens.safetensors"
    tensors, facts = read_with_metadata(path)
    write_tensors(path, {"tokens": change(tensors["tokens"])}, facts)
    with pytest.raises(UserError, match=words):
        token_dataset(second_recipe, second_root)


def test_an_autoencoder_without_a_codebook_is_no_first_stage(second_root, second_recipe):
    weights = second_root.with_name("run-first-stage") / "pipeline" / "vae"
    VAE(8, 1, (4, 8), latent_channels=4).save_pretrained(weights)
    with pytest.raises(UserError, match="holds a VAE, which produces no tokens"):
        load_first_stage(second_recipe, second_root)


def test_a_first_stage_of_other_images_is_refused(root, second_recipe, tmp_path):
    named = str(root.with_name("run-first-stage"))
    data = replace(second_recipe.data, hold_out=True)
    recipe = replace(second_recipe, data=data, first_stage=named)
    with pytest.raises(UserError, match=r"data\.hold_out = False, the recipe has True"):
        Trainer(recipe, tmp_path / "run", show_progress=False)
    with pytest.raises(UserError, match="no finished first stage"):
        Trainer(second_recipe, tmp_path / "run", show_progress=False)


def test_a_second_stage_takes_the_size_of_its_first(second_root, second_recipe):
    """That of your own images is chosen for the first, and written into its recipe."""
    path = second_root.with_name("run-first-stage") / "recipe.yaml"
    first = load_recipe(path)
    save_recipe(replace(first, data=replace(first.data, image_size=8, channels=1)), path)
    trainer = Trainer(second_recipe, second_root, show_progress=False)
    trainer.folder.release()
    data = load_recipe(second_root / "recipe.yaml").data
    assert (data.image_size, data.channels) == (8, 1)


def test_stages_that_do_not_fit_are_refused(first_recipe, second_recipe, small, second_root):
    vae = recipe_from({"model": {"network": "vae", "widths": [4, 8, 8]}}, "here")
    with pytest.raises(UserError, match="first_stage = vae: a VAE produces no tokens"):
        check_both_stages(vae, replace(second_recipe, first_stage="vae"))
    with pytest.raises(UserError, match="first_stage = first: spiking_unet needs none"):
        check_both_stages(first_recipe, replace(small, first_stage="first"))
    with pytest.raises(UserError, match="first_stage = first: spiking_unet needs none"):
        Trainer(replace(small, first_stage="first"), second_root.with_name("other"))
    mirrored = replace(second_recipe, data=replace(second_recipe.data, horizontal_flip=True))
    for use in (
        lambda: check_both_stages(first_recipe, mirrored),
        lambda: token_dataset(mirrored, second_root),
    ):
        with pytest.raises(UserError, match=r"data\.horizontal_flip: grids of tokens cannot be"):
            use()
    flips = replace(first_recipe, data=replace(first_recipe.data, horizontal_flip=True))
    check_both_stages(flips, second_recipe)


@pytest.mark.parametrize(("root", "beside"), [("run", "run"), (".", "here"), ("..", "above")])
def test_the_first_stage_lies_beside_the_second(root, beside, second_recipe, tmp_path, monkeypatch):
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert like_first_stage(load_recipe(find_recipe("sddpm/digits")), Path("/")).first_stage is None
    folder = first_stage_folder(second_recipe, Path(root))
    assert folder.resolve() == Path(root).resolve().with_name(f"{beside}-first-stage")


def test_the_second_stage_resumes_exactly(root, second_recipe, with_steps, tmp_path):
    named = replace(second_recipe, first_stage=str(root.with_name("run-first-stage")))
    Trainer(with_steps(named, 2), tmp_path / "parts", show_progress=False).train()
    Trainer(named, tmp_path / "parts", resume=True, show_progress=False).train()
    one, two = (load_latest(run / "checkpoints") for run in (root, tmp_path / "parts"))
    for name, tensor in one.tensors["model"].items():
        assert torch.equal(tensor, two.tensors["model"][name]), name


@pytest.mark.parametrize("low", [-0.5, -1.0])
def test_objectives_are_the_losses_of_the_paper(first_recipe, low):
    class Pictures:
        name = "pictures"

        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.full((1, 8, 8), 60 * i, dtype=torch.uint8), 0

    first_recipe = replace(first_recipe, model=replace(first_recipe.model, input_range=(low, 0.5)))
    objective = build_objective(Parts(first_recipe, 8, 1, dataset=Pictures()))
    pixels = torch.stack([Pictures()[i][0] for i in range(4)])
    x = change_range(to_model_range(pixels), new=(low, 0.5))
    assert isinstance(objective, VQObjective)
    assert objective.data_variance == pytest.approx(x.var().item())
    assert torch.equal(objective.prepare(pixels), x)
    model = VQSVAE(8, 1, widths=(8,), codebook_size=12, embedding_channels=4, spiking_steps=3)
    losses = objective(model.eval(), x, torch.tensor([3, 4, 5, 6]))
    want = torch.stack([*vq_svae_terms(model(x), objective.data_variance, 0.25).values()]).sum()
    assert sum(losses.terms.values()).item() == pytest.approx(want.item(), rel=1e-5)

    grids = SimpleNamespace(tokens=torch.zeros(1, 1, 2, 2), mask_token=5)
    tokens = TokenObjective(Parts(first_recipe, 2, 1, dataset=grids), weighting="elbo")
    assert tokens.scheduler.config.num_train_timesteps == 4
    h_0 = torch.randint(5, (3, 1, 2, 2), dtype=torch.int16)
    timestep, uniforms = tokens.draw((3, 1, 2, 2), 0.0, torch.Generator().manual_seed(0))
    assert uniforms.shape == (3, 2, 2)
    draws = [tokens.draw((500, 1, 2, 2), 0.0, torch.Generator().manual_seed(1))[0]]
    assert draws[0].unique().tolist() == [1, 2, 3, 4], "t = T_d is trained, 0 is not"

    class Flat(torch.nn.Module):
        def forward(self, grid, t):
            logits = torch.zeros(len(grid), 5, 2, 2)
            return type("Output", (), {"sample": logits})

    got = tokens(Flat(), tokens.prepare(h_0), timestep, uniforms).terms["absorbing"]
    masked = uniforms < (timestep / 4)[:, None, None]
    want = absorbing_loss(
        torch.zeros(3, 5, 2, 2), h_0[:, 0].long(), masked, timestep, 4, weighting="elbo"
    )
    assert got.item() == pytest.approx(want.item())


def test_images_of_one_grey_have_no_variance_to_divide_by(first_recipe):
    class Flat(list):
        name = "flat"

    flat = Flat([(torch.full((1, 8, 8), 9, dtype=torch.uint8), 0)] * 2)
    with pytest.raises(UserError, match="data set flat: all images are of one grey"):
        build_objective(Parts(first_recipe, 8, 1, dataset=flat))


def test_one_command_trains_both(first_recipe, second_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_recipe(first_recipe, tmp_path / "first.yaml")
    save_recipe(replace(second_recipe, first_stage="first.yaml"), tmp_path / "second.yaml")
    train = ["train", "second.yaml", "--output", "run", *SHORT, "--training.steps", "2"]
    assert main([*train, "--first-stage-steps", "3"]) == 0
    assert (tmp_path / "run-first-stage" / "pipeline").is_dir()
    assert load_recipe(tmp_path / "run-first-stage" / "recipe.yaml").training.steps == 3
    said = capsys.readouterr()
    for stage, network in (("first", "VQSVAE"), ("second", "SpikingImageDecoder")):
        assert f"{stage} of two stages: training {network}: " in said.out
        assert f"{stage} of two stages: training: " in said.err
    assert main(["train", "first.yaml", "--output", "one", "--first-stage-steps", "3"]) == 2
    assert "first has one stage" in capsys.readouterr().err
    assert main([*train[:2], "--output", "run", *SHORT, "--training.steps", "4", "--resume"]) == 0
    assert "first of two stages: run-first-stage" in capsys.readouterr().out

    sample = ["sample", "run", "--num-images", "3", "--output", "out", "--json", "told.json"]
    assert main([*sample, "--temperature", "0.5", "--unmasking", "confidence"]) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["num_inference_steps"] == 16, "as many as there are tokens"
    assert (tmp_path / "out" / "denoising.gif").is_file()
    for wrong in (["--scheduler", "ddim"], ["--eta", "0.5"], ["--threshold", "0.9"]):
        assert main([*sample, "--overwrite", *wrong]) == 2
    assert "has no such option" in capsys.readouterr().err

    assert main(["reconstruct", "run", "--num-images", "5", "--json", "r.json"]) == 0
    figures = json.loads((tmp_path / "r.json").read_text())
    assert 0 < figures["mse"] < 1
    assert figures["mse_of_range_2"] == pytest.approx(4 * figures["mse"])
    assert (tmp_path / "outputs" / "reconstruct" / "reconstructions.png").is_file()
    assert main(["energy", "run", "--num-images", "2", "--audit"]) == 0
    assert main(["info", "run"]) == 0
    assert "SpikingImageDecoder" in capsys.readouterr().out
    assert main(["calibrate", "run"]) == 2


SMALL = ["--training.steps", "1", "--sampling.num-images", "1", "--sampling.num-inference-steps"]


def test_too_many_steps_for_the_tokens_are_told_before_both_stages(tmp_path, capsys):
    recipe, root = "spiking-diffusion/digits", tmp_path / "run"
    assert main(["train", recipe, "--output", str(root), *SMALL, "17"]) == 2
    assert "must be at most 16, the tokens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_stages_fit(monkeypatch):
    for name in ("spiking-diffusion/digits", "spiking-diffusion/digits-classes"):
        second = load_recipe(find_recipe(name))
        check_both_stages(load_recipe(find_recipe(second.first_stage)), second)


def test_a_named_first_stage_that_is_not_finished_is_refused(
    first_recipe, second_recipe, tmp_path, capsys
):
    begun = tmp_path / "begun one"
    begun.mkdir()
    save_recipe(first_recipe, begun / "recipe.yaml")
    save_recipe(second_recipe, tmp_path / "second.yaml")
    train = ["train", str(tmp_path / "second.yaml"), "--output", str(tmp_path / "run")]
    assert main([*train, "--first-stage", str(begun)]) == 2
    said = capsys.readouterr().err
    assert f"--output '{begun}' --resume" in said
    assert "begun one: is not trained to its end" in said


def test_a_half_written_pipeline_is_no_finished_first_stage(tmp_path):
    assert not is_finished(tmp_path)
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    assert not is_finished(tmp_path)
    (tmp_path / "pipeline" / "vae" / "config.json").write_text("{}")
    assert not is_finished(tmp_path)
