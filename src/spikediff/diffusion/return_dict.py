"""The type of a call with `return_dict`, for type checkers and editors; it changes nothing else."""

from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

P = ParamSpec("P")
Output = TypeVar("Output")
Output_co = TypeVar("Output_co", covariant=True)


class Answering(Protocol[P, Output_co]):
    """A method that returns an output, or a tuple where `return_dict=False` is given by name."""

    @overload
    def __call__(
        self, *args: Any, return_dict: Literal[False], **options: Any
    ) -> tuple[Any, ...]: ...
    @overload
    def __call__(self, *args: P.args, **options: P.kwargs) -> Output_co: ...


def answering(
    method: Callable[Concatenate[Any, P], Output | tuple[Any, ...]],
) -> Answering[P, Output]:
    """Return the method itself, typed as `Answering`; its arguments stand in it alone."""
    return cast(Answering[P, Output], method)
