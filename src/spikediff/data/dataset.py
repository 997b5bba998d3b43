"""The data set that training and evaluation see."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikediff.data.resize import Fit, fit_picture, fit_pixels
from spikediff.data.sources import PictureSource, PixelArray

NO_LABEL = -1


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images of one size, as uint8, with a class index each where there are classes.

    Item `i` is `(uint8 [C, H, W], int)`; the label is -1 where there is none.

    Args:
        name: name of the data set.
        split: name of the split.
        source: the pictures as the reader found them.
        fit: size, channels, crop and filter.
        horizontal_flip: whether a mirrored image is as good as the image.

    Attributes:
        name: name of the data set.
        split: name of the split.
        channels: C, 1 or 3.
        image_size: H = W in pixels.
        labels: int64 `[N]`, or None.
        class_names: one name per class; empty without classes.
        images: uint8 `[N, C, H, W]` where the set is held in memory, else None (each item is
            then decoded when it is asked for).
        origin: which files were read, for reports.
        horizontal_flip: whether `random_flip` suits these images.

    Example:
        >>> import numpy as np
        >>> grey = PixelArray(np.zeros((5, 8, 8), np.uint8), None, (), "zeros")
        >>> dataset = ImageDataset("zeros", "train", grey, Fit(size=8, channels=1))
        >>> len(dataset), dataset[0][0].shape, dataset[0][1]
        (5, torch.Size([1, 8, 8]), -1)
    """

    def __init__(
        self,
        name: str,
        split: str,
        source: PictureSource,
        fit: Fit,
        *,
        horizontal_flip: bool = False,
    ) -> None:
        self.name = name
        self.split = split
        self.channels = fit.channels
        self.image_size = fit.size
        self.labels = source.labels
        self.class_names = source.class_names
        self.origin = source.origin
        self.horizontal_flip = horizontal_flip
        self.images: Tensor | None = None
        self._fit = fit
        self._count = len(source)
        self._source: PictureSource | None = source
        if isinstance(source, PixelArray):
            self.images = fit_pixels(source.pixels, fit, source.origin)
            self._source = None  # the unfitted pixels may go

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(self._count)[index]  # negative indices count from the end
        label = NO_LABEL if self.labels is None else int(self.labels[index])
        return self._image(index), label

    def stack(self) -> Tensor:
        """Return all images as one tensor, decoding them if need be.

        Returns:
            uint8 `[N, C, H, W]`.

        Raises:
            UserError: a file cannot be decoded.
        """
        if self.images is not None:
            return self.images
        return torch.stack([self._image(index) for index in range(self._count)])

    def _image(self, index: int) -> Tensor:
        """Return image `index`, uint8 `[C, H, W]`."""
        if self.images is not None:
            return self.images[index]
        assert self._source is not None  # one of the two is always there
        return fit_picture(self._source.decode(index), self._fit, self._source.where(index))
