"""Classes that a saved pipeline may name: diffusers finds a component only if it is loaded."""

import inspect
from typing import Any

from diffusers.models.modeling_utils import ModelMixin

from spikediff import models
from spikediff.schedulers import (
    AbsorbingStateScheduler,
    AnalyticDPMScheduler,
    SynapticCurrentDDIMScheduler,
)
from spikediff.systems.integer import DeployedIntegerUNet, IntegerSpikingUNet

COMPONENTS: dict[str, type[Any]] = {
    part.__name__: part
    for part in (
        *(getattr(models, name) for name in models.__all__),
        DeployedIntegerUNet,
        IntegerSpikingUNet,
        AbsorbingStateScheduler,
        AnalyticDPMScheduler,
        SynapticCurrentDDIMScheduler,
    )
    if inspect.isclass(part) and (issubclass(part, ModelMixin) or hasattr(part, "set_timesteps"))
}
"""By name, the networks and schedulers of this library that a pipeline may be saved with."""
