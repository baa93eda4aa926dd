"""Whatever happens to statements, front ends and the database, no rule of the store is broken.

``POPSERV_SIMULATIONS`` in the environment is the number of simulations, for a longer test.
"""

import os
import random
from unittest import mock

from popserv.maildrops.sql import delivery, mailbox, statements
from tests.maildrops.sql.harness import SQLCase
from tests.maildrops.sql.simulation import Simulation, Violation

SIMULATIONS = int(os.environ.get("POPSERV_SIMULATIONS", "60"))
STEPS = 100

CONTROLS = 300
"""The simulations in which a fault must be found."""

COUNTED = "lpad(to_hex(('x' || right(state::text, 12))::bit(48)::bigint + 1), 32, '0')::uuid"


class ModelTests(SQLCase):
    """Simulations, each of which a number decides; a failure names it."""

    def simulate(self, seed):
        """Run a simulation; return how often what has happened."""
        self.sql("DELETE FROM body")
        self.sql("DELETE FROM message")
        self.sql("DELETE FROM maildrop")
        simulation = Simulation(self.connection, random.Random(seed))
        try:
            simulation.run(STEPS)
        except Violation as violation:
            raise Violation(f"simulation {seed}: {violation}") from violation
        return simulation.counts

    def test_model(self):
        """No session shows, reads or removes what it must not, and all of that happens."""
        together = {}
        for seed in range(SIMULATIONS):
            for event, count in self.simulate(seed).items():
                together[event] = together.get(event, 0) + count
        for event in ("in use", "login", "login failed", "removed", "removal failed", "read"):
            self.assertGreater(together.get(event, 0), SIMULATIONS // 10, together)

    def find_fault(self):
        """Return the first violation that simulations find."""
        for seed in range(CONTROLS):
            try:
                self.simulate(seed)
            except Violation as violation:
                return str(violation)
        return None

    def test_no_token(self):
        """A removal that did not check the token would be found."""
        careless = statements.REMOVE.replace("AND holder = $2::uuid", "AND $2::uuid IS NOT NULL")
        self.assertNotEqual(careless, statements.REMOVE)
        with mock.patch.object(mailbox, "REMOVE", careless):
            self.assertIn("not the holder", self.find_fault())

    def test_counted_state(self):
        """A state that is counted would be found."""
        counted = statements.DELIVER.replace("gen_random_uuid()", COUNTED)
        self.assertNotEqual(counted, statements.DELIVER)
        with (
            mock.patch.object(delivery, "DELIVER", counted),
            mock.patch.object(statements, "DELIVER", counted),
        ):
            self.assertIn("shows", self.find_fault())
