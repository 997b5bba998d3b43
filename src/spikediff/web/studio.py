"""A model that serves many visitors at once; every result depends only on its own request."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from spikediff.diffusion.classes import number_of_classes
from spikediff.diffusion.loop import networks_of, space_of
from spikediff.diffusion.outputs import to_pil, visible_sample
from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.editing.inpaint import inpaint
from spikediff.energy import Comparison
from spikediff.errors import UserError, check_number, kind_of
from spikediff.hub.describe import can_generate
from spikediff.hub.load import compile_exactly, load_pipeline
from spikediff.hub.results import compare_with_ordinary
from spikediff.hub.run_data import network_shape
from spikediff.inspection import SpikeRecord, SpikeRecorder
from spikediff.inspection.plots import busiest, raster_image
from spikediff.neurons import SpikeEmitter

MOST_STEPS = 50
MOST_SEED, MOST_IMAGES = 2**31 - 1, 8
OWN = "the model's own"  # sampler
LAYERS, NEURONS = 3, 24  # in the raster
_RASTER = 480  # pixels, about its width

Told = TypeVar("Told")


@dataclass(frozen=True)
class Wish:
    """A request."""

    seed: int  # of the first image; the others have the seeds after it
    label: int = 0  # the class, of a model that knows classes
    sampler: str = OWN  # a key of `SCHEDULERS`, or `OWN`
    steps: int = 20  # network calls per image
    count: int = 1  # how many images


class Raster(NamedTuple):
    """The spikes so far of some neurons of a layer."""

    layer: str
    rate: float  # of the layer, per neuron and spiking step
    picture: Image.Image


@dataclass(frozen=True)
class Moment:
    """The state of a generation to show at one moment."""

    images: list[Image.Image]  # the images as they are now
    step: int  # how many steps are done
    steps: int  # of how many
    rasters: list[Raster] = field(default_factory=list)  # of the layers that fire most
    seconds: float = 0.0  # how long the finished images took; 0 before
    # What the first image cost beside the ordinary network; None before it is measured.
    energy: Comparison | None = None


class Studio:
    """One model, loaded as by `load_pipeline`.

    Requests use the network one after the other, because recorders and meters hook it. Each has
    its own scheduler.
    """

    def __init__(self, source: Path, device: str = "cpu") -> None:
        self.name = source.name
        self._observed = load_pipeline(source, device=device, float64_needed="the meter")
        if not can_generate(self._observed) or getattr(self._observed, "makes_signals", False):
            raise UserError(f"{source}: {kind_of(self._observed)} generates no images")
        self._fast = compile_exactly(self._with_scheduler(self._observed))
        self._alone = threading.Lock()
        networks = networks_of(self._observed).values()
        self._spikes = any(isinstance(m, SpikeEmitter) for p in networks for m in p.modules())
        self.classes = max(map(number_of_classes, networks), default=0)
        self.size, channels = network_shape(self._observed)
        self.mode = "L" if channels == 1 else "RGB"
        self.samplers = self._samplers()
        scheduler = self._observed.components.get("scheduler")  # an autoencoder has none
        steps = 0 if scheduler is None else int(scheduler.config.num_train_timesteps)
        self.most_steps = min(MOST_STEPS, steps)

    def generate(self, wish: Wish, spikes: bool = True, energy: bool = True) -> Iterator[Moment]:
        """Yield the images after every step, then finished, then with the energy of the first.

        `spikes` watches the neurons, which takes longer.
        """
        self._check(wish)
        return streamed(partial(self._run, wish, None, spikes, energy))

    def inpaint(self, wish: Wish, picture: Image.Image, mask: Image.Image) -> Iterator[Moment]:
        """Yield a picture with its masked (white) part replaced, after every step and finished."""
        self._check(wish)
        edit = partial(inpaint, image=picture, mask_image=mask)
        return streamed(partial(self._run, wish, edit, False, False))

    def example(self) -> Image.Image:
        """Return an image of the model, to edit."""
        wish = Wish(seed=3, label=min(3, max(0, self.classes - 1)))
        with self._alone:
            (image,) = self._call(self._with_scheduler(self._fast), wish, lambda *_: None)
        return image

    def _run(
        self, wish: Wish, edit: Any, spikes: bool, energy: bool, tell: Callable[[Moment], None]
    ) -> None:
        with self._alone:
            started = time.monotonic()
            watched = spikes and self._spikes
            pipe = self._with_scheduler(self._observed if watched else self._fast, wish.sampler)
            with SpikeRecorder(pipe, neurons_per_layer=NEURONS) if watched else nullcontext() as r:
                plot = partial(draw_rasters, r, wish.steps, [])
                images = self._call(
                    pipe if edit is None else partial(edit, pipe),
                    wish,
                    lambda i, seen: tell(Moment(seen, i + 1, wish.steps, plot())),
                )
            seconds = time.monotonic() - started
            done = Moment(images, wish.steps, wish.steps, plot(), seconds)
            tell(done)
            if energy and (cost := self._cost(wish)) is not None:
                tell(replace(done, energy=cost))

    def _call(
        self, make: Any, wish: Wish, watch: Callable[[int, list[Image.Image]], None]
    ) -> list[Image.Image]:
        def told(_pipe: Any, i: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            watch(i, to_pil(visible_sample(tensors["sample"])))
            return {}

        options = self._options(wish)
        if self.most_steps:
            options["callback_on_step_end"] = told
        images: list[Image.Image] = make(**options).images
        return images

    def _options(self, wish: Wish) -> dict[str, Any]:
        options: dict[str, Any] = {"seeds": range(wish.seed, wish.seed + wish.count)}
        if self.most_steps:
            options["num_inference_steps"] = wish.steps
        if self.classes:
            options["class_labels"] = wish.label
        return options

    def _cost(self, wish: Wish) -> Comparison | None:
        """Return the energy of the first image; None if there is nothing to compare with."""
        if not (self._spikes and "unet" in self._observed.components):
            return None
        pipe = self._with_scheduler(self._observed, wish.sampler)
        try:
            return compare_with_ordinary(pipe, **self._options(replace(wish, count=1)))
        except UserError:  # no ordinary counterpart
            return None

    def _with_scheduler(self, pipe: Any, sampler: str = OWN) -> Any:
        """Return a pipeline with the same networks and its own scheduler."""
        parts = {}
        if (scheduler := pipe.components.get("scheduler")) is not None:
            parts["scheduler"] = deepcopy(scheduler)
            if sampler != OWN:
                parts["scheduler"] = make_scheduler(sampler, scheduler.config)
        made = type(pipe).from_pipe(pipe, **parts)
        made.set_progress_bar_config(disable=True)
        return made

    def _samplers(self) -> list[str]:
        """Return the samplers that fit the network, except analytic-dpm (needs calibration)."""
        if "unet" not in self._observed.components:
            return [OWN]
        fitting = [OWN]
        for name in (name for name in SCHEDULERS if name != "analytic-dpm"):
            with suppress(UserError):
                scheduler = make_scheduler(name, self._observed.scheduler.config)
                space_of(self._observed.unet).check_scheduler(scheduler)
                fitting.append(name)
        return fitting

    def _check(self, wish: Wish) -> None:
        """Refuse invalid requests: a browser can send anything."""
        check_number("the seed", wish.seed, 0, MOST_SEED, whole=True)
        check_number("the number of images", wish.count, 1, MOST_IMAGES, whole=True)
        check_number("the number of steps", wish.steps, 1, max(1, self.most_steps), whole=True)
        if self.classes:
            check_number("the class", wish.label, 0, self.classes - 1, whole=True)
        if wish.sampler not in self.samplers:
            raise UserError(
                f"{self.name} does not support this sampler; choose from {self.samplers}"
            )


def draw_rasters(record: SpikeRecord | None, steps: int, names: list[str]) -> list[Raster]:
    """Return rasters of the layers that fired most at first, with room for all denoising steps.

    An empty list of `names` is filled with the names of the layers.
    """
    if record is None or not record.layers:
        return []
    names[:] = names or [layer.name for layer in busiest(record, LAYERS)]
    layers = [record.layers[name] for name in names]
    columns = len(layers[0].raster()) // len(layers[0].windows) * steps
    dot = (max(1, _RASTER // columns), 4)
    return [Raster(one.name, one.rate, raster_image([one], dot, columns)) for one in layers]


_END = object()


class _LeftError(Exception):
    """The visitor has left."""


def streamed(work: Callable[[Callable[[Told], None]], None]) -> Iterator[Told]:
    """Yield the values passed to `tell` by `work(tell)`, which runs in its own thread.

    Hooks of recorders and meters belong to a thread, and a reader may change threads. If the
    reader stops, the work ends.

    Example:
        >>> list(streamed(lambda tell: [tell(1), tell(2)]))
        [1, 2]
    """
    said: SimpleQueue[Any] = SimpleQueue()
    left = threading.Event()

    def tell(item: Told) -> None:
        if left.is_set():
            raise _LeftError
        said.put((item, None))

    def run() -> None:
        error: BaseException | None = None
        try:
            work(tell)
        except _LeftError:
            return
        except BaseException as raised:
            error = raised
        said.put((_END, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        while (heard := said.get())[0] is not _END:
            yield heard[0]
        if heard[1] is not None:
            raise heard[1]
    finally:
        left.set()
