"""Tables."""

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.template import tags

from popserv.status_page.tables import Column, Style, table
from tests.status_page.harness import parsed_xml


class TableTests(SynchronousTestCase):
    """Headers and cells."""

    def setUp(self):
        """Make a table."""
        columns = [Column("User"), Column("Messages", Style.NUMBER)]
        self.table = parsed_xml(
            self, table(columns, [["ann", "7"], ["b\n<b>", None], [tags.i("x"), ""]], "Two users")
        )

    def test_headers(self):
        """Columns have headers, and the first cell of each row is its header."""
        columns = self.table.findall("thead/tr/th")
        self.assertEqual([each.text for each in columns], ["User", "Messages"])
        self.assertEqual({each.get("scope") for each in columns}, {"col"})
        rows = self.table.findall("tbody/tr/th")
        self.assertEqual({each.get("scope") for each in rows}, {"row"})
        self.assertEqual(self.table.find("caption").text, "Two users")

    def test_cells(self):
        """A text is shown in one line, None as a dash, and a tag as it is."""
        rows = self.table.findall("tbody/tr")
        self.assertEqual(
            [["".join(cell.itertext()) for cell in row] for row in rows],
            [["ann", "7"], ["b\\n<b>", "\u2013"], ["x", ""]],
        )

    def test_narrow(self):
        """Each cell has the label that it shows on a narrow screen, and the style of its column."""
        cells = self.table.findall("tbody/tr/td")
        self.assertEqual({each.get("data-label") for each in cells}, {"Messages"})
        self.assertEqual(
            [each.get("class") for each in cells], ["number", "number absent", "number"]
        )

    def test_columns(self):
        """A row has as many cells as there are columns."""
        with self.assertRaises(ValueError):
            table([Column("User")], [["ann", "7"]], "")
