"""How PostgreSQL executes the statements: by indexes, whatever the number of maildrops."""

import re

from popserv.maildrops.sql import statements
from tests.maildrops.sql.harness import SQLCase

STATEMENTS = {
    name: text for name, text in vars(statements).items() if name.isupper() and name != "USERS"
}


class PlanTests(SQLCase):
    """The plans of all statements but the one that lists all users."""

    async def test_indexes(self):
        """No statement reads a table from its beginning, or an index without a condition."""
        self.sql("SET plan_cache_mode = force_generic_plan")
        # The tables are empty or small: what is avoided at any cost is avoided in large ones.
        for method in ("seqscan", "hashjoin", "mergejoin"):
            self.sql(f"SET enable_{method} = off")
        self.addCleanup(self.sql, "RESET ALL")
        for name, statement in STATEMENTS.items():
            with self.subTest(name):
                self.sql(f"PREPARE _{name} AS {statement}")
                count = max(map(int, re.findall(r"\$(\d+)", statement)))
                nulls = ", ".join(["NULL"] * count)
                plan = self.sql(f"EXPLAIN EXECUTE _{name} ({nulls})")
                lines = [line for (line,) in plan]
                text = "\n".join(lines)
                self.assertNotIn("Seq Scan on", text)
                for at, line in enumerate(lines):
                    if re.search(r"Index (Only )?Scan", line):
                        self.assertIn("Index Cond", lines[at + 1], f"{name}:\n{text}")
