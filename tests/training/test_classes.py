"""Classes in the loop: labels reach the network, are dropped as often as said, and resume."""

from dataclasses import replace

import pytest
import torch

from spikediff.errors import UserError
from spikediff.training import recipe_from
from spikediff.training.batches import classes_of
from spikediff.training.checkpoint import load_latest
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


@pytest.fixture
def with_classes(small):
    return replace(small, model=replace(small.model, num_classes=10, patch_size=2))


def test_labels_are_dropped_as_often_as_the_recipe_says(with_classes, tmp_path):
    data = replace(with_classes.data, batch_size=1000)
    trainer = Trainer(replace(with_classes, data=data), tmp_path / "run", show_progress=False)

    def shown(label_dropout):
        loss = replace(with_classes.loss, label_dropout=label_dropout)
        trainer.recipe = replace(with_classes, loss=loss, data=data)
        return trainer._labels(labels)

    labels = torch.arange(1000) % 10
    some = shown(0.25)
    dropped = some == 10
    assert torch.equal(shown(0.25), some)
    assert torch.equal(some[~dropped], labels[~dropped])
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.06)  # 4 standard errors
    assert torch.equal(shown(0.0), labels)


def test_the_network_is_shown_the_labels_of_its_images(
    with_classes, with_steps, tmp_path, monkeypatch
):
    recipe = replace(
        with_steps(with_classes, 2), loss=replace(with_classes.loss, label_dropout=0.0)
    )
    trainer = Trainer(recipe, tmp_path / "run", show_progress=False)
    seen = []
    forward = trainer.model.forward
    monkeypatch.setattr(
        trainer.model,
        "forward",
        lambda x, t, class_labels: seen.append(class_labels) or forward(x, t, class_labels),
    )
    assert trainer.train()
    order = [trainer.plan.indices(step) for step in range(recipe.training.steps)]
    wanted = [trainer.dataset.labels[indices] for indices in order]
    assert all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))


@pytest.mark.slow
def test_resuming_changes_nothing(with_classes, with_steps, tmp_path):
    recipe = with_steps(with_classes, 2)
    assert Trainer(recipe, tmp_path / "whole", show_progress=False).train()
    assert Trainer(with_steps(recipe, 1), tmp_path / "parts", show_progress=False).train()
    again = Trainer(recipe, tmp_path / "parts", resume=True, show_progress=False)
    assert again.train()
    whole, parts = (load_latest(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    for name, tensor in whole.tensors["model"].items():
        assert torch.equal(tensor, parts.tensors["model"][name]), name
    (tmp_path / "parts" / "pipeline" / "model_index.json").unlink()  # as if it were unfinished
    pipe = load_trained(tmp_path / "parts")
    assert (pipe.unet.config.num_classes, pipe.unet.config.in_channels) == (10, 1)


def test_the_data_set_must_have_the_classes(with_classes, small, tmp_path):
    recipe = replace(with_classes, model=replace(with_classes.model, num_classes=7))
    with pytest.raises(UserError, match=r"model\.num_classes = 7: the data set digits has 10"):
        Trainer(recipe, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
    assert classes_of(small, None) == 0  # a network without classes asks nothing
    with pytest.raises(UserError, match=r"loss\.label_dropout = 7\.0 must lie in \[0, 1\]"):
        classes_of(replace(small, loss=replace(small.loss, label_dropout=7.0)), None)


def test_a_network_without_classes_cannot_be_told_of_any():
    with pytest.raises(UserError, match=r"unknown key 'model\.num_classes'"):
        recipe_from({"model": {"network": "vae", "num_classes": 10}}, "here")
