"""The address of the control socket."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.control.endpoint import DEFAULT_ENDPOINT, socket_path, with_mode


class EndpointTests(SynchronousTestCase):
    """Endpoints of the control socket."""

    def test_path(self):
        """The path of a UNIX endpoint is found, whatever options and escapes it has."""
        for endpoint, path in [
            (DEFAULT_ENDPOINT, "/run/popserv/control"),
            ("unix:ctl:mode=660", "ctl"),
            ("unix:address=/tmp/ctl:lockfile=0", "/tmp/ctl"),
            ("unix:mode=660:address=/tmp/ctl", "/tmp/ctl"),
            ("unix:/tmp/ctl:660", "/tmp/ctl"),
            (r"unix:/tmp/a\=b", "/tmp/a=b"),
            # Only the first one comes after a name, as with Twisted.
            ("unix:address=/tmp/a=b=c", "/tmp/a=b=c"),
            (r"unix:/a\:b\\c", r"/a:b\c"),
        ]:
            self.assertEqual(socket_path(endpoint), path)

    def test_invalid(self):
        """Other endpoints, which have no permissions, are refused."""
        for endpoint in (
            "tcp:9110",
            "unix",
            "unix:",
            "unix:mode=600",
            "unixes:/x",
            "/run/control",
            "",
        ):
            with self.assertRaisesRegex(ValueError, "is no UNIX socket"):
                socket_path(endpoint)

    def test_mode(self):
        """The mode is 0600 unless another one is given."""
        self.assertEqual(with_mode("unix:/x"), "unix:/x:mode=600")
        self.assertEqual(with_mode(r"unix:/x\:mode=1"), r"unix:/x\:mode=1:mode=600")
        self.assertEqual(with_mode("unix:address=/x"), "unix:address=/x:mode=600")
        for endpoint in ("unix:/x:mode=660", "unix:/x:660", "unix:mode=660:address=/x"):
            self.assertEqual(with_mode(endpoint), endpoint)
