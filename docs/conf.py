"""Sphinx configuration of the documentation site: `make docs` builds it, without a network, into build/docs."""

from __future__ import annotations

from pathlib import Path

import cryoflow
from cryoflow.cli.reference import write as write_reference

project = "cryoflow"
author = "the cryoflow authors"
version = release = cryoflow.__version__
copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["*.py", "_build", "examples/sites/*"]
default_role = "code"  # single backticks in docstrings
html_theme = "furo"
html_title = f"cryoflow {release}"
html_logo = None
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # tests/test_examples.py executes the notebooks; the site shows them as they are

napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False
napoleon_preprocess_types = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
autosummary_generate = False

PAGES = {"../SECURITY.md": "security.md", "../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changelog.md"}
"""Files of the top folder that the site has as pages: links lead to the file on a host, and to the page here."""


def setup(app: object) -> None:
    """Write the command-line reference, and lead links to files of the top folder to their pages."""
    write_reference(Path(__file__).parent / "reference")

    def lead(_app: object, _name: str, source: list[str]) -> None:
        for file, page in PAGES.items():
            source[0] = source[0].replace(f"]({file})", f"]({page})")

    app.connect("source-read", lead)  # type: ignore[attr-defined]
