"""A denoiser as one program for other runtimes: `torch.export` and ONNX."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.interop.extras import import_extra
from spikediff.interop.plain_neurons import with_plain_neurons
from spikediff.models import SpikingImageDecoder
from spikediff.neurons.kernels.choice import using


class _Estimate(nn.Module):
    """A denoiser with tensors in and a tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        estimate: Tensor = self.model(sample, timestep, return_dict=False)[0]
        return estimate


@torch.no_grad()
def export_program(
    model: nn.Module, sample_size: int | tuple[int, int] | None = None, plain: bool = True
) -> Any:
    """Trace a denoiser, for batches of any size.

    Args:
        model: A denoiser in evaluation mode: `model(sample, timestep).sample`.
        sample_size: Height and width of its input; the configured ones where there are such.
        plain: Whether neurons become standard operations, T times each, so that the program runs
            without this library; else each stays one operator, `torch.ops.spikediff.*`.

    Returns:
        A `torch.export.ExportedProgram` of `(sample, timestep) -> estimate`: images [B, C, H, W]
        or tokens [B, h, w], a whole timestep (0-dim, int64), and what the model estimates.

    Raises:
        UserError: The model is in training mode, or the size is missing.

    Example:
        >>> from spikediff.models import SpikingImageDecoder
        >>> model = SpikingImageDecoder(codebook_size=8, widths=(4,), spiking_steps=2).eval()
        >>> program = export_program(model, sample_size=4).module()
        >>> tokens = torch.full((3, 4, 4), 8)
        >>> torch.equal(program(tokens, torch.tensor(1)), model(tokens).sample)
        True
    """
    if model.training:
        raise UserError("export needs the norms' running statistics; call `.eval()` first")
    traced = _Estimate(with_plain_neurons(model) if plain else model).eval()
    batch = {0: torch.export.Dim("batch")}
    sample = _example(model, sample_size)
    with using("reference"):
        return torch.export.export(
            traced, (sample, torch.tensor(1)), dynamic_shapes=(batch, None), strict=False
        )


def export_torch(
    model: nn.Module, path: Path, sample_size: int | tuple[int, int] | None = None
) -> None:
    """Write a denoiser as a file of `torch.export` (.pt2), which needs nothing but torch.

    Args:
        model: See `export_program`.
        path: The file.
        sample_size: Height and width of the input.

    Raises:
        UserError: See `export_program`.
    """
    torch.export.save(export_program(model, sample_size), path)


def export_onnx(
    model: nn.Module, path: Path, sample_size: int | tuple[int, int] | None = None
) -> None:
    """Write a denoiser as ONNX: inputs `sample` and `timestep`, output `estimate`.

    Args:
        model: See `export_program`.
        path: The file; weights of large networks stand in another beside it.
        sample_size: Height and width of the input.

    Raises:
        UserError: The packages onnx and onnxscript are missing; or see `export_program`.
    """
    import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    program = torch.onnx.export(
        export_program(model, sample_size),
        input_names=["sample", "timestep"],
        output_names=["estimate"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _example(model: Any, given: int | tuple[int, int] | None) -> Tensor:
    """Return an input of two images, or of two grids of tokens."""
    size = model.config.get("sample_size") if given is None else given
    if size is None:
        raise UserError(f"{type(model).__name__}: takes any size; give sample_size, of its input")
    height, width = (size, size) if isinstance(size, int) else size
    if isinstance(model, SpikingImageDecoder):
        return torch.zeros(2, height, width, dtype=torch.int64)
    return torch.zeros(2, model.config.in_channels, height, width, dtype=model.dtype)
