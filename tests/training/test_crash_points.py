"""A run that is killed at any point goes on to the same bits: all crash points are tried."""

import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from crashes import in_child, killed_everywhere
from safetensors.torch import load

from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.files.writing import leftovers
from spikediff.training.checkpoint import load_latest
from spikediff.training.recipe import recipe_from, save_recipe
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


@pytest.fixture
def short(small, with_steps):
    """Three steps, a checkpoint of each, one of them kept; rows of two steps."""
    recipe = with_steps(small, 3, checkpoint_every=1, keep_last=1)
    return replace(recipe, sampling=replace(recipe.sampling, every=2, num_images=1))


def train(recipe, root, **options):
    assert Trainer(recipe, root, show_progress=False, **options).train()


def without_speed(row):
    columns = row.split(b",")
    return columns[:4] + columns[5:]


def files(root):
    """What a run leaves, less what tells the time: file -> bytes."""
    timed = ("environment.json", "loss.png", "manifest.json")
    left = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    content = {name: p.read_bytes() for name, p in left.items() if p.name not in timed}
    if tokens := content.get("tokens.safetensors"):  # its header has no order
        content["tokens.safetensors"] = load(tokens)["tokens"].tolist()
    content["loss.csv"] = [without_speed(row) for row in content["loss.csv"].splitlines()]
    return content


def check_whole(root, want):
    found = files(root)
    assert found.keys() == want.keys()
    for name, content in want.items():
        assert found[name] == content, name
    for folder in (root, root / "checkpoints", root / "samples"):
        assert leftovers(folder) == []


def read(root):
    """Use a run that may be half done, as other commands do; they write nothing."""
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    with suppress(UserError):
        load_trained(root)
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before


def goes_on_from_every_point(start, go_on, root, want, before=None):
    """Kill `start` everywhere, each time from what is `before` there; `go_on` must mend it."""

    def put_back():
        shutil.rmtree(root, ignore_errors=True)
        if before is not None:
            shutil.copytree(before, root)

    put_back()
    points = 0
    for point in killed_everywhere(start, root):
        points = point
        if root.exists():
            read(root)
        assert in_child(go_on) == 0, f"after crash point {point}"
        check_whole(root, want)
        put_back()
    assert points > 20


@pytest.mark.slow
def test_a_new_run(short, tmp_path):
    train(short, tmp_path / "whole")
    root = tmp_path / "run"
    goes_on_from_every_point(
        lambda: train(short, root),
        lambda: train(short, root, resume=root.is_dir()),
        root,
        files(tmp_path / "whole"),
    )


@pytest.mark.slow
def test_a_run_that_was_stopped_and_gets_more_steps_and_another_rate(short, with_steps, tmp_path):
    """Recipe, curve and pipeline are those of the shorter run when it starts."""
    longer = replace(with_steps(short, 4), optimizer=replace(short.optimizer, lr=5e-4))
    before, whole, root = tmp_path / "before", tmp_path / "whole", tmp_path / "run"
    train(short, before)
    shutil.copytree(before, whole)
    train(longer, whole, resume=True)

    def go_on():
        train(longer, root, resume=True)

    goes_on_from_every_point(go_on, go_on, root, files(whole), before)


@pytest.mark.slow
def test_a_complete_run_that_is_started_again(short, tmp_path):
    before, root = tmp_path / "before", tmp_path / "run"
    train(short, before)
    newest = next((before / "checkpoints").glob("step-*")) / "state.json"
    want = files(before)
    for damaged in (False, True):
        if damaged:  # and the draft beside it is whole: a kill behind its last file
            shutil.copytree(newest.parent, newest.parent.with_name(".unfinished-step-00000003"))
            newest.write_bytes(b"{")

        def go_on():
            train(short, root, resume=True)

        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(before, root)
        for point in killed_everywhere(go_on, root):
            read(root)
            assert in_child(go_on) == 0, f"after crash point {point}"
            check_whole(root, want)
            shutil.rmtree(root)
            shutil.copytree(before, root)


@pytest.mark.slow
def test_a_run_that_takes_the_place_of_another(short, tmp_path):
    other = replace(short, model=replace(short.model, base_channels=16))
    before, root = tmp_path / "before", tmp_path / "run"
    train(other, before)
    train(short, tmp_path / "whole")

    def start():
        train(short, root, overwrite=True)

    goes_on_from_every_point(start, start, root, files(tmp_path / "whole"), before)


@pytest.mark.slow
def test_both_stages_of_a_system_of_tokens(short, tmp_path):
    sampling = replace(short.sampling, num_inference_steps=2, every=0)
    first = {"network": "vq_svae", "neuron": "lif", "spiking_steps": 2, "widths": [4]}
    first |= {"codebook_size": 6, "embedding_channels": 2, "codebook": "ema"}
    second = {"network": "spiking_image_decoder", "neuron": "lif", "spiking_steps": 2}
    second |= {"widths": [4, 4]}
    base = replace(short, training=replace(short.training, steps=2), sampling=sampling)
    for name, model, loss in (("first", first, "vq_svae"), ("second", second, "absorbing")):
        built = recipe_from({"model": model, "loss": {"name": loss}}, "here")
        stage = tmp_path / "first.yaml" if name == "second" else None
        recipe = replace(base, name=name, model=built.model, loss=built.loss)
        recipe = replace(recipe, first_stage=None if stage is None else str(stage))
        save_recipe(recipe, tmp_path / f"{name}.yaml")

    def run(folder):
        command = ["train", str(tmp_path / "second.yaml"), "--output", str(folder / "run")]
        resume = ["--resume"] if (folder / "run").is_dir() else []
        assert main([*command, *resume]) == 0

    def stages(folder):
        found = {f"first/{name}": data for name, data in files(folder / "run-first-stage").items()}
        found |= {f"second/{name}": data for name, data in files(folder / "run").items()}
        # A configuration names the folder that the first stage was loaded from.
        return {name: data for name, data in found.items() if not name.endswith("config.json")}

    torch.set_num_threads(1)
    run(tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    for point in killed_everywhere(lambda: run(folder), folder):
        assert in_child(lambda: run(folder)) == 0, f"after crash point {point}"
        found, want = stages(folder), stages(tmp_path / "whole")
        assert found.keys() == want.keys()
        assert [name for name in want if found[name] != want[name]] == [], f"point {point}"
        assert load_latest(folder / "run" / "checkpoints").step == 2
        shutil.rmtree(folder)
        folder.mkdir()
