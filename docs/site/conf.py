"""Configuration of Sphinx for the documentation site; `make docs` builds it.

The pages are those in docs/, which can be read without the site as well. Only the reference of the
Python packages, the command line and the REST API is rendered from the code.
"""

import re
from importlib.metadata import version as version_of
from pathlib import Path
from urllib.request import urlopen

from sphinx.application import Sphinx
from sphinxcontrib.httpdomain import HTTP_STATUS_CODES

from twinforce_service.embedded import run_in_thread
from twinforce_service.settings import Settings

ROOT = Path(__file__).parents[2]
# A relative link, without one to a heading of the same page: its text, and the path.
_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)[^)]*\)")
OPENAPI = ROOT / "build" / "docs" / "openapi.json"

project = "TwinForce"
author = "the TwinForce developers"
copyright = "the TwinForce developers, BSD-3-Clause"  # noqa: A001 - the name is Sphinx's
version = release = version_of("twinforce")

root_doc = "README"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_external_toc",
    "sphinxarg.ext",
    "sphinxcontrib.openapi",
]
external_toc_path = "site/toc.yml"
exclude_patterns = ["site"]
# The domain of commands has no references that MyST could look for.
suppress_warnings = ["myst.domains"]
# The package of this domain ends at RFC 2616.
HTTP_STATUS_CODES[421] = "Misdirected Request"
HTTP_STATUS_CODES[499] = "Client Closed Request"

# Anchors as on GitHub, which the links between pages use.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath", "html_image"]
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"TwinForce {release}"
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Register what is done before the pages are read, and when each is."""
    app.connect("builder-inited", write_openapi)
    app.connect("source-read", refer_to_repository)


def write_openapi(app: Sphinx) -> None:
    """Write the OpenAPI description of a running service, which reference/rest.md renders."""
    settings = Settings(
        water=False,
        model={"lj": "toy:lennard-jones"},
        compile="off",
        n_threads=1,
        rest_port=0,
        grpc_port=0,
    )
    with run_in_thread(settings) as server, urlopen(f"{server.rest_url}/openapi.json") as reply:  # noqa: S310
        description = reply.read()
    OPENAPI.parent.mkdir(parents=True, exist_ok=True)
    OPENAPI.write_bytes(description)


def refer_to_repository(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace links to what the site does not have, such as files of the code, by their paths."""
    folder = Path(app.env.doc2path(page)).parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(app.srcdir) and not target.is_dir():
            return link[0]
        return f"{link[1]} (`{target.relative_to(ROOT).as_posix()}`)"

    if folder.name != "notebooks":  # whose source is JSON
        source[0] = _LINK.sub(replaced, source[0])
