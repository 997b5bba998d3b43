"""The deployment form for inference: one call of C from the image to the answer, the same bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikediff.errors import UserError
from spikediff.native import native_name
from spikediff.systems.integer.convolution import to_fixed_point
from spikediff.systems.integer.deployment import DeployedIntegerUNet, DeployedUNetOutput
from spikediff.systems.integer.plan import Plan, has_kernels
from spikediff.systems.integer.whole_layers import IMAGE_FRACTION_BITS


@dataclass(frozen=True)
class KeptMemory:
    """What the compiled form keeps for `delta`: counts and sums of every synapse [B, bytes], uint8.

    It is brought up to date in place. The answer does not depend on it, only the time that it
    takes: it may be given to any later call of as many images with the same plan.
    """

    plan: Plan
    memory: Tensor

    def __len__(self) -> int:
        return len(self.memory)


class Plans(dict[tuple[int, int], Plan]):
    """Layouts by the size of the images; copies and other processes lay out anew."""

    def __reduce__(self) -> Any:
        """Leave out the layouts: they point into memory."""
        return Plans, ()


class CompiledIntegerUNet(DeployedIntegerUNet):
    """A `DeployedIntegerUNet` that runs layer by layer in C; made by `compile_for_inference`.

    It gives the same bits and is called in the same way; `spikes` and `events` run as `counts`.
    Every convolution of every image is computed densely, or by the quads (four channels of a pixel)
    that are not silent or, by `delta`, have changed: as their share was found. Memory is taken in
    the first call and kept. Without kernels (AVX2 at least) it runs in plain torch. Two calls at
    the same time need two copies.
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
                    f"state: a {type(state).__name__} of another network, size or form; the "
                    f"compiled form goes on from states of its own calls"
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

    def describe(self) -> Iterator[str]:
        """Yield a line per convolution: how it ran so far, and by what share of its quads."""
        yield f"kernels {native_name()}, execution {self.config.execution}"
        for (height, width), plan in self.plans.items():
            yield f"images of {height}x{width}:"
            for name, layer, (images, dense, quads) in zip(
                plan.layout.names, plan.layout.layers, plan.tallies().tolist(), strict=True
            ):
                columns = layer.in_width << layer.doubled
                share = quads / max(1, images * layer.in_height * columns * layer.quads)
                yield (
                    f"  {name:<24} {dense / max(1, images):4.0%} of {images} images densely, "
                    f"{share:.1%} of quads"
                )

    def _plan(self, height: int, width: int) -> Plan:
        if (height, width) not in self.plans:
            self.plans[height, width] = Plan(self, height, width, IMAGE_FRACTION_BITS)
        return self.plans[height, width]


def compiled(form: DeployedIntegerUNet) -> CompiledIntegerUNet:
    """Return a view of a deployment form that runs in C; it shares the weights."""
    if form.device.type != "cpu":
        raise UserError(f"compile_for_inference: runs on the CPU, the model is on {form.device}")
    view: CompiledIntegerUNet = form.view_as(CompiledIntegerUNet)
    view.plans = Plans()
    return view
