"""Sphinx configuration: committed notebooks and docstrings, shown, not run; all from this site."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from docstrings import as_fields, no_fields  # noqa: E402

from manifold_xai import __version__  # noqa: E402

project = "manifold_xai"
author = "the manifold_xai authors"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.mathjax",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
]
exclude_patterns = ["downloads", "extra", "**.ipynb_checkpoints"]
templates_path = []

# pages
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "stage.anchor"
default_role = "code"

# reference
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False

# look
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_js_files = ["ledger.js"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_context = {"default_mode": "auto"}
html_theme_options = {
    "collapse_navigation": True,
    "show_navbar_depth": 1,
    "home_page_in_toc": False,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 1,
    # sphinx-book-theme 1.4 on pydata-sphinx-theme 0.20 shows a second search box without these
    "navbar_persistent": [],
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
}
pygments_style = "a11y-high-contrast-light"
copybutton_exclude = ".linenos, .gp, .go"

# from this site alone
mathjax_path = "vendor/mathjax/tex-svg-full.js"
mathjax_config_path = str(HERE / "static" / "mathjax_config.js")
nb_ipywidgets_js = {"vendor/widgets/require.js": {}, "loader.js": {}}


def staged(app, config):
    """What lies among the sources, which are not where this file is."""
    config.html_static_path.append(str(app.srcdir / "_static"))
    config.html_extra_path.append(str(app.srcdir / "extra"))


def setup(app):
    app.connect("config-inited", staged)
    app.connect("autodoc-process-docstring", as_fields)
    app.connect("autodoc-skip-member", no_fields)
