"""What the tests of event-driven inference share."""

import pytest


@pytest.fixture(autouse=True)
def few_channels_are_packed_too(monkeypatch):
    """Small networks are to take the path of large ones."""
    monkeypatch.setattr("spikediff.events.compile.FEWEST_CHANNELS", 1)
