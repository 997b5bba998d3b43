"""The training loop."""

import io
import logging
import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from spikediff.data import random_flip
from spikediff.diffusion.outputs import image_grid
from spikediff.diffusion.saving import save_whole
from spikediff.diffusion.seeds import derived_generator, derived_seed
from spikediff.errors import UserError
from spikediff.files.tensors import check_finite
from spikediff.files.writing import write_whole
from spikediff.layers.temporal_scaling import scaling_factors
from spikediff.progress import StopSignal, at_work
from spikediff.systems import find_trainable
from spikediff.training import build
from spikediff.training.batches import BatchPlan, batches, classes_of
from spikediff.training.checkpoint import (
    Checkpoint,
    load_latest,
    load_plain,
    plain_names,
    save_checkpoint,
)
from spikediff.training.computation import (
    keeping_activations,
    prepare_computation,
    usable_precision,
)
from spikediff.training.curve import (
    Averages,
    LossCurve,
    LossValues,
    plot_temporal_scaling,
    read_curve,
)
from spikediff.training.optimizers import averaged, flatten_optimizer, unflatten_optimizer
from spikediff.training.previews import PREVIEWS
from spikediff.training.recipe import Recipe, check_recipe
from spikediff.training.resuming import check_same_data, data_facts
from spikediff.training.run_folder import RunFolder
from spikediff.training.trained import start_from

_log = logging.getLogger("spikediff")


