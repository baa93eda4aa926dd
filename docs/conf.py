"""Sphinx: ``make docs``."""

from popserv import __version__

project = "popserv"
version = release = __version__
project_copyright = "the popserv authors"
extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "A POP3 server for Twisted", "page_width": "1000px"}
html_show_sourcelink = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
default_role = "code"
