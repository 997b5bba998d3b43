"""The compiled deployment form: one C call computes a whole network call, with the same bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikediff.errors import UserError, kind_of
from spikediff.native import native_name
from spikediff.systems.integer.convolution import to_fixed_point
from spikediff.systems.integer.deployment import DeployedIntegerUNet, DeployedUNetOutput
from spikediff.systems.integer.plan import Plan, has_kernels
from spikediff.systems.integer.whole_layers import IMAGE_FRACTION_BITS


@dataclass(frozen=True)
class KeptMemory:
    """State of the compiled form for `delta`: counts and sums of every synapse [B, bytes], uint8.

    It is updated in place. The result does not depend on it, only the time: it may be passed to
    any later call with the same plan and the same number of images.
    """

    plan: Plan
    memory: Tensor

    def __len__(self) -> int:
        return len(self.memory)


class ConvolutionRuns(NamedTuple):
    """How a convolution ran: computed densely, or by the quads that counts or changes are in."""

    name: str
    image_size: tuple[int, int]  # height and width of the network's images
    images: int  # in all calls
    dense: float  # share of the images that were computed densely
    quads: float | None  # share of those not silent, or changed; None where AMX needs no lists


class Plans(dict[tuple[int, int], Plan]):
    """Layouts by image size; copies and other processes create their own."""

    def __reduce__(self) -> Any:
        """Omit the layouts, which contain pointers."""
        return Plans, ()


class CompiledIntegerUNet(DeployedIntegerUNet):
    """A `DeployedIntegerUNet` that runs layer by layer in C; made by `compile_for_inference`.

    It gives the same bits and has the same interface; `spikes` and `events` run as `counts`.
    Every convolution of every image is computed either densely or from the quads (four channels of
    a pixel) that are not silent or, with `delta`, have changed, depending on their share. Where the
    processor has AMX, `counts` computes all layers whose channels fill its tiles densely. The first
    call allocates memory, which is kept. Without kernels (at least AVX2) it runs in plain torch.
    Two simultaneous calls need two copies.
    """

    event_driven = True  # the energy meter refuses it
    event_weights = None  # nothing is rounded
    plans: Plans

    @torch.no_grad()
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        state: Any = None,
        return_dict: bool = True,
    ) -> DeployedUNetOutput | tuple[Tensor]:
        """Estimate the noise in a batch of images; see `DeployedIntegerUNet.forward`."""
        if not has_kernels() or sample.device.type != "cpu":
            return super().forward(sample, timestep, class_labels, state, return_dict)
        self.check_call(sample, state)
        plan = self._plan(*sample.shape[2:])
        if self.config.execution == "delta":
            if state is None:
                memory = torch.zeros(len(sample), plan.layout.state_bytes, dtype=torch.uint8)
                state = KeptMemory(plan, memory)
            if not isinstance(state, KeptMemory) or state.plan is not plan:
                raise UserError(
                    f"state: {kind_of(state)} of another network, size or form; "
                    "give a state that this compiled form returned"
                )
        timesteps, classes = self.rows_of(sample, timestep, class_labels)
        if sample.dtype != torch.float32:  # exact: 16 bits
            self.check_finite(sample)
            sample = to_fixed_point(sample, IMAGE_FRACTION_BITS) * 2.0**-IMAGE_FRACTION_BITS
        answer = plan.run(
            sample.resolve_neg().contiguous(),
            timesteps.expand(len(sample)).contiguous(),
            classes.expand(len(sample)).contiguous(),
            None if state is None else state.memory,
        )
        if answer is None:
            self.check_finite(sample)
        assert answer is not None
        return DeployedUNetOutput(answer, state) if return_dict else (answer,)

    def ran(self) -> Iterator[ConvolutionRuns]:
        """Yield how each convolution ran so far, image size by image size."""
        for size, plan in self.plans.items():
            layout = plan.layout
            for name, layer, (images, dense, listed, quads) in zip(
                layout.names, layout.layers, plan.tallies().tolist(), strict=True
            ):
                columns = layer.in_width << layer.doubled
                quads_of_listed = listed * layer.in_height * columns * layer.quads
                share = quads / quads_of_listed if listed else None
                yield ConvolutionRuns(name, size, images, dense / max(1, images), share)

    def describe(self) -> Iterator[str]:
        """Yield a line per convolution: how it ran so far, and the share of its listed quads."""
        yield f"kernels {native_name()}, execution {self.config.execution}"
        for (height, width), of_size in groupby(self.ran(), lambda runs: runs.image_size):
            yield f"images of {height}x{width}:"
            for runs in of_size:
                quads = "" if runs.quads is None else f", {runs.quads:.1%} of quads"
                yield (
                    f"  {runs.name:<24} {runs.dense:4.0%} of {runs.images} images densely{quads}"
                )

    def _plan(self, height: int, width: int) -> Plan:
        if (height, width) not in self.plans:
            self.plans[height, width] = Plan(self, height, width, IMAGE_FRACTION_BITS)
        return self.plans[height, width]
