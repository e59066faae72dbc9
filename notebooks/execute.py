"""Execute a notebook in a real Jupyter kernel, on a local cloud of its own, and keep the outputs.

    .venv/bin/python notebooks/execute.py notebooks/quickstart.ipynb

The local cloud and all state live in a temporary directory and are gone afterwards.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from fleetctl import local

CELL_SECONDS = 120


def execute(path: Path, home: Path) -> NotebookNode:
    """The notebook at `path` with the outputs of a run whose state is in `home`; its local cloud goes on running.

    Raises nbclient's CellExecutionError at the first cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as elsewhere:  # the kernel finds nothing by where it was started
        sockets = {"transport": "ipc", "ip": f"{elsewhere}/kernel"}  # no TCP port: nobody else on this computer can talk to it
        config = Config({"KernelManager": sockets})
        client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, config=config)
        return client.execute(cwd=elsewhere, env={**os.environ, "FLEETCTL_HOME": str(home)})


def main(path: Path) -> None:
    """Execute the notebook and write it back."""
    with tempfile.TemporaryDirectory(prefix="fleetctl-notebook-") as home:
        try:
            notebook = execute(path, Path(home))
        finally:
            local.down(Path(home) / "local", force=True)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
