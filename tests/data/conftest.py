"""How the tests make small files of the layout of real data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spikediff.errors import UserError


@pytest.fixture
def save_picture() -> Callable[..., Path]:
    """Write a picture of noise (or of one value) and return its path."""

    def save(path: Path, size=(12, 10), mode="RGB", value=None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        noise = np.random.default_rng(len(path.name)).integers(0, 256, shape, dtype=np.uint8)
        pixels = noise if value is None else np.full(shape, value, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return save


@pytest.fixture
def refused() -> Callable[..., str]:
    """Call something that must raise a UserError of one line, and return the line."""

    def call(function, *args, **kwargs) -> str:
        with pytest.raises(UserError) as caught:
            function(*args, **kwargs)
        message = str(caught.value)
        assert message
        assert "\n" not in message
        return message

    return call
