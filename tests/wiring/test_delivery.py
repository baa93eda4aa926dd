"""Tests of popserv.wiring.delivery."""

import os

from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.core.user_folder import UserFolder
from popserv.delivery.addresses import Address
from popserv.wiring.delivery import make_lmtp_factory
from tests.options.harness import OptionsCase


class LMTPFactoryTests(OptionsCase):
    """make_lmtp_factory."""

    def factory(self, *arguments):
        """Return the factory for these options, and a user."""
        options = self.parse("--lmtp=unix:/run/l", *arguments)
        set_secret(default_path(options["maildir"]), b"ann@example.org", b"{PLAIN}x", new=True)
        return make_lmtp_factory(options), options

    async def find(self, factory, local_part, domain=b""):
        """Return the user whom an address means."""
        address = Address(b"", local_part, domain)
        return (await factory.recipients.find(address)).user

    async def test_defaults(self):
        """Recipients are those who can log in, by their addresses."""
        factory, options = self.factory("--hostname=mail.example.org")
        self.assertIs(factory.store, options.store)
        self.assertEqual((factory.host, factory.max_octets), (b"mail.example.org", 100_000_000))
        self.assertEqual(await self.find(factory, b"ann", b"example.org"), b"ann@example.org")

    async def test_names(self):
        """The options say which part of an address is the name."""
        factory, _ = self.factory(
            *("--recipient-local-part", "--default-domain=example.org", "--recipient-delimiter=+"),
            "--message-size-limit=5",
        )
        self.assertEqual(factory.max_octets, 5)
        self.assertEqual(await self.find(factory, b"ann+x", b"example.net"), b"ann@example.org")

    async def test_folders(self):
        """With the same delimiter as in logins, the folder gets the mail."""
        ann = b"ann@example.org"
        for delimiter, expected in ((b"+", UserFolder(ann, b"Lists")), (b"-", ann)):
            factory, options = self.factory(
                "--recipient-delimiter=+", f"--folder-delimiter={delimiter.decode()}"
            )
            os.makedirs(
                os.path.join(options["maildir"], "ann@example.org", ".Lists"), exist_ok=True
            )
            found = await self.find(factory, b"ann+Lists", b"example.org")
            self.assertEqual(found, expected)
            os.unlink(default_path(options["maildir"]))
