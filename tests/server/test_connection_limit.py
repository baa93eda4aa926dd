"""Which connection is evicted: the oldest one of the network that has most of them."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.server.connection_limit import Connections, CountedConnections


class ConnectionsTests(SynchronousTestCase):
    """Connections."""

    def connections(self, *pairs):
        """Return Connections of (connection, network)."""
        connections = Connections()
        for connection, network in pairs:
            connections.add(connection, network)
        return connections

    def evict_all(self, connections):
        """Return all unauthenticated connections in the order of their eviction."""
        return list(iter(connections.evict, None))

    def test_flood(self):
        """Of a network with many connections, the oldest ones are evicted."""
        connections = self.connections((1, "a"), *((n, "flood") for n in range(2, 6)), (6, "b"))
        self.assertEqual([connections.evict() for _ in range(3)], [2, 3, 4])
        connections.add(7, "flood")
        self.assertEqual(connections.evict(), 5)
        self.assertEqual(len(connections), 3)

    def test_same_size(self):
        """Of groups with one connection each, the oldest connection is evicted."""
        connections = self.connections((1, "a"), (2, None), (3, "b"), (4, None))
        self.assertEqual(self.evict_all(connections), [1, 2, 3, 4])

    def test_renewed(self):
        """A connection that is renewed is the youngest, in its group and of those of its size."""
        connections = self.connections((1, "a"), (2, "b"), (3, "c"), (4, "c"))
        connections.renew(3)
        connections.renew(1)
        self.assertEqual([*connections], [2, 4, 3, 1])
        self.assertEqual(self.evict_all(connections), [4, 2, 1, 3])
        connections.renew(1)
        self.assertEqual(len(connections), 0)

    def test_no_network(self):
        """Connections without a network do not form a common group."""
        connections = self.connections(*((n, None) for n in range(9)), (10, "a"), (11, "a"))
        self.assertEqual(connections.evict(), 10)
        self.assertEqual(connections.evict(), 0)

    def test_authenticated(self):
        """An authenticated connection is not evicted, but counts until it is removed."""
        connections = self.connections((1, "a"), (2, "a"), (3, "b"))
        connections.mark_authenticated(1)
        connections.mark_authenticated(1)
        self.assertEqual(connections.authenticated_count, 1)
        self.assertEqual(self.evict_all(connections), [3, 2])
        self.assertEqual((len(connections), connections.evict()), (1, None))
        self.assertEqual(connections.authenticated_count, 1)
        connections.remove(1)
        self.assertEqual(len(connections), 0)

    def test_removed(self):
        """A removed or evicted connection may be removed or authenticated again without effect."""
        connections = self.connections((1, "a"))
        connections.remove(1)
        connections.remove(1)
        connections.mark_authenticated(1)
        self.assertEqual((len(connections), connections.evict()), (0, None))

    def test_constant_time(self):
        """Nothing is looked for from the front of a dict, whose deleted keys are passed over."""
        connections = self.connections(*((n, f"network {n % 3}") for n in range(9)))
        groups = connections._unauthenticated.values()
        for each in (*groups, *connections._groups_by_size):
            self.assertIsInstance(each, OrderedDict)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["add", "authenticate", "remove", "pop"]),
                st.integers(0, 12),
                st.sampled_from(["a", "b", "c", None]),
            )
        )
    )
    def test_model(self, steps):
        """The evicted connection is always the oldest of a group of the largest size."""
        connections = Connections()
        # In order of age: the group of each, None if it is authenticated.
        model = {}
        for step, connection, network in steps:
            group = network or connection
            if step == "add" and connection not in model:
                connections.add(connection, network)
                model[connection] = group
            elif step == "authenticate":
                connections.mark_authenticated(connection)
                if connection in model:
                    model[connection] = None
            elif step == "remove":
                connections.remove(connection)
                model.pop(connection, None)
            elif step == "pop":
                unauthenticated = [group for group in model.values() if group is not None]
                largest = max(map(unauthenticated.count, unauthenticated), default=0)
                oldest = {}
                for each, group in model.items():
                    if group is not None and unauthenticated.count(group) == largest:
                        oldest.setdefault(group, each)
                found = connections.evict()
                self.assertIn(found, set(oldest.values()) or {None})
                model.pop(found, None)
            self.assertEqual((len(connections), set(connections)), (len(model), set(model)))
        self.assertEqual(
            set(self.evict_all(connections)), {c for c, group in model.items() if group is not None}
        )
        self.assertEqual((connections._unauthenticated, connections._groups_by_size), ({}, [{}]))


class CountedConnectionsTests(SynchronousTestCase):
    """CountedConnections."""

    def test_totals(self):
        """All that were added, have logged in and were evicted are counted, not those there are."""
        connections = CountedConnections()
        for each in range(3):
            connections.add(each, None)
        connections.mark_authenticated(0)
        self.assertEqual([connections.evict() for _ in range(3)], [1, 2, None])
        connections.remove(0)
        self.assertEqual(
            (connections.accepted, connections.logins, connections.evicted, len(connections)),
            (3, 1, 2, 0),
        )

    def test_numbers(self):
        """Each connection has a number while it is there, which no other one gets after it."""
        connections = CountedConnections()
        for each in "abc":
            connections.add(each, each)
        self.assertEqual(connections.by_number, {1: "a", 2: "b", 3: "c"})
        connections.remove("b")
        connections.remove("b")
        connections.add("d", "d")
        self.assertEqual(connections.by_number, {1: "a", 3: "c", 4: "d"})
        self.assertEqual(connections.evict(), "a")
        self.assertEqual(connections.by_number, {3: "c", 4: "d"})
