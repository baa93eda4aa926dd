"""How PostgreSQL executes the statements: by indexes, whatever the number of maildrops."""

import re

from popserv.maildrops.sql import statements
from tests.maildrops.sql.harness import SQLCase

STATEMENTS = {
    name: text for name, text in vars(statements).items() if name.isupper() and name != "USERS"
}


class PlanTests(SQLCase):
    """The plans of all statements but the one that lists all users."""

    def fill(self):
        """Fill the tables, since small ones are read as a whole, and let PostgreSQL count them."""
        self.sql(
            "INSERT INTO maildrop (name, state, epoch)"
            " SELECT int4send(n), gen_random_uuid(), gen_random_uuid()"
            " FROM generate_series(1, 10000) AS n"
        )
        self.sql(
            "INSERT INTO message (maildrop, position, id, octets, stored, header_ends, digest,"
            " inline, uidl)"
            " SELECT id, position, gen_random_uuid(), 9, 9, true, '', position = 1,"
            " int8send(position)"
            " FROM maildrop, generate_series(1, 2) AS position"
        )
        self.sql("INSERT INTO body SELECT maildrop, position, '' FROM message WHERE inline")
        self.sql("INSERT INTO doomed (key, due) SELECT gen_random_uuid(), now() FROM maildrop")
        self.sql("VACUUM (ANALYZE) maildrop, message, body, doomed")

    async def test_indexes(self):
        """No statement reads a table from its beginning, or an index without a condition.

        Messages are listed from the primary key, which has all their columns, not from the table.
        """
        self.fill()
        self.sql("SET plan_cache_mode = force_generic_plan")
        # What is avoided at any cost here is avoided in larger tables.
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
                for line, following in zip(lines, [*lines[1:], ""], strict=True):
                    self.assertNotIn("Seq Scan on", line)
                    if re.search(r"Index (Only )?Scan", line):
                        self.assertIn("Index Cond", following, line)
                if name == "LIST":
                    self.assertIn("Index Only Scan using message_pkey on message", str(lines))
