"""The notebook: it runs from end to end, and what is committed is whole."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.slow

TOUR = Path(__file__).parents[1] / "pipelines" / "tour.ipynb"


@pytest.fixture
def tour():
    return nbformat.read(TOUR, as_version=4)


def test_the_committed_outputs_are_whole_and_of_no_machine(tour):
    assert TOUR.stat().st_size < 500_000
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
    text = re.sub(r'"image/png": "[^"]*"', "", TOUR.read_text())
    assert not re.search(r'["\s](/[a-z]+){2,}/|[A-Z]:\\\\', text)
    assert sum("image/png" in str(cell.outputs) for cell in cells) >= 8


def test_the_tour_runs_from_end_to_end(tour, tmp_path):
    """On the digits that come with scikit-learn; nothing is left beside the notebook."""
    client = nbclient.NotebookClient(
        tour, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    words = "".join(
        output.get("text", "") for cell in tour.cells for output in cell.get("outputs", [])
    )
    assert "digits: 1,151 images to train on, 287 to choose by" in words
    accuracy = re.search(r"lenet5_int8\.tflite +(\d+\.\d+)%", words)
    assert float(accuracy[1]) > 90
    assert (tmp_path / "runs" / "tour" / "evaluate" / "metrics.json").exists()
