"""What runs an ordinary network on a CPU: OpenVINO (float32, int8 by NNCF) and ONNX Runtime.

Installed apart by `make bench`, in build/peers.
"""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from performance.missing import Missing
from performance.spikingjelly_peer import FOLDER

Inputs = tuple[Tensor, ...]
Run = Callable[[], object]


class _Estimate(nn.Module):
    """A denoiser from tensors to a tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        """Return the estimate."""
        estimate: Tensor = self.network(sample, timestep, labels).sample
        return estimate


def openvino(network: nn.Module, inputs: Inputs, threads: int, precision: str) -> Run:
    """Return a call of OpenVINO.

    Args:
        network: An ordinary denoiser, in eval mode.
        inputs: Samples, timesteps and classes of the call.
        threads: Of the call.
        precision: "f32", "bf16", which is OpenVINO's own choice where the processor has it, or
            "int8": quantised by NNCF after ten samples.
    """
    request = openvino_request(network, inputs, len(inputs[0]), threads, precision)
    arrays = [x.numpy() for x in inputs]
    return lambda: request.infer(arrays, share_inputs=True)


def openvino_request(
    network: nn.Module,
    inputs: Inputs,
    batch: int,
    threads: int,
    precision: str,
    calibrated: int = 10,
) -> Any:
    """Return a request of OpenVINO for batches of a size; see `openvino`.

    Args:
        network: An ordinary denoiser, in eval mode.
        inputs: Samples, timesteps and classes; "int8" is calibrated on the first of them.
        batch: Images of a call.
        threads: Of the call.
        precision: As of `openvino`.
        calibrated: How many samples calibrate.
    """
    ov = _import("openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_Estimate(network), inputs, check_trace=False)
        model = ov.convert_model(traced, example_input=inputs)
    if precision == "int8":
        model = _quantised(model, inputs, calibrated)
    sizes = [ov.PartialShape([batch, *x.shape[1:]]) for x in inputs]
    model.reshape(dict(zip(model.inputs, sizes, strict=True)))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    return ov.Core().compile_model(model, "CPU", options).create_infer_request()


def _quantised(model: Any, inputs: Inputs, calibrated: int) -> Any:
    nncf = _import("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    images = range(min(calibrated, len(inputs[0])))
    samples = [tuple(x[i : i + 1].numpy() for x in inputs) for i in images]
    return nncf.quantize(model, nncf.Dataset(samples, lambda x: x), subset_size=len(samples))


def onnxruntime(network: nn.Module, inputs: Inputs, threads: int) -> Run:
    """Return a call of ONNX Runtime, float32; see `openvino`."""
    ort = _import("onnxruntime")
    written, names = io.BytesIO(), ["sample", "timestep", "labels"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_Estimate(network), inputs, check_trace=False)
        torch.onnx.export(
            traced, inputs, written, dynamo=False, opset_version=17, input_names=names
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(written.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = dict(zip(names, (x.numpy() for x in inputs), strict=True))
    return lambda: session.run(None, feed)


def versions(names: Sequence[str] = ("openvino", "nncf", "onnxruntime")) -> dict[str, str]:
    """Return the versions of what is installed."""
    found = {}
    for name in names:
        try:
            found[name] = str(_import(name).__version__)
        except Missing:
            continue
    return found


def _import(name: str) -> Any:
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        return __import__(name)
    except ImportError as error:
        raise Missing(f"not installed (make peers): {error}") from None
