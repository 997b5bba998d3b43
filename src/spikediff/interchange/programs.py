"""Export a denoiser as one program for other runtimes: `torch.export` and ONNX."""

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError, check_number, import_extra
from spikediff.neurons import as_operations
from spikediff.neurons.kernels import using

# Names of classes. For ONE_BATCH_SIZE, torch 2.13 cannot prove that every batch size works (tried
# with the first two; the converted networks derive from the second).
ANY_BATCH_SIZE = {"SpikingUNet", "SpikingImageDecoder"}
ONE_BATCH_SIZE = {
    "SynapticCurrentUNet",
    "UNet2DModel",
    "ConvertedUNet",
    "QuantisedUNet",
    "IntegerSpikingUNet",
}
TORCH_ONLY = {"DeployedIntegerUNet"}  # for one batch size too; as ONNX it is untested


def export_torch(
    model: nn.Module,
    path: Path,
    sample_size: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
) -> None:
    """Write a denoiser as a file of `torch.export` (.pt2) that needs only torch."""
    torch.export.save(export_program(model, sample_size, batch_size=batch_size), path)


def export_onnx(
    model: nn.Module,
    path: Path,
    sample_size: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
) -> None:
    """Write a denoiser as ONNX (see `export_program`): (sample, timestep) -> estimate.

    The weights of large networks are written to a separate file beside it.
    """
    import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    exported = export_program(model, sample_size, batch_size=batch_size)
    with _without_warnings_of_torch():
        program = torch.onnx.export(
            exported,
            input_names=["sample", "timestep"],
            output_names=["estimate"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)


@contextmanager
def _without_warnings_of_torch() -> Iterator[None]:
    """Hide two irrelevant warnings of torch's exporter, about torchvision and its own call."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        log.setLevel(level)


@torch.no_grad()
def export_program(
    model: nn.Module,
    sample_size: int | tuple[int, int] | None = None,
    plain: bool = True,
    batch_size: int | None = None,
) -> Any:
    """Trace a denoiser, for any batch size or a fixed one.

    Args:
        model: A denoiser in evaluation mode: `model(sample, timestep).sample`.
        sample_size: Height and width of its input; the configured ones by default.
        plain: Whether neurons become standard operations, T times each, so that the program runs
            without this library; otherwise each stays one operator, `torch.ops.spikediff.*`.
        batch_size: A fixed B. By default any B, which only `SpikingUNet` and
            `SpikingImageDecoder` support.

    Returns:
        A `torch.export.ExportedProgram` of `(sample, timestep) -> estimate`: images [B, C, H, W],
        signals [B, C, L] or tokens [B, h, w]; an integer timestep (0-dim, int64); and the model's
        estimate.
    """
    check_original(model)
    if model.training:
        raise UserError("export needs the norms' running statistics; call `.eval()` first")
    traced = _Estimate(model).eval()
    _check_batch(model, batch_size)
    sample = _example(model, sample_size, batch_size or 2)
    shapes = ({0: torch.export.Dim("batch")}, None) if batch_size is None else None
    with using("reference"), as_operations() if plain else nullcontext():
        return torch.export.export(
            traced,
            (sample, torch.tensor(1, device=sample.device)),
            dynamic_shapes=shapes,
            strict=False,
        )


class _Estimate(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        estimate: Tensor = self.model(sample, timestep, return_dict=False)[0]
        return estimate


def check_original(model: nn.Module) -> None:
    """Refuse a network that was compiled for inference, whose kernels no other tool has."""
    if getattr(model, "event_driven", False):
        raise UserError(
            f"{type(model).__name__}: compiled for inference; export the original model"
        )


def _check_batch(model: nn.Module, batch_size: int | None) -> None:
    name = type(model).__name__
    if batch_size is None and not class_among(model, ANY_BATCH_SIZE):
        raise UserError(
            f"{name}: torch exports it for one batch size only; give that size: --batch-size 1"
        )
    if batch_size is not None:
        check_number(f"{name}: batch_size", batch_size, 1, whole=True)


def class_among(module: nn.Module, names: Collection[str]) -> str | None:
    """Return the first name among `names` of a module's class or its base classes, or None."""
    return next((kind.__name__ for kind in type(module).__mro__ if kind.__name__ in names), None)


def sample_size_of(model: Any, given: int | tuple[int, int] | None) -> int | tuple[int, int]:
    """Return the given size of a network's input, or the configured one."""
    size: int | tuple[int, int] | None = model.config.get("sample_size") if given is None else given
    if size is None:
        raise UserError(
            f"{type(model).__name__}: takes any size; give sample_size, the size of its input"
        )
    return size


def _example(model: Any, given: int | tuple[int, int] | None, batch_size: int) -> Tensor:
    """Return an example input: images, signals or grids of tokens."""
    size = sample_size_of(model, given)
    sides = [size] * model.config.get("dimensions", 2) if isinstance(size, int) else size
    channels = model.config.get("in_channels")
    if channels is None:
        return torch.zeros(batch_size, *sides, dtype=torch.int64, device=model.device)  # tokens
    return torch.zeros(batch_size, channels, *sides, dtype=model.dtype, device=model.device)