class Trainer:
    """A run: the parts that a recipe names, and the loop over them.

    Args:
        recipe: The recipe.
        root: The run folder.
        resume: Go on with the run that is there.
        overwrite: Delete the run that is there.
        show_progress: Whether to draw a progress bar.

    Raises:
        UserError: The recipe does not fit the data, the machine or the folder.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        resume: bool = False,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> None:
        check_recipe(recipe)
        self.folder = RunFolder(root)
        recipe = self.folder.resumed(recipe) if resume else recipe
        on_cpu = not torch.accelerator.is_available()
        wanted = recipe.training.mixed_precision
        precision = usable_precision(wanted, "cpu" if on_cpu else "cuda")
        training = replace(recipe.training, mixed_precision=precision)
        self.recipe = recipe = replace(recipe, training=training)
        self.network = find_trainable(recipe.model.network)
        self.accelerator = _make_accelerator(recipe, root, on_cpu)
        _check_batch(recipe, self.accelerator.num_processes)
        self.is_main = self.accelerator.is_main_process
        self.show_progress = show_progress and self.is_main
        try:
            if self.is_main:
                self.folder.claim(recipe, resume, overwrite)
            self._prepare(resume)
            self.accelerator.wait_for_everyone()  # all have read what is there
            if self.is_main:
                self.folder.open(recipe, resume, overwrite)
        except BaseException:
            self.folder.release()
            raise
        self.accelerator.wait_for_everyone()
        with_last = not self.meter.state() or self.step >= recipe.training.steps
        self.curve = LossCurve(root, self.step, with_last) if self.is_main else None

    def _prepare(self, resume: bool) -> None:
        """Make all parts, and load the checkpoint that a run goes on from; write nothing.

        Raises:
            UserError: The parts do not fit each other, or the run that is there is another one.
        """
        recipe, root = self.recipe, self.folder.root
        self.dataset = dataset = build.build_items(recipe, root)
        self.parts = build.Parts(recipe, dataset.image_size, dataset.channels, root, dataset)
        self.num_classes = classes_of(recipe, dataset)
        self.data_facts = data_facts(dataset) if self.is_main else {}
        model = build.build_model(self.parts)
        self.objective = build.build_objective(self.parts)
        kept = load_latest(self.folder.checkpoints) if resume else None
        if kept is not None and self.is_main:
            # A run of an earlier version knows the size alone.
            before = kept.state.get("data", {"size": kept.state["image_size"]})
            check_same_data(root, before, self.data_facts)
            read_curve(root / "loss.csv")  # a damaged one is told before anything is written
        if recipe.init_from is not None and kept is None:
            start_from(Path(recipe.init_from), model, recipe)
        self.average = averaged(model, recipe.ema).to(self.accelerator.device)
        check_sampling(self._pipeline(), recipe)  # before any work
        optimizer = build.build_optimizer(recipe.optimizer, model)
        prepare_computation(model, recipe.training, self.accelerator.device)
        self.network_in_training = model
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.lr_schedule = build.build_lr_schedule(
            recipe.optimizer, optimizer, recipe.training.steps
        )
        self.plan = BatchPlan(len(dataset), recipe.data.batch_size, recipe.seed)
        if resume and kept is None:
            _log.warning("%s: no checkpoint yet, starting anew", root)
        if kept is not None and kept.step > recipe.training.steps:
            raise UserError(
                f"{root}: has made {kept.step} steps already; training.steps = "
                f"{recipe.training.steps} would not be what it was trained for"
            )
        self.step = 0 if kept is None else self._restore(kept)
        since_last_row = None if kept is None else kept.state.get("since_last_row")
        self.meter = Averages(recipe.data.batch_size, since_last_row)

    def train(self) -> bool:
        """Train to the last step of the recipe, or until a signal asks to stop.

        Returns:
            Whether the run is complete; an interrupted one has left a checkpoint.

        Raises:
            UserError: A loss, a gradient or a weight is no longer a number, or the disk is full.
        """
        try:
            return self._train()
        finally:
            self.folder.release()

    def _train(self) -> bool:
        last = self.recipe.training.steps
        if self.recipe.training.trackers:
            self.accelerator.init_trackers(self.recipe.name)
        accelerator = self.accelerator
        stream = batches(
            self.dataset,
            self.plan,
            self.step,
            accelerator.process_index,
            accelerator.num_processes,
            self.recipe.data.workers,
        )
        with (
            StopSignal() as stop,
            at_work("training", last) as work,
            tqdm(
                total=last,
                initial=self.step,
                desc="training",
                disable=not self.show_progress,
                mininterval=0.2 if sys.stderr.isatty() else 4.0,
            ) as bar,
        ):
            if self._grid_is_due() and not self._grid().exists():
                self._draw()  # the run was killed, or stopped, before it came to this
            self.meter.restart_clock()
            while self.step < last:
                self.meter.add(*self._step(*next(stream)))
                self.step += 1
                bar.update()
                work.advance()
                self._report(bar)
                if self._anyone(stop.received is not None):
                    self._checkpoint()
                    _log.warning(
                        "stopped by %s after step %d; go on with --resume",
                        stop.received,
                        self.step,
                    )
                    return False
                self._keep()
        self._finish()
        return True

    def _step(self, pixels: Tensor, labels: Tensor) -> tuple[LossValues, float]:
        """Make one optimizer step on this process's images [b, C, H, W] and labels [b].

        Returns:
            Terms of the loss, then what is only watched, and the gradient's norm.
        """
        recipe, accelerator = self.recipe.optimizer, self.accelerator
        batch = (self._labels(labels), *self._batch(pixels))
        # Dropout is the one draw that does not come from a generator of its own.
        torch.manual_seed(
            derived_seed(self.recipe.seed, "dropout", self.step, accelerator.process_index)
        )
        parts = recipe.gradient_accumulation_steps
        terms: Counter[str] = Counter()
        watched: Counter[str] = Counter()
        chunks = zip(*(tensor.chunk(parts) for tensor in batch), strict=True)
        for i, (classes, *part) in enumerate(chunks):
            with accelerator.no_sync(self.model) if i < parts - 1 else nullcontext():
                with keeping_activations(self.recipe.training), telling_lone_values():
                    losses = self.objective(self._denoiser(classes), *part)
                weighted = {name: term / parts for name, term in losses.terms.items()}
                accelerator.backward(torch.stack(list(weighted.values())).sum())
            terms.update(self._mean_over_processes(weighted))
            watched.update(self._mean_over_processes(losses.watched, share=1 / parts))
        if not math.isfinite(terms.total()):
            raise UserError(self._diverged(f"the loss is {terms.total()} at step {self.step + 1}"))
        limit = recipe.max_grad_norm or math.inf
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), limit) or 0.0)
        if not math.isfinite(norm) and not self._scaler_skips():
            what = f"the gradient's norm is {norm} at step {self.step + 1}"
            raise UserError(self._diverged(what))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_schedule.step()
        self.average.update_parameters(self.network_in_training)
        return LossValues(dict(terms), dict(watched)), norm

    def _scaler_skips(self) -> bool:
        """Whether a step whose gradients overflow is left out: fp16, at a scale that can fall."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() > 1.0

    def _labels(self, labels: Tensor) -> Tensor:
        """Return this process's labels, some replaced by "no class", whatever the processes.

        Reference: Ho and Salimans, "Classifier-free diffusion guidance", 2022, algorithm 1.
        """
        if not self.num_classes:
            return labels
        accelerator = self.accelerator
        generator = derived_generator(self.recipe.seed, "labels", self.step)
        uniforms = torch.rand(self.recipe.data.batch_size, generator=generator)
        ours = uniforms.chunk(accelerator.num_processes)[accelerator.process_index]
        dropped = labels.masked_fill(ours < self.recipe.loss.label_dropout, self.num_classes)
        return dropped.to(accelerator.device)

    def _denoiser(self, labels: Tensor) -> Any:
        """Return the network as a loss sees it."""
        return partial(self.model, class_labels=labels) if self.num_classes else self.model

    def _mean_over_processes(
        self, values: Mapping[str, Tensor], share: float = 1.0
    ) -> dict[str, float]:
        detached = {name: share * value.detach() for name, value in values.items()}
        means = self.accelerator.reduce(detached, reduction="mean")
        return {name: float(value) for name, value in means.items()}

    def _batch(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return this process's part of the batch, and of what is drawn for it."""
        accelerator, size = self.accelerator, self.recipe.data.batch_size
        generator = derived_generator(self.recipe.seed, "noise", self.step)
        progress = self.step / self.recipe.training.steps
        drawn = self.objective.draw((size, *pixels.shape[1:]), progress, generator)
        rank, world = accelerator.process_index, accelerator.num_processes
        if self.recipe.data.horizontal_flip:
            flips = derived_generator(self.recipe.seed, "flip", self.step, rank)
            pixels = random_flip(pixels, flips)
        parts = (self.objective.prepare(pixels), *(tensor.chunk(world)[rank] for tensor in drawn))
        return tuple(part.to(accelerator.device) for part in parts)

    def _diverged(self, what: str) -> str:
        """Return what to do about a step that is not good."""
        kept = load_latest(self.folder.checkpoints)
        where = f"the last good checkpoint is of step {kept.step}" if kept else "no checkpoint yet"
        return (
            f"{what}; {where}; resume with a smaller optimizer.lr (now {self.recipe.optimizer.lr})"
        )

    def _check_finite(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Refuse to write weights that the last step spoilt.

        Raises:
            UserError: A weight, an average or a moment of the optimizer is not finite.
        """
        for group, named in tensors.items():
            try:
                check_finite(named, f"the {group} after step {self.step}")
            except UserError as error:
                raise UserError(self._diverged(str(error))) from error

    def _report(self, bar: tqdm) -> None:  # type: ignore[type-arg]
        """Add a row to the curve when it is time."""
        due = self.step % self.recipe.training.log_every == 0
        if not due and self.step < self.recipe.training.steps:
            return
        point = self.meter.point(self.step, float(self.lr_schedule.get_last_lr()[0]), close=due)
        bar.set_postfix(loss=f"{point.loss:.4f}", img_per_s=f"{point.images_per_second:.0f}")
        if self.curve is not None:
            self.curve.append(point)
        if self.recipe.training.trackers:
            self.accelerator.log({"loss": point.loss, "lr": point.lr}, step=self.step)

    def _anyone(self, flag: bool) -> bool:
        """Return whether the flag is up in any process, the same answer in all of them."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flags, reduction="sum") > 0)

    def _keep(self) -> None:
        """Write a checkpoint or a sample grid when it is time."""
        recipe = self.recipe
        if self.step % recipe.training.checkpoint_every == 0 and self.step < recipe.training.steps:
            self._checkpoint()
        if self._grid_is_due():
            self._draw()

    def _grid_is_due(self) -> bool:
        every = self.recipe.sampling.every
        return bool(every) and self.step > 0 and self.step % every == 0

    def _grid(self) -> Path:
        return self.folder.samples / f"step-{self.step:08d}.png"

    def _draw(self) -> None:
        """Write a grid of what the average makes."""
        if not self.is_main:
            return
        with at_work("drawing a grid of samples"):
            images = PREVIEWS[self.network.preview](self._pipeline(), self.recipe, self.dataset)
        picture = io.BytesIO()
        image_grid(images).save(picture, "PNG")
        write_whole(self._grid(), picture.getvalue())

    def _pipeline(self) -> DiffusionPipeline:
        """Return the pipeline that samples with the averaged network."""
        return build.build_pipeline(self.average.module, self.parts)

    def _checkpoint(self) -> None:
        if self.is_main:
            scaler = self.accelerator.scaler
            state = {
                "image_size": self.dataset.image_size,
                "data": self.data_facts,
                "since_last_row": self.meter.state(),
                "averaged_updates": int(self.average.n_averaged),
                "lr_schedule": {
                    key: value
                    for key, value in self.lr_schedule.state_dict().items()
                    if key in ("last_epoch", "_step_count", "_last_lr")
                },
                "rng": {"seed": self.recipe.seed, "step": self.step},  # see seeds.py
                "data_position": self.plan.position(self.step),
                "grad_scaler": scaler.state_dict() if scaler is not None else None,
            }
            tensors = {
                "model": plain_names(self.network_in_training.state_dict()),
                "average": plain_names(self.average.module.state_dict()),
                "optimizer": flatten_optimizer(self.optimizer.state_dict()),
            }
            self._check_finite(tensors)
            checkpoint = Checkpoint(self.step, tensors, state)
            save_checkpoint(self.folder.checkpoints, checkpoint, self.recipe.training.keep_last)
            if self.curve is not None:
                self.curve.draw()
        self.accelerator.wait_for_everyone()

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Load a checkpoint into every part; return its step."""
        load_plain(self.network_in_training, checkpoint.tensors["model"])
        load_plain(self.average.module, checkpoint.tensors["average"])
        self.average.n_averaged.fill_(checkpoint.state["averaged_updates"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(unflatten_optimizer(checkpoint.tensors["optimizer"], groups))
        if checkpoint.state["grad_scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.state["grad_scaler"])
        self.lr_schedule.load_state_dict(
            {**self.lr_schedule.state_dict(), **checkpoint.state["lr_schedule"]}
        )
        # Of the recipe that the run goes on with: its learning rate acts from the first step on.
        schedule = self.lr_schedule
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        schedule._last_lr = [
            lr * share for lr, share in zip(schedule.base_lrs, shares, strict=True)
        ]
        for group, lr in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = lr
        return checkpoint.step

    def _finish(self) -> None:
        """Leave the last checkpoint, the last grid, the curve, and a pipeline to sample with."""
        self._checkpoint()
        self._draw()
        if self.is_main:
            save_whole(self._pipeline(), self.folder.pipeline)
            if factors := scaling_factors(self.average.module):
                plot_temporal_scaling(factors, self.folder.temporal_scaling)
        self.accelerator.end_training()


@contextmanager
def telling_lone_values() -> Iterator[None]:
    """Say what to do where batch norm has one value a channel, of which it takes no variance.

    Raises:
        UserError: It has.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch norm sees one value a channel; take a larger data.batch_size, larger images or "
            "more model.spiking_steps"
        ) from error


def check_sampling(pipe: DiffusionPipeline, recipe: Recipe) -> None:
    """Refuse more steps for the grids of samples than the pipeline's sampler has.

    Raises:
        UserError: There are fewer.
    """
    scheduler = pipe.components.get("scheduler")
    steps = recipe.sampling.num_inference_steps
    most = steps if scheduler is None else int(scheduler.config.num_train_timesteps)
    if steps > most:
        raise UserError(f"sampling.num_inference_steps = {steps} must be at most {most}")


def _make_accelerator(recipe: Recipe, root: Path, on_cpu: bool) -> Accelerator:
    """Return the engine; refuse trackers that accelerate would pass over with a warning."""
    wanted = recipe.training.trackers
    try:
        with warnings.catch_warnings(action="ignore"):
            accelerator = Accelerator(
                cpu=on_cpu,  # said outright, or processes without a GPU each believe to be alone
                mixed_precision=recipe.training.mixed_precision,
                log_with=list(wanted) or None,
                project_dir=str(root),
            )
    except ValueError as error:
        raise UserError(f"training.trackers = {list(wanted)}: {error}") from error
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS in the environment would divide every gradient "
            "once more; unset it, and set optimizer.gradient_accumulation_steps in the recipe"
        )
    for name in wanted:
        if name not in [tracker.value for tracker in accelerator.log_with]:
            raise UserError(f"training.trackers: {name} is not installed; pip install {name}")
    return accelerator


def _check_batch(recipe: Recipe, processes: int) -> None:
    """Refuse a batch that cannot be cut into equal parts."""
    parts = processes * recipe.optimizer.gradient_accumulation_steps
    if recipe.data.batch_size < 1 or recipe.data.batch_size % parts:
        raise UserError(
            f"data.batch_size = {recipe.data.batch_size} must be a positive multiple of {parts} "
            f"({processes} processes times optimizer.gradient_accumulation_steps)"
        )
