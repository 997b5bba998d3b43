"""Load a pipeline without torch's compiler and parts of scipy, which take half of the imports.

diffusers imports both at once, for decorators and for schedules that few processes use. Within
`light_imports` stand-ins take their places; each imports the real module for the first name that
it does not have.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, cast

_COMPILER = "torch._dynamo"


class _Later(ModuleType):
    """Stand-in of a module that is imported when it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspect asks every module for its file
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def light_imports() -> Iterator[None]:
    """Let what is loaded within import the compiler and scipy where it first uses them."""
    import torch.nn.attention.flex_attention  # noqa: F401  some versions import the compiler's parts

    names = (_COMPILER, "scipy.stats", "scipy.integrate")
    stand_ins = {name: _Later(name) for name in names if name not in sys.modules}
    if _COMPILER in stand_ins:
        vars(stand_ins[_COMPILER]).update(
            # Marks a class that compiled functions create: for them it has no effect yet.
            allow_in_graph=lambda marked: marked,
            disable=_disable,
            eval_frame=SimpleNamespace(OptimizedModule=()),  # without it nothing is compiled
        )
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _disable(
    function: Callable[..., Any] | None = None, recursive: bool = True, *, reason: Any = None
) -> Callable[..., Any]:
    """Return what `torch._dynamo.disable` does; nothing while there is no compiler."""
    if function is None:
        return partial(_disable, recursive=recursive, reason=reason)

    @cache
    def disabled() -> Any:
        return cast("Any", sys.modules[_COMPILER]).disable(function, recursive, reason=reason)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        absent = isinstance(sys.modules.get(_COMPILER), _Later | None)
        return (function if absent else disabled())(*arguments, **options)

    return call
