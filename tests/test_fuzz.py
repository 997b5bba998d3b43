"""Damaged files of every kind: read right or told in one line, at once, and nothing is written."""

import gzip
import io
import json
import os
import pickle
import random
import shutil
import signal
import time
from copy import deepcopy
from dataclasses import asdict

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from small_pipelines import MAKERS, made
from spikediff.data.arrays import read_npz
from spikediff.data.cifar import _read_batch
from spikediff.data.decoding import decode_image
from spikediff.data.handwriting import read_idx
from spikediff.data.signals import read_recording
from spikediff.diffusion.calibration import load_calibration
from spikediff.energy import COST_TABLES, load_costs
from spikediff.errors import UserError
from spikediff.evaluation.protocol import load_protocol
from spikediff.files.weights import read_state_dict
from spikediff.hub.describe import gather_facts
from spikediff.hub.results import collect_results
from spikediff.training.build import Parts, build_model
from spikediff.training.checkpoint import Checkpoint, save_checkpoint
from spikediff.training.curve import read_curve
from spikediff.training.recipe import Recipe, check_recipe, load_recipe, recipe_from, save_recipe
from spikediff.training.trained import load_trained

pytestmark = pytest.mark.slow
CASES = 300  # of each kind
LONGEST = 20  # seconds of a case

NASTY = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 0.5, -0.0, 1e308, float("inf"),
    float("nan"), "", "x", "1e9", "a\0b", "\x1b[2J", "../../x", "/dev/zero", "\u202e", "ß" * 5000,
    [], [[]], [1], [0], [-1, 2], [1e308], ["x"] * 3, [[1, 2], [3]], {}, {"x": 1}, {"name": "x"},
    {"name": "atan", "alpha": -1}, {"": None},
]  # fmt: skip


def changed_tree(draw, tree):
    """Return a structure with one to three of its parts replaced, dropped, or added to."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw.choice([1, 1, 2, 3])):
        at = tree
        while isinstance(at, dict | list) and at:
            key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
            if not isinstance(at[key], dict | list) or not at[key] or draw.random() < 0.3:
                how = draw.random()
                if how < 0.7:
                    at[key] = deepcopy(draw.choice(NASTY))
                elif how < 0.85:
                    del at[key]
                elif isinstance(at, dict):
                    at[draw.choice(["x", "", "\x1b", "steps", "_class_name"])] = deepcopy(
                        draw.choice(NASTY)
                    )
                break
            at = at[key]
    return deepcopy(draw.choice(NASTY)) if draw.random() < 0.02 else tree


def changed_bytes(draw, content):
    """Return bytes cut, flipped, doubled, moved, or nothing but noise."""
    content = bytearray(content)
    how = draw.choice(["flip", "flip", "head", "cut", "insert", "double", "noise", "move"])
    if how in ("flip", "head") and content:
        last = min(len(content), 64) if how == "head" else len(content)
        for _ in range(draw.choice([1, 2, 8, 64])):
            content[draw.randrange(last)] = draw.choice(
                [0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)]
            )
    elif how == "cut":
        del content[draw.randrange(len(content) + 1) :]
    elif how == "insert":
        at = draw.randrange(len(content) + 1)
        content[at:at] = draw.randbytes(draw.choice([1, 4, 100]))
    elif how == "double":
        content = content + content
    elif how == "noise":
        content = bytearray(draw.randbytes(draw.choice([0, 1, 10, 1000])))
    elif how == "move":
        at = draw.randrange(len(content) + 1)
        content = content[at:] + content[:at]
    return bytes(content)


def snapshot(folder):
    """Return what tells whether anything in a folder was written, made or removed."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = os.path.join(parent, name)
            found[path] = (os.lstat(path).st_mtime_ns, os.lstat(path).st_size)
    return found


def check(read, folder, where):
    """Call a reader; anything but a result or one printable line within the time is a failure."""

    def late(*_):
        raise AssertionError(f"{where}: no end after {LONGEST} s")

    before = snapshot(folder)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        read()
        told = None
    except UserError as error:
        told = str(error)
    except AssertionError:
        raise
    except BaseException as error:
        raise AssertionError(f"{where}: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        signal.alarm(0)
    assert snapshot(folder) == before, f"{where}: the reader wrote"
    if told is not None:
        assert len(told) <= 600, where
        assert len(told.splitlines()) == 1, where
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in told), where
    return told is not None


