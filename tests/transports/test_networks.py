"""The network of a client."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from popserv.transports.networks import Networks, parse_network
from popserv.transports.peers import ProxiedAddress


def network_of(networks, host):
    """Return the network of a client with that address."""
    return networks.of(IPv6Address("TCP", host, 1))


class ParseTests(SynchronousTestCase):
    """parse_network."""

    def test_networks(self):
        """An address is a network; bits after the prefix, zones and the notation do not matter."""
        for text, network in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.1/24", "192.0.2.0/24"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("2001:DB8:0::1", "2001:db8::1/128"),
            ("::1/24", "::/24"),
            ("fe80::1%eth0", "fe80::1/128"),
        ]:
            self.assertEqual(parse_network(text), ip_network(network))

    def test_others(self):
        """Anything else is no network."""
        for text in ("", "ann", "192.0.2", "192.0.2.1/33", "::/x", "1", "/24", "192.0.2.1/24/24"):
            self.assertIsNone(parse_network(text), text)


class NetworksTests(SynchronousTestCase):
    """Networks.of."""

    def test_networks(self):
        """A network is one IPv4 address, in either notation, or an IPv6 /64."""
        networks = Networks()
        for host, network in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8:0:0:ffff::", "2001:db8::/64"),
            ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
            ("fe80::1%eth0", "fe80::/64"),
        ]:
            self.assertEqual(network_of(networks, host), network)

    def test_no_network(self):
        """Loopback addresses and addresses that are not IP have no network."""
        networks = Networks()
        for peer in (
            IPv4Address("TCP", "127.9.9.9", 1),
            IPv6Address("TCP", "::1", 1),
            IPv6Address("TCP", "::ffff:127.0.0.1", 1),
            UNIXAddress(b"/s"),
            UNIXAddress(None),
            object(),
        ):
            self.assertIsNone(networks.of(peer))

    def test_trusted(self):
        """Trusted networks have no network; all others have one."""
        networks = Networks([ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
        for host in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8:7::1", "127.0.0.1"):
            self.assertIsNone(network_of(networks, host))
        for host in ("192.0.3.1", "2001:db9::1"):
            self.assertIsNotNone(network_of(networks, host))

    def test_proxied(self):
        """A loopback address that a proxy reports is a network, unless it is trusted itself."""
        networks = Networks()
        trusting = Networks([ip_network("127.0.0.0/8"), ip_network("::1")])
        for host, network in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.9.9.9", "127.9.9.9"),
            ("::1", "::/64"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("192.0.2.1", "192.0.2.1"),
        ]:
            address = ProxiedAddress(host, 1)
            # The same address of a connection, looked up before, makes no difference.
            network_of(networks, host)
            self.assertEqual(networks.of(address), network)
            self.assertEqual(trusting.of(address), network if host == "192.0.2.1" else None)

    @given(st.ip_addresses(), st.ip_addresses())
    def test_model(self, one, other):
        """Two clients are in one network if the first 32 or 64 bits are the same."""
        networks = Networks()
        mapped = [getattr(each, "ipv4_mapped", None) or each for each in (one, other)]
        names = [network_of(networks, str(each)) for each in mapped]
        for each, name in zip(mapped, names, strict=True):
            self.assertEqual(name is None, each.is_loopback)
            if name is not None:
                self.assertIn(each, ip_network(name))
                bits = 32 if each.version == 4 else 64
                self.assertEqual(ip_network(name).prefixlen, bits)
        if None not in names and mapped[0] != mapped[1]:
            same = {(each.version, int(each) >> (each.max_prefixlen // 2)) for each in mapped}
            is_same = len(same) == 1 and mapped[0].version == 6
            self.assertEqual(names[0] == names[1], is_same)

    def test_adjacent(self):
        """The last address of a /64 and the first address of the next are in two networks."""
        border = int(ip_address("2001:db8:0:1::"))
        networks = Networks()
        names = {network_of(networks, str(ip_address(border + n))) for n in (-1, 0, 1)}
        self.assertEqual(names, {"2001:db8::/64", "2001:db8:0:1::/64"})
