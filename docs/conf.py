"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyro_citevae

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "pyro-citevae"
author = "The pyro-citevae developers"
copyright = "the pyro-citevae developers, Apache-2.0"
version = release = pyro_citevae.__version__

extensions = ["myst_nb", "sphinx_design", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_generated", "**/.ipynb_checkpoints", "notebooks/*.py"]
html_theme = "sphinx_book_theme"
html_title = "pyro-citevae"
html_static_path: list[str] = []
html_theme_options = {"use_download_button": True, "show_navbar_depth": 1}

# notebooks lie here as they were executed; `make notebooks` executes them anew
nb_execution_mode = "off"
GENERATED = HERE / "_generated"
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
# links to files of the repository that are no pages
suppress_warnings = ["myst.xref_missing"]

autodoc_typehints = "none"  # shapes stand in the signature; a second list of them would hide the text
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def setup(app: object) -> None:
    """Brings the executed notebooks, and writes the errors' catalogue from the library's source."""
    from catalogue import catalogue

    for notebook in sorted((HERE.parent / "experiments/notebooks").glob("*.ipynb")):
        shutil.copy(notebook, HERE / "notebooks")
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "errors.md").write_text(catalogue(Path(pyro_citevae.__file__).parent))