def read_whole_recipe(path):
    recipe = load_recipe(path)
    check_recipe(recipe)
    if recipe.model.network not in ("spiking_image_decoder",):
        with torch.device("meta"):
            build_model(Parts(recipe, 8, 1))


PIPES = ("denoiser", "currents", "vae", "tokens")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with one whole file of every kind."""
    folder = tmp_path_factory.mktemp("originals")
    for name in PIPES:
        made(name).save_pretrained(folder / name)
    recipe = recipe_from(
        {"model": {"base_channels": 4, "channel_mult": [1, 2]}, "data": {"channels": 1}}, "here"
    )
    run = folder / "run"
    run.mkdir()
    save_recipe(recipe, run / "recipe.yaml")
    torch.manual_seed(0)
    model = build_model(Parts(recipe, 8, 1))
    state = {"image_size": 8, "averaged_updates": 1, "lr_schedule": {"last_epoch": 1}}
    tensors = {"model": model.state_dict(), "average": model.state_dict()}
    tensors["optimizer"] = {"0": torch.zeros(1)}
    save_checkpoint(run / "checkpoints", Checkpoint(1, tensors, state), 1)
    return folder


def spoil(draw, path):
    """Change one file, by its structure where it has one."""
    content = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.7:
        tree = changed_tree(draw, json.loads(content))
        path.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
    elif path.suffix in (".yaml", ".yml") and draw.random() < 0.7:
        tree = changed_tree(draw, yaml.safe_load(content))
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    else:
        path.write_bytes(changed_bytes(draw, content))


def recipes(draw, folder):
    path = folder / "recipe.yaml"
    base = asdict(Recipe())
    base["model"] |= {
        "network": draw.choice(
            ["spiking_unet", "synaptic_current_unet", "vq_svae", "fsvae", "vae"]
        ),
        "channel_mult": [1, 2],
        "base_channels": 8,
    }
    tree = changed_tree(draw, {k: base[k] for k in draw.sample(list(base), 6)})
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    if draw.random() < 0.2:
        spoil(draw, path)
    return lambda: read_whole_recipe(path)


def protocols(draw, folder):
    path = folder / "protocol.yaml"
    content = asdict(load_protocol("fair"))
    path.write_text(yaml.safe_dump(changed_tree(draw, content)), encoding="utf-8")
    return lambda: load_protocol(str(path))


def costs(draw, folder):
    path = folder / "costs.yaml"
    path.write_text(
        yaml.safe_dump(changed_tree(draw, asdict(COST_TABLES["45nm"]))), encoding="utf-8"
    )
    return lambda: load_costs(str(path))


def pipelines(draw, folder, originals):
    source = folder / "model"
    shutil.copytree(originals / draw.choice(PIPES), source)
    names = [p for p in source.rglob("*") if p.suffix in (".json", ".safetensors")]
    spoil(draw, draw.choice(names))
    return lambda: load_trained(source)


def checkpoints(draw, folder, originals):
    source = folder / "run"
    shutil.copytree(originals / "run", source)
    spoil(draw, draw.choice([p for p in source.rglob("*") if p.is_file() and p.suffix]))
    return lambda: load_trained(source)


def weights(draw, folder):
    path = folder / draw.choice(["w.safetensors", "w.pt", "old.pt", "w.pickle"])
    state = {"a.weight": torch.randn(3, 2), "a.bias": torch.zeros(3), "n": torch.tensor(3)}
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif path.suffix == ".pickle":
        path.write_bytes(pickle.dumps({"a": (1, (2, [3])), "b": {"c": {4}}}))
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=path.stem == "w")
    path.write_bytes(changed_bytes(draw, path.read_bytes()))
    return lambda: read_state_dict(path)


def images(draw, folder):
    kind = draw.choice(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
    mode = draw.choice(["L", "RGB"] + ["P", "1"] * (kind not in ("JPEG", "WEBP")))
    mode = draw.choice([mode, "RGBA"]) if kind in ("PNG", "WEBP") else mode
    file = io.BytesIO()
    Image.new(mode, (draw.randrange(1, 40), draw.randrange(1, 40))).save(file, kind)
    content = changed_bytes(draw, file.getvalue())
    return lambda: decode_image(content, "here")


def arrays(draw, folder):
    kind = draw.choice(["idx", "gz", "npz", "npy", "batch"])
    path, file = folder / f"data.{kind}", io.BytesIO()
    if kind in ("idx", "gz"):
        content = bytes((0, 0, 8, 3)) + np.array([2, 4, 4], ">u4").tobytes() + bytes(32)
        path.write_bytes(changed_bytes(draw, gzip.compress(content) if kind == "gz" else content))
        return lambda: read_idx(path, 3)
    if kind == "npz":
        np.savez(file, images=np.zeros((2, 4, 4), np.uint8))
        path.write_bytes(changed_bytes(draw, file.getvalue()))
        return lambda: read_npz(path, ["images"])
    if kind == "npy":
        np.save(file, np.zeros(300))
        path.write_bytes(changed_bytes(draw, file.getvalue()))
        return lambda: read_recording(path)
    data = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}
    path.write_bytes(changed_bytes(draw, pickle.dumps(data, protocol=draw.choice([2, 4]))))
    return lambda: _read_batch(path)


ENERGY = {
    "accounting": "strict", "costs": {"name": "45nm"}, "images": 2, "timesteps": [1, 0], "macs": 1,
    "acs": 2, "energy_per_image_pj": 1.0, "energy_per_step_pj": 1.0, "firing_rate": 0.1,
    "firing_rates": {"a": 0.1}, "weights_sha256": "ab",
}  # fmt: skip
QUALITY = {
    "protocol": {"name": "fair", "caveat": "c", "floor_split": "train"},
    "source": {"weights_sha256": "ab"}, "counts": {"judged": 1, "repeats": 1, "reference": 1},
    "dataset": "mnist", "reference": {"split": "test"}, "floor": {"m": 1.0},
    "metrics": {"m": {"mean": 1.0, "std": None}},
}  # fmt: skip


def results(draw, folder):
    from spikediff.hub.card import model_card

    for name, content in (("energy", ENERGY), ("evaluation", QUALITY)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "2"}}))
    (folder / "recipe.yaml").write_text("name: x\n")
    (folder / "loss.csv").write_text("step,loss,grad_norm,lr,images_per_second\n1,2,3,4,5\n")
    (folder / "calibration.json").write_text(json.dumps({"settings": {}, "weights_sha256": "x"}))
    spoil(draw, draw.choice(sorted(folder.iterdir())))

    def read():
        given = [folder / "evaluation.json"], [folder / "energy.json"]
        found = collect_results(folder, "ab", *(given if draw.random() < 0.5 else ()))
        facts = gather_facts(made("denoiser"), folder, "me/x", found)
        assert model_card(facts, "me/x", None).text
        read_curve(folder / "loss.csv")
        load_calibration(folder)

    return read


KINDS = [
    recipes, protocols, costs, pipelines, checkpoints, weights, images, arrays, results,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_damaged_files(kind, originals, tmp_path, monkeypatch):
    assert CASES * len(KINDS) >= 2000
    assert set(PIPES) <= set(MAKERS)
    monkeypatch.chdir(tmp_path)
    seed = int(os.environ.get("SPIKEDIFF_FUZZ_SEED", time.time_ns() % 10**6))
    print(f"seed {seed}")
    failures, refused = [], 0
    needs = [originals] if kind in (pipelines, checkpoints) else []
    for case in range(CASES):
        draw, folder = random.Random(f"{seed} {kind.__name__} {case}"), tmp_path / f"{case}"
        folder.mkdir()
        read = kind(draw, folder, *needs)
        try:
            refused += check(read, tmp_path, f"seed {seed}, case {case}")
        except AssertionError as error:
            failures.append(str(error))
        shutil.rmtree(folder)
    assert not failures, f"{len(failures)} of {CASES}:\n" + "\n".join(failures[:20])
    assert refused > CASES // 10
