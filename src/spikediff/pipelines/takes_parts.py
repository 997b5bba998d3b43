"""A pipeline made of the parts of another pipeline, which goes on as it was."""

import inspect
from typing import Any, Self

from spikediff.errors import UserError


class TakesParts:
    """A pipeline that `from_pipe` makes; it stands before `DiffusionPipeline` in the bases.

    Example:
        >>> from spikediff.models import SpikingUNet
        >>> from spikediff.pipelines import SpikingDiffusionPipeline, SpikingInpaintPipeline
        >>> from spikediff.schedulers import make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> SpikingInpaintPipeline.from_pipe(pipe).unet is unet
        True
    """

    @classmethod
    def from_pipe(cls, pipeline: Any, **parts: Any) -> Self:
        """Return a pipeline of the parts of another one, shared and not copied.

        Args:
            pipeline: Any whose components have the names of this one's.
            parts: Components to take instead of the other pipeline's.

        Raises:
            UserError: The other pipeline generates in another way.
        """
        parameters = dict(inspect.signature(cls.__init__).parameters)
        del parameters["self"]
        # What is no part, such as the range of signals, stands in the configuration.
        settings = {name: pipeline.config[name] for name in parameters if name in pipeline.config}
        found = {**settings, **pipeline.components, **parts}
        needed = {n for n, given in parameters.items() if given.default is given.empty}
        if missing := sorted(needed - set(found)):
            raise UserError(
                f"{cls.__name__}: a {type(pipeline).__name__} has no {' and no '.join(missing)}"
            )
        return cls(**{name: found[name] for name in parameters if name in found})
