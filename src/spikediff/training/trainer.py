"""The training loop."""

import io
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from spikediff.data import random_flip
from spikediff.diffusion.classes import class_names, name_classes
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
from spikediff.training.checkpoint import TrainingState, load_latest, save_checkpoint
from spikediff.training.computation import (
    device_kind,
    keeping_activations,
    make_accelerator,
    prepare_computation,
    usable_precision,
)
from spikediff.training.curve import Averages, LossCurve, plot_temporal_scaling, read_curve
from spikediff.training.first_stage import like_first_stage
from spikediff.training.optimizers import averaged
from spikediff.training.own_images import choose_shape
from spikediff.training.previews import PREVIEWS
from spikediff.training.recipe import Recipe, check_recipe
from spikediff.training.resuming import check_same_data, data_facts
from spikediff.training.run_folder import RunFolder
from spikediff.training.tracking import Tracking
from spikediff.training.trained import start_from

_log = logging.getLogger("spikediff")


class Trainer:
    """A training run: the parts that a recipe names, and the training loop.

    `resume` continues the run in the folder `root`; `overwrite` deletes it first. The label of the
    progress bar starts with `stage`.

    Attributes:
        choice: A line that states the chosen size and channels; None if the recipe gives both.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        resume: bool = False,
        overwrite: bool = False,
        show_progress: bool = True,
        stage: str = "",
    ) -> None:
        check_recipe(recipe)
        if resume and not root.exists():
            raise UserError(f"{root}: no run to resume (there is no such folder)")
        self.folder = RunFolder(root)
        recipe = like_first_stage(recipe, root)
        if resume and self.folder.recipe.is_file():
            recipe, self.choice = self.folder.resumed(recipe), None
        else:
            recipe, self.choice = choose_shape(recipe)
        precision = usable_precision(recipe.training.mixed_precision, device_kind())
        training = replace(recipe.training, mixed_precision=precision)
        self.recipe = recipe = replace(recipe, training=training)
        self.network = find_trainable(recipe.model.network)
        self.accelerator = make_accelerator(recipe, root)
        self.is_main = self.accelerator.is_main_process
        self.show_progress = show_progress and self.is_main
        self.stage = stage
        try:
            if self.is_main:
                self.folder.claim(recipe, resume, overwrite)
            self._prepare(resume)
            self.accelerator.wait_for_everyone()  # all have read the old run
            if self.is_main:
                self.folder.open(recipe, resume, overwrite)
        except BaseException:
            self.folder.release()
            raise
        self.accelerator.wait_for_everyone()
        with_last = not self.meter.state() or self.step >= recipe.training.steps
        self.curve = LossCurve(root, self.step, with_last) if self.is_main else None

    def _prepare(self, resume: bool) -> None:
        """Build all parts and load the checkpoint of a resumed run, without writing files."""
        recipe, root, device = self.recipe, self.folder.root, self.accelerator.device
        self.dataset = dataset = build.build_items(recipe, root)
        self.parts = build.Parts(recipe, dataset.image_size, dataset.channels, root, dataset)
        self.num_classes = classes_of(recipe, dataset)
        self.data_facts = data_facts(dataset) if self.is_main else {}
        model = build.build_model(self.parts)
        if self.num_classes:
            name_classes(model, dataset.class_names)
        self.objective = build.build_objective(self.parts)
        kept = load_latest(self.folder.checkpoints) if resume else None
        if kept is not None and self.is_main:
            # Runs of earlier versions store only the size.
            before = kept.state.get("data", {"size": kept.state["image_size"]})
            check_same_data(root, before, self.data_facts)
            read_curve(root / "loss.csv")  # report damage before anything is written
        if recipe.init_from is not None and kept is None:
            start_from(Path(recipe.init_from), model, recipe)
        self.average = averaged(model, recipe.ema).to(device)
        _check_sampling(self._pipeline(), recipe)  # before any work
        prepare_computation(model.to(device), recipe.training, device)
        # Muon steps on views of the kernels, which must lie where and how they are trained.
        optimizer = build.build_optimizer(recipe.optimizer, model)
        self.network_in_training = model
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        steps = recipe.training.steps
        self.lr_schedule = build.build_lr_schedule(recipe.optimizer, optimizer, steps)
        self.state = TrainingState(
            model, self.average, self.optimizer, self.lr_schedule, self.accelerator.scaler
        )
        self.plan = BatchPlan(len(dataset), recipe.data.batch_size, recipe.seed)
        if resume and kept is None:
            _log.warning("%s: no checkpoint yet, starting from the beginning", root)
        if kept is not None and kept.step > steps:
            raise UserError(
                f"{root}: has made {kept.step} steps already; training.steps = {steps} would not "
                "be what it was trained for"
            )
        if kept is not None:
            self.state.restore(kept)
        self.step = 0 if kept is None else kept.step
        since_last_row = None if kept is None else kept.state.get("since_last_row")
        self.meter = Averages(recipe.data.batch_size, since_last_row)

    def train(self) -> bool:
        """Train to the last step of the recipe, or until a signal asks to stop.

        Returns:
            Whether the run is complete; an interrupted one has left a checkpoint.
        """
        try:
            return self._train()
        finally:
            self.folder.release()

    def _train(self) -> bool:
        last, accelerator = self.recipe.training.steps, self.accelerator
        self.tracking = Tracking(accelerator, self.recipe, self.folder.root)
        rank, world = accelerator.process_index, accelerator.num_processes
        workers = self.recipe.data.workers
        stream = batches(self.dataset, self.plan, self.step, rank, world, workers)
        with (
            StopSignal() as stop,
            at_work(f"{self.stage}training", last) as work,
            tqdm(
                total=last,
                initial=self.step,
                desc=f"{self.stage}training",
                unit="step",
                disable=not self.show_progress,
                mininterval=0.2 if sys.stderr.isatty() else 4.0,
            ) as bar,
        ):
            work.advance(self.step)  # of the run that is resumed
            if self._grid_is_due() and not self._grid().exists():
                self._draw()  # the run was stopped before it drew this grid
            self.meter.restart_clock()
            while self.step < last:
                self._step(*next(stream))
                self.step += 1
                bar.update()
                work.advance()
                self._report(bar)
                if self._anyone(stop.received is not None):
                    self._checkpoint()
                    message = "stopped by %s after step %d; continue with --resume"
                    _log.warning(message, stop.received, self.step)
                    return False
                if self.step % self.recipe.training.checkpoint_every == 0 and self.step < last:
                    self._checkpoint()
                if self._grid_is_due():
                    self._draw()
        self._finish()
        return True

    def _step(self, pixels: Tensor, labels: Tensor) -> None:
        """Make one optimizer step on this process's images [b, C, H, W] and labels [b]."""
        recipe, accelerator = self.recipe.optimizer, self.accelerator
        batch = (self._labels(labels), *self._batch(pixels))
        # Dropout alone has no generator of its own.
        rank = accelerator.process_index
        torch.manual_seed(derived_seed(self.recipe.seed, "dropout", self.step, rank))
        parts = recipe.gradient_accumulation_steps
        terms: Counter[str] = Counter()
        watched: Counter[str] = Counter()
        chunks = zip(*(tensor.chunk(parts) for tensor in batch), strict=True)
        model: Any = self.model
        for i, (classes, *part) in enumerate(chunks):
            if self.num_classes:
                model = partial(self.model, class_labels=classes)
            with accelerator.no_sync(self.model) if i < parts - 1 else nullcontext():
                with keeping_activations(self.recipe.training), _explaining_lone_values():
                    losses = self.objective(model, *part)
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
        self.meter.add(terms, watched, norm)

    def _labels(self, labels: Tensor) -> Tensor:
        """Return this process's labels, some replaced by "no class".

        The choice does not depend on the number of processes.

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

    def _batch(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return this process's share of the batch and of its random numbers."""
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

    def _mean_over_processes(
        self, values: Mapping[str, Tensor], share: float = 1.0
    ) -> dict[str, float]:
        detached = {name: share * value.detach() for name, value in values.items()}
        means = self.accelerator.reduce(detached, reduction="mean")
        return {name: float(value) for name, value in means.items()}

    def _scaler_skips(self) -> bool:
        """Return whether fp16 skips a step of overflowing gradients: its scale can still fall."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() > 1.0

    def _diverged(self, what: str) -> str:
        """Return the message for a step with infinite or NaN values."""
        kept = load_latest(self.folder.checkpoints)
        where = f"the last good checkpoint is of step {kept.step}" if kept else "no checkpoint yet"
        lr = self.recipe.optimizer.lr
        return f"{what}; {where}; resume with a smaller optimizer.lr (now {lr})"

    def _report(self, bar: tqdm) -> None:  # type: ignore[type-arg]
        due = self.step % self.recipe.training.log_every == 0
        if not due and self.step < self.recipe.training.steps:
            return
        point = self.meter.point(self.step, float(self.lr_schedule.get_last_lr()[0]), close=due)
        bar.set_postfix(loss=f"{point.loss:.4f}", items_per_s=f"{point.images_per_second:.0f}")
        if self.curve is not None:
            self.curve.append(point)
        self.tracking.point(point)

    def _anyone(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; all processes get the same answer."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flags, reduction="sum") > 0)

    def _checkpoint(self) -> None:
        if self.is_main:
            checkpoint = self.state.checkpoint(
                self.step,
                image_size=self.dataset.image_size,
                class_names=class_names(self.average.module),
                data=self.data_facts,
                since_last_row=self.meter.state(),
            )
            for group, tensors in checkpoint.tensors.items():
                try:
                    check_finite(tensors, f"the {group} after step {self.step}")
                except UserError as error:
                    raise UserError(self._diverged(str(error))) from error
            save_checkpoint(self.folder.checkpoints, checkpoint, self.recipe.training.keep_last)
            if self.curve is not None:
                self.curve.draw()
        self.accelerator.wait_for_everyone()

    def _grid_is_due(self) -> bool:
        """Return whether to draw a grid after this step; `_finish` draws the last one."""
        every, last = self.recipe.sampling.every, self.recipe.training.steps
        return bool(every) and 0 < self.step < last and self.step % every == 0

    def _grid(self) -> Path:
        return self.folder.samples / f"step-{self.step:08d}.png"

    def _draw(self) -> None:
        if not self.is_main:
            return
        pipe, preview = self._pipeline(), self.network.preview
        with at_work("drawing a grid of samples"):
            grid = image_grid(PREVIEWS[preview](pipe, self.recipe, self.dataset))
            self.tracking.spikes(pipe, preview, self.dataset, self.step)
        picture = io.BytesIO()
        grid.save(picture, "PNG")
        write_whole(self._grid(), picture.getvalue())
        self.tracking.grid(grid, self.step)

    def _pipeline(self) -> DiffusionPipeline:
        return build.build_pipeline(self.average.module, self.parts)

    def _finish(self) -> None:
        """Write the last checkpoint, the last grid, the curve, and the pipeline."""
        self._checkpoint()
        self._draw()
        if self.is_main:
            save_whole(self._pipeline(), self.folder.pipeline)
            if factors := scaling_factors(self.average.module):
                plot_temporal_scaling(factors, self.folder.temporal_scaling)
        self.accelerator.end_training()


def _check_sampling(pipe: DiffusionPipeline, recipe: Recipe) -> None:
    """Refuse more sampling steps than the pipeline's scheduler has."""
    scheduler = pipe.components.get("scheduler")
    steps = recipe.sampling.num_inference_steps
    most = steps if scheduler is None else int(scheduler.config.num_train_timesteps)
    if steps > most:
        raise UserError(f"sampling.num_inference_steps = {steps} must be at most {most}")


@contextmanager
def _explaining_lone_values() -> Iterator[None]:
    """Explain batch norm's error for a single value per channel, which has no variance."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch norm sees one value per channel; use a larger data.batch_size, larger images or "
            "more model.spiking_steps"
        ) from error
