"""Test of a notebook, whose cells run in an event loop."""

import pytest

from tests.ecosystem.conftest import code_below

PROGRAM = "nbclient"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]


def test_cells_that_await(recipe, service, tmp_path):
    """A notebook: a cell awaits the client for asyncio, in the loop of the kernel."""
    import nbformat
    from nbclient import NotebookClient

    del recipe  # it changes to a folder with the demo
    code = code_below("Jupyter", "ipython").replace("grpc://127.0.0.1:8001", service)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)] * 2)
    NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    first, second = (cell.outputs[0]["data"]["text/plain"] for cell in notebook.cells)
    assert float(first) == float(second)
