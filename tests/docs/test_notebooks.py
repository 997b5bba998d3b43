"""The notebooks run, at a small size, and are committed with their output."""

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SMALLER = {"STEPS = 300": "STEPS = 2", "num_inference_steps=10": "num_inference_steps=2"}
QUICK = {  # the others are slow
    "train_your_own": {
        **SMALLER,
        "range(10)": "range(2)",
        "[0, 1] * 5": "[0, 1]",
        '"training.steps": STEPS': '"training.steps": STEPS, "data.batch_size": 8, '
        '"sampling.num_images": 1, "sampling.num_inference_steps": 1, '
        '"model.block_out_channels": [4, 8], "model.layers_per_block": 1',
    }
}


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
)
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a notebook may change it, too
    monkeypatch.setenv("SPIKEDIFF_CACHE", str(tmp_path / "cache"))
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for cell in code_cells(path):
        source = "".join(cell["source"])
        for written, smaller in QUICK.get(path.stem, SMALLER).items():
            source = source.replace(written, smaller)
        exec(compile(source, path.name, "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_committed_with_output(path):
    assert path.stat().st_size < 300_000
    cells = code_cells(path)
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in o.get("data", {}) for c in cells for o in c["outputs"])
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
