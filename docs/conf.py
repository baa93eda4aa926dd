"""The configuration of Sphinx: ``make docs`` builds HTML, ``make man`` the manual pages."""

from datetime import date

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from popserv import __version__

project = "popserv"
version = release = f"popserv {__version__}"
project_copyright = "the popserv authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.graphviz"]
exclude_patterns = ["_build"]
default_role = "code"
# The manual pages must not depend on which builder has read the sources first.
smartquotes = False

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True

graphviz_output_format = "svg"

html_theme = "furo"
html_title = release
html_copy_source = html_show_sourcelink = False

man_pages = [
    ("man/popserv.1", "popserv", "manage the users of a POP3 server, run a POP3 session", "", 1),
    ("man/twistd-pop3.8", "twistd-pop3", "POP3 server for Maildirs", "", 8),
]
man_make_section_directory = False
# The manual pages are committed, so their date is the month that the version names, not today's.
_year, _month = __version__.split(".")[:2]
today = f"{date(2000 + int(_year), int(_month), 1):%B %Y}"


class ForManualPages(SphinxPostTransform):
    """Replaces links within the documentation by their texts, and turns off hyphenation."""

    builders = ("man",)
    default_priority = 900

    def run(self):
        """Change the document of one page."""
        for link in list(self.document.findall(nodes.reference)):
            if link.get("internal"):
                link.replace_self(nodes.emphasis("", "", *link.children))
        # Names of options must not be cut.
        self.document.insert(0, nodes.raw("", ".nh\n", format="manpage"))


def drop_copyright(app):
    """Leave out the section that docutils adds: the manual pages have one on the license."""
    if app.builder.name == "man":
        app.config.copyright = ""


def setup(app):
    """Register what is for manual pages alone."""
    app.add_post_transform(ForManualPages)
    app.connect("builder-inited", drop_copyright)
