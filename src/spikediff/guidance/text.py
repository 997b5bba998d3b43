"""Scales as a person types them."""

from spikediff.errors import UserError


def parse_scale(text: str) -> float | dict[str, float] | tuple[float, ...]:
    """Read the scale of `threshold_guidance`.

    Args:
        text: `0.997` for all layers; `up_blocks.*=0.99,stem=1.01` by layer; `0.98,0.99,1` one for
            every denoising step.

    Raises:
        UserError: It is none of these.

    Example:
        >>> parse_scale("0.997"), parse_scale("0.98,1"), parse_scale("stem=1.01")
        (0.997, (0.98, 1.0), {'stem': 1.01})
    """
    parts = _parts(text)
    if all("=" in part for part in parts):
        return {name: _number(k, text) for name, _, k in (p.rpartition("=") for p in parts)}
    scales = parse_numbers(text)
    return scales[0] if len(scales) == 1 else scales


def parse_numbers(text: str) -> tuple[float, ...]:
    """Read positive numbers that commas separate.

    Raises:
        UserError: One is none.

    Example:
        >>> parse_numbers("0.99, 1,1.01")
        (0.99, 1.0, 1.01)
    """
    return tuple(_number(part, text) for part in _parts(text))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _number(part: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError:
        number = -1.0
    if not 0.0 < number < float("inf"):
        raise UserError(
            f"threshold {text!r}: {part!r} is no positive number; write 0.997, or 0.98,0.99 one a "
            "step, or stem=1.01,up_blocks.*=0.99"
        )
    return number
