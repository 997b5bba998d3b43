"""Where the tests of feature networks find weights and data that the repository does not hold."""

import os
from pathlib import Path

import pytest


def folder_named_by(variable):
    folder = Path(os.environ.get(variable) or "nowhere")
    if not folder.is_dir():
        pytest.skip(f"set {variable} to the folder")
    return folder


@pytest.fixture(scope="session")
def feature_weights():
    return folder_named_by("SPIKEDIFF_FEATURE_WEIGHTS")


@pytest.fixture(scope="session")
def data_dir():
    return folder_named_by("SPIKEDIFF_DATA")
