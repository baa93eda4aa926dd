"""Who makes room: the oldest stranger of the network that has most of them."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.server.connections import Connections


class CrowdTests(SynchronousTestCase):
    """Crowd."""

    def crowd(self, *strangers):
        """Return a crowd of (connection, network)."""
        crowd = Connections()
        for connection, network in strangers:
            crowd.add(connection, network)
        return crowd

    def popped(self, crowd):
        """Return all who would make room, one after the other."""
        return list(iter(crowd.evict, None))

    def test_flood(self):
        """A network that floods pushes out its own, the oldest first."""
        crowd = self.crowd((1, "a"), *((n, "flood") for n in range(2, 6)), (6, "b"))
        self.assertEqual([crowd.evict() for _ in range(3)], [2, 3, 4])
        crowd.add(7, "flood")
        self.assertEqual(crowd.evict(), 5)
        self.assertEqual(len(crowd), 3)

    def test_all_alike(self):
        """Of many networks with one each, and of those that stand for many, the oldest goes."""
        crowd = self.crowd((1, "a"), (2, None), (3, "b"), (4, None))
        self.assertEqual(self.popped(crowd), [1, 2, 3, 4])

    def test_many_behind_one(self):
        """Who has no network of their own is not taken for the crowd that comes from there."""
        crowd = self.crowd(*((n, None) for n in range(9)), (10, "a"), (11, "a"))
        self.assertEqual(crowd.evict(), 10)
        self.assertEqual(crowd.evict(), 0)

    def test_settled(self):
        """Who has logged in makes no room, but takes up some until it goes."""
        crowd = self.crowd((1, "a"), (2, "a"), (3, "b"))
        crowd.mark_authenticated(1)
        crowd.mark_authenticated(1)
        self.assertEqual(self.popped(crowd), [3, 2])
        self.assertEqual((len(crowd), crowd.evict()), (1, None))
        crowd.remove(1)
        self.assertEqual(len(crowd), 0)

    def test_gone(self):
        """Who has gone, or made room, may log in or go again without a trace."""
        crowd = self.crowd((1, "a"))
        crowd.remove(1)
        crowd.remove(1)
        crowd.mark_authenticated(1)
        crowd.change_network(1, "b")
        self.assertEqual((len(crowd), crowd.evict()), (0, None))

    def test_moved(self):
        """A stranger whose network comes to be known is of that one; who is in stays in."""
        crowd = self.crowd((1, "proxy"), (2, "proxy"), (3, "proxy"), (4, "a"))
        crowd.mark_authenticated(1)
        for connection in (1, 2):
            crowd.change_network(connection, "a")
        self.assertEqual(self.popped(crowd), [4, 3, 2])
        self.assertEqual(len(crowd), 1)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["add", "settle", "remove", "move", "pop"]),
                st.integers(0, 12),
                st.sampled_from(["a", "b", "c", None]),
            )
        )
    )
    def test_model(self, steps):
        """Whatever happens, no other than the oldest of a largest network makes room."""
        crowd = Connections()
        # In order of age: where each is, None if it has logged in.
        model = {}
        for step, connection, network in steps:
            place = network or connection
            if step == "add" and connection not in model:
                crowd.add(connection, network)
                model[connection] = place
            elif step == "move":
                crowd.change_network(connection, network)
                if model.get(connection) is not None:
                    del model[connection]
                    model[connection] = place
            elif step == "settle":
                crowd.mark_authenticated(connection)
                if connection in model:
                    model[connection] = None
            elif step == "remove":
                crowd.remove(connection)
                model.pop(connection, None)
            elif step == "pop":
                strangers = [place for place in model.values() if place is not None]
                most = max(map(strangers.count, strangers), default=0)
                oldest = {}
                for each, place in model.items():
                    if place is not None and strangers.count(place) == most:
                        oldest.setdefault(place, each)
                found = crowd.evict()
                self.assertIn(found, set(oldest.values()) or {None})
                model.pop(found, None)
            self.assertEqual((len(crowd), set(crowd)), (len(model), set(model)))
        self.assertEqual(
            set(self.popped(crowd)), {c for c, place in model.items() if place is not None}
        )
        self.assertEqual((crowd._unauthenticated, crowd._groups_by_size), ({}, [{}]))
