"""A run that goes on is the run that was begun: same data, same law; what differs is named."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from children import Child
from PIL import Image
from torch import distributed

from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.quantiser import VectorQuantiser
from spikediff.training import save_recipe
from spikediff.training.checkpoint import load_latest, save_checkpoint
from spikediff.training.curve import read_curve
from spikediff.training.resuming import data_facts
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


def run(recipe, folder, **options):
    trainer = Trainer(recipe, folder, show_progress=False, **options)
    assert trainer.train()
    return trainer


def write_images(folder, count, shade=lambda i: 5 * i):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", (8, 8), shade(i)).save(folder / f"{i:03d}.png")


def content(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def begun(small, with_steps, tmp_path_factory):
    """A run of four steps on a folder of images, without classes, and its recipe for six."""
    folder = tmp_path_factory.mktemp("begun")
    write_images(folder / "photos", 30)
    data = replace(small.data, dataset=str(folder / "photos"))
    recipe = replace(small, data=data)
    run(with_steps(recipe, 4), folder / "run")
    return recipe, folder / "run"


def changed(recipe, section, **values):
    return replace(recipe, **{section: replace(getattr(recipe, section), **values)})


OTHERS = {
    "hold_out": (("data", {"hold_out": True}), r"another data: data.hold_out is False there and"),
    "flip": (("data", {"horizontal_flip": True}), "data.horizontal_flip is False there and True"),
    "filter": (("data", {"resize_filter": "nearest"}), "data.resize_filter is bilinear there"),
    "name": (("data", {"dataset": "digits"}), "data.dataset is .*photos there and digits in"),
    "size": (("data", {"image_size": 16}), "data.image_size is 8 there and 16 in"),
    "channels": (("data", {"channels": 3}), "data.channels is 1 there and 3 in"),
    "optimizer": (("optimizer", {"name": "adamw"}), "another optimizer: optimizer.name is adam"),
    "schedule": (("optimizer", {"schedule": "cosine"}), "optimizer.schedule is constant there"),
    "loss": (("loss", {"min_snr_gamma": 5.0}), "another model: loss.min_snr_gamma is 0.0 there"),
    "noise": (("diffusion", {"beta_end": 0.03}), "diffusion.beta_end is 0.02 there and 0.03"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_is_refused_and_nothing_changes(other, begun):
    recipe, folder = begun
    (section, values), message = OTHERS[other]
    before = content(folder)
    with pytest.raises(UserError, match=message) as caught:
        Trainer(changed(recipe, section, **values), folder, resume=True, show_progress=False)
    assert "\n" not in str(caught.value)
    assert content(folder) == before
    assert set(folder.parent.iterdir()) == {folder, folder.parent / "photos"}


def test_several_differences_are_all_named(begun):
    recipe, folder = begun
    other = changed(changed(recipe, "loss", p2_gamma=1.0), "model", dropout=0.5)
    with pytest.raises(UserError, match=r"model.dropout is .*; loss.p2_gamma is "):
        Trainer(other, folder, resume=True, show_progress=False)


@pytest.mark.parametrize("change", ["one less", "one pixel", "a class"])
def test_other_images_under_the_same_name_are_refused(change, begun, tmp_path):
    recipe, folder = begun
    photos = tmp_path / "photos"
    write_images(photos, 29 if change == "one less" else 30)
    if change == "one pixel":
        for path in list(photos.glob("*.png"))[:9]:  # some of them are of the training split
            with Image.open(path) as image:
                image.putpixel((0, 0), 200)
                image.save(path)
    if change == "a class":
        (photos / "class").mkdir()
        for path in photos.glob("*.png"):
            path.rename(photos / "class" / path.name)
    moved = changed(recipe, "data", dataset=str(photos))
    words = {"one less": "items: 26 there and 25 now", "one pixel": "pixels or labels differ"}
    before = content(folder)
    with pytest.raises(UserError, match=words.get(change, "classes: 0 there and 1 now")):
        Trainer(moved, folder, resume=True, show_progress=False)
    assert content(folder) == before


def test_a_folder_of_images_may_move(begun, tmp_path):
    recipe, folder = begun
    write_images(tmp_path / "photos", 30)
    moved = changed(recipe, "data", dataset=str(tmp_path / "photos"), image_size=8)
    trainer = Trainer(moved, folder, resume=True, show_progress=False)
    assert trainer.step == 4
    trainer.folder.release()


def test_what_may_change_is_told(begun, caplog):
    recipe, folder = begun
    other = changed(recipe, "optimizer", weight_decay=0.1, betas=(0.8, 0.99))
    other = changed(changed(other, "ema", decay=0.5), "data", workers=1)
    Trainer(other, folder, resume=True, show_progress=False).folder.release()
    assert "optimizer.weight_decay is 0.0 there and 0.1 from now on" in caplog.text
    assert "ema.decay is 0.9 there and 0.5 from now on" in caplog.text
    assert "workers" not in caplog.text


def test_another_rounding_is_told(begun, caplog):
    recipe, folder = begun
    environment = folder / "environment.json"
    before = environment.read_text()
    environment.write_text(before.replace('"threads": 1', '"threads": 7'))
    Trainer(recipe, folder, resume=True, show_progress=False).folder.release()
    assert "other rounding: threads was 7 and is 1" in caplog.text
    assert environment.read_text() == before
    caplog.clear()
    Trainer(recipe, folder, resume=True, show_progress=False).folder.release()
    assert "rounding" not in caplog.text


def test_a_checkpoint_that_does_not_fit_an_edited_recipe_is_one_line(begun, tmp_path):
    recipe, folder = begun
    shutil.copytree(folder, tmp_path / "run")
    edited = changed(recipe, "model", layers_per_block=3)
    save_recipe(edited, tmp_path / "run" / "recipe.yaml")  # the run's own, so that both agree
    with pytest.raises(UserError, match="checkpoint is of another network than the recipe's"):
        run(edited, tmp_path / "run", resume=True)


def test_fewer_steps_than_were_made_are_refused(begun, with_steps):
    recipe, folder = begun
    before = content(folder)
    with pytest.raises(UserError, match=r"has made 4 steps already; .*steps = 3 would"):
        Trainer(with_steps(recipe, 3), folder, resume=True, show_progress=False)
    assert content(folder) == before


def test_the_digest_of_a_set_on_the_disk_reads_a_few_images():
    class Pictures:
        name, image_size, channels, num_classes, read = "/x/photos", 8, 1, 0, 0

        def __len__(self):
            return 100_000

        def __getitem__(self, i):
            Pictures.read += 1
            return torch.full((1, 8, 8), i % 256, dtype=torch.uint8), -1

    facts = data_facts(Pictures())
    assert facts["items"] == 100_000
    assert facts["name"] == "photos"
    assert 256 <= Pictures.read <= 300
    assert data_facts(Pictures()) == facts


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        pytest.param("adam", "constant", marks=pytest.mark.slow),
        pytest.param("adam", "cosine", marks=pytest.mark.slow),
        pytest.param("muon", "constant", marks=pytest.mark.slow),
        ("muon", "cosine"),
    ],
)
def test_a_new_learning_rate_acts_from_the_first_step(name, schedule, small, with_steps, tmp_path):
    recipe = changed(small, "optimizer", name=name, schedule=schedule)
    whole = run(with_steps(recipe, 3, log_every=1), tmp_path)
    usual = {point.step: point.lr for point in read_curve(tmp_path / "loss.csv")}
    kept = load_latest(tmp_path / "checkpoints")
    assert kept.step == whole.step == 3
    slow = changed(with_steps(recipe, 5, log_every=1), "optimizer", lr=1e-9)
    trainer = Trainer(slow, tmp_path, resume=True, show_progress=False)
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert max(rates) <= 1e-9
    before = [p.detach().clone() for p in trainer.model.parameters()]
    assert trainer.train()
    for old, new in zip(before, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(old, new.detach(), atol=1e-6, rtol=1e-6)
    rows = {point.step: point.lr for point in read_curve(tmp_path / "loss.csv")}
    assert all(rows[step] == usual[step] for step in usual)
    assert all(rows[step] <= 1e-9 for step in (4, 5))


def prefixed(checkpoint, prefix):
    tensors = {
        group: {f"{prefix}{name}": tensor for name, tensor in named.items()}
        if group != "optimizer"
        else named
        for group, named in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def test_names_of_wrappers_in_older_checkpoints_are_understood(small, with_steps, tmp_path):
    run(with_steps(small, 2), tmp_path / "whole")
    run(with_steps(small, 1), tmp_path / "run")
    kept = load_latest(tmp_path / "run" / "checkpoints")
    save_checkpoint(tmp_path / "run" / "checkpoints", prefixed(kept, "module._orig_mod."), 1)
    (tmp_path / "run" / "pipeline").rename(tmp_path / "pipeline")
    assert load_trained(tmp_path / "run").unet is not None
    run(with_steps(small, 2), tmp_path / "run", resume=True)
    whole, parts = (load_latest(tmp_path / name / "checkpoints") for name in ("whole", "run"))
    for name, tensor in whole.tensors["model"].items():
        assert torch.equal(tensor, parts.tensors["model"][name])


@pytest.mark.usefixtures("fresh_accelerator")
def test_names_of_wrappers_never_reach_the_disk(small, with_steps, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    trainer = Trainer(with_steps(small, 2), tmp_path, show_progress=False)
    assert "_orig_mod" in next(iter(trainer.model.state_dict()))
    monkeypatch.setattr(trainer, "model", trainer.network_in_training)  # dynamo takes a minute
    assert trainer.train()
    kept = load_latest(tmp_path / "checkpoints")
    assert kept.tensors["model"].keys() == kept.tensors["average"].keys()
    assert not any("_orig_mod" in name for name in kept.tensors["model"])


def of_two_processes(rank, folder, features):
    """Learn two batches as one of two processes; each has drawn another seed."""
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    quantiser = learnt(features.chunk(2, dim=1)[rank], seed=rank)
    torch.save(quantiser.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def learnt(batches, seed):
    torch.manual_seed(0)
    quantiser = VectorQuantiser(8, 3, codebook="ema").train()
    generator = torch.Generator().manual_seed(seed)
    for features in batches:
        quantiser(features, generator)
    return quantiser


def test_a_codebook_follows_the_whole_batch(tmp_path):
    features = torch.randn(2, 16, 3, 4, 4)
    children = [Child(partial(of_two_processes, rank, tmp_path, features)) for rank in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    want = learnt(features, seed=0).state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, tensor in want.items():
            assert torch.equal(found[name], tensor), name
