"""Executes the notebook of a report on a run, and writes it as a page beside the notebook."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pyro_citevae.environment import unless_set
from pyro_citevae.errors import RunError, reason
from pyro_citevae.infer.run_record import read_record
from pyro_citevae.kinds import MARK, NOTEBOOK, PAGE
from pyro_citevae.report.page import page
from pyro_citevae.whole_files import aside, together

__all__ = ["write"]

_WAY_OUT = "install them by pip install 'pyro-citevae[report]'"


def write(
    run: str | Path, out: str | Path, *, data: str | None = None, draws: int = 200, seed: int = 0
) -> Path:
    """Writes a report on a run: ``out`` is a page by itself, and the notebook lies beside it.

    The page asks for nothing on the network. The notebook has the same cells with their code, to be opened,
    changed and run again.

    Args:
        run: Folder of the run.
        out: The page, such as ``report.html``.
        data: The run's training data, if they are not where they were.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        The notebook.

    Raises:
        RunError: The run does not say where its data are, a package that executes notebooks is missing, what
            lies there is no report, or a cell failed; the notebook is kept then, with the error in it, and a
            page that was there stays as
            it was.
    """
    try:
        import jupytext
        from jupyter_client.kernelspec import NoSuchKernel
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillExecutionError
        from papermill.execute import execute_notebook
    except ImportError as error:
        raise RunError(f"a report needs papermill, nbconvert and jupytext ({error}); {_WAY_OUT}.") from error
    if data is None and not (read_record(Path(run)).get("source") or {}).get("path"):
        raise RunError("the run does not say which file it was trained on; name it with data='FILE.h5ad'.")
    out = Path(out).resolve()
    notebook = out.with_suffix(".ipynb")
    text = (resources.files("pyro_citevae.report") / "files" / "report.txt").read_text()
    asked = {"run": str(Path(run).resolve()), "data": data, "draws": draws, "seed": seed}
    empty = jupytext.reads(text, fmt="py:percent")
    empty.metadata[MARK] = NOTEBOOK.words
    places = ((notebook, NOTEBOOK), (out, PAGE))
    try:
        # scanpy's Numba leaves torch's threads as they are
        with together(*places, overwrite=True) as (file, html), unless_set("NUMBA_NUM_THREADS", "1"):
            try:
                executed = execute_notebook(
                    empty,
                    str(file),
                    parameters=asked,
                    kernel_name="python3",
                    progress_bar=False,
                    extra_arguments=["--IPKernelApp.log_level=ERROR"],  # a kernel of this machine alone
                )
            except PapermillExecutionError:
                shown = file.read_bytes()
                raise
            html.write_text(page(executed, f"{Path(run).name}: report"))
    except (NoSuchKernel, DeadKernelError) as error:
        raise RunError(f"the report's notebook could not be run ({reason(error)}); {_WAY_OUT}.") from error
    except PapermillExecutionError as error:
        with aside(notebook, overwrite=True, kind=NOTEBOOK) as file:
            file.write_bytes(shown)
        said = f"{error.ename}: {error.evalue}"
        raise RunError(f"the report failed in a cell ({said}); '{notebook}' shows where.") from error
    return notebook
