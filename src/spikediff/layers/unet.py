"""The order of blocks in a U-Net, and the widths of its skips."""

from collections.abc import Callable, Sequence

from torch import nn

Block = Callable[[int, int], nn.Module]
Resampling = Callable[[int], nn.Module]


def way_down(
    width: int, widths: Sequence[int], layers_per_block: int, block: Block, shrink: Resampling
) -> tuple[nn.ModuleList, list[int]]:
    """Return the contracting half, and the channels of its skips, starting with the stem's.

    `width` is that of the stem, `widths` those of the levels.
    """
    blocks, skips = nn.ModuleList(), [width]
    for level, out_width in enumerate(widths):
        for _ in range(layers_per_block):
            blocks.append(block(width, out_width))
            skips.append(width := out_width)
        if level < len(widths) - 1:
            blocks.append(shrink(width))
            skips.append(width)
    return blocks, skips


def way_up(
    widths: Sequence[int], layers_per_block: int, skips: list[int], block: Block, grow: Resampling
) -> nn.ModuleList:
    """Return the expanding half; every block takes its input and the last remaining skip."""
    blocks, width = nn.ModuleList(), widths[-1]
    for level, out_width in reversed(list(enumerate(widths))):
        for _ in range(layers_per_block + 1):
            blocks.append(block(width + skips.pop(), out_width))
            width = out_width
        if level > 0:
            blocks.append(grow(width))
    return blocks
