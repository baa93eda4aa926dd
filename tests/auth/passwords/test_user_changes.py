"""Tests of popserv.auth.passwords.user_changes, with a users file."""

import codecs

from popserv.auth.passwords.user_changes import UserChanges, effective_fields
from popserv.auth.passwords.users_file import UsersFileError
from popserv.auth.passwords.users_file_editing import change_user, read_records
from tests.auth.passwords.test_users_file import UsersFileCase


class FieldsTests(UsersFileCase):
    """Changes of the extra fields in a line, and effective_fields."""

    def edit(self, kind, *arguments):
        """Make a change of Ann's line."""
        change = getattr(UserChanges(b"ann", self.path), kind)(*arguments)
        change_user(self.path, b"ann", change)

    def edited(self, before, edit, *arguments):
        """Return what an edit of Ann's line makes of it, among other lines."""
        around = b"# mine\n%b\nbob:{X}b::::::nologin\nann:{X}second\n"
        self.write(around % before)
        self.edit(edit, *arguments)
        start, end = around.split(b"%b")
        content = self.content()
        self.assertTrue(content.startswith(start) and content.endswith(end), content)
        return content[len(start) : -len(end)]

    def test_set(self):
        """A field is added or replaced; other fields, other columns and the line end stay."""
        for before, words, after in (
            (b"ann:{X}a", [b"nologin"], b"ann:{X}a::::::nologin"),
            (b"ann:{X}a\r", [b"user=x"], b"ann:{X}a::::::user=x\r"),
            (b"ann:", [b"user=x"], b"ann:::::::user=x"),
            (b"ann:{X}a:1:2", [b"user=x"], b"ann:{X}a:1:2::::user=x"),
            (b"ann:{X}a:1:2:g:/h:/s", [b"user=x"], b"ann:{X}a:1:2:g:/h:/s:user=x"),
            (b"ann:{X}a:1:2:g:/h:/s:", [b"user=x"], b"ann:{X}a:1:2:g:/h:/s:user=x"),
            (
                b"ann:{X}a::::::userdb_x=*:y  popserv_since=1d nodelay",
                [b"popserv_since=2d", b"popserv_read_only"],
                b"ann:{X}a::::::userdb_x=*:y nodelay popserv_since=2d popserv_read_only",
            ),
            (b"ann:{X}a::::::user=x user:protected=y", [b"user=z"], b"ann:{X}a::::::user=z"),
            (b"ann:{X}a::::::user=x", [b"user="], b"ann:{X}a"),
            (b"ann:{X}a:1::::/s:user=x", [b"user="], b"ann:{X}a:1::::/s"),
            (b"ann:{X}a:1::::/X:user=x", [b"user="], b"ann:{X}a:1::::/X"),
            (b"ann:{X}a", [b"user="], b"ann:{X}a"),
            (b"ann:{X}a::::::user=x nodelay", [b"user="], b"ann:{X}a::::::nodelay"),
            (b"ann:{X}a::::::surprise", [b"surprise="], b"ann:{X}a"),
        ):
            self.assertEqual(self.edited(before, "set_fields", words), after)

    def test_rejected(self):
        """What is not a field, or would refuse the user, changes nothing; the message says why."""
        for words, reason in (
            ([b""], '"" must be FIELD'),
            ([b"=x"], '"=x" must be FIELD'),
            ([b"user=a b"], "without spaces"),
            ([b"user=a\nroot:x"], "without spaces"),
            ([b"user=a\r"], "without spaces"),
            ([b"surprise"], "unknown extra field surprise"),
            ([b"popserv_quota=1"], "unknown extra field popserv_quota"),
            ([b"popserv_since=30"], "popserv_since: must be a number"),
            ([b"popserv_read_only=maybe"], "popserv_read_only: must be yes or no"),
            ([b"popserv_nologin=maybe"], "popserv_nologin: must be yes or no"),
            ([b"nodelay", b"fail"], "fail is set"),
            ([b"user=%n"], "variable of Dovecot"),
            ([b"allow_nets=all"], "all is not a network"),
        ):
            self.write(b"ann:{X}a\n")
            error = self.assertRaises(ValueError, self.edit, "set_fields", words)
            self.assertIn(reason, str(error))
            self.assertEqual(self.content(), b"ann:{X}a\n")

    def test_name(self):
        """A name that no user can have is refused, before anybody looks for it."""
        for change in (UserChanges(b"a:b", self.path).add, UserChanges(b"", self.path).set_secret):
            self.assertRaises(ValueError, change, b"{X}a")

    def test_disable(self):
        """A disabled user cannot log in until enabled, whichever field it was."""
        disabled = self.edited(b"ann:{X}a::::::user=x", "disable")
        self.assertEqual(disabled, b"ann:{X}a::::::user=x nologin")
        self.assertEqual(self.edited(disabled, "disable"), disabled)
        self.assertEqual(self.edited(disabled, "enable"), b"ann:{X}a::::::user=x")
        for field in (b"nologin=y", b"popserv_nologin", b"popserv_nologin=yes nologin"):
            self.assertEqual(self.edited(b"ann:{X}a::::::" + field, "enable"), b"ann:{X}a")
        self.assertEqual(self.edited(b"ann:{X}a", "enable"), b"ann:{X}a")

    def test_cannot_enable(self):
        """A user whom another field refuses, or one in another column, stays as it is."""
        for line in (
            b"ann:{X}a::::::nologin fail\n",
            b"ann:{X}a::::::surprise\n",
            b"ann:{X}a:::::nologin:nologin\n",
        ):
            self.write(line)
            error = self.assertRaises(UsersFileError, self.edit, "enable")
            self.assertIn("ann cannot log in for another reason: ", str(error))
            self.assertEqual(self.content(), line)

    def test_no_such_line(self):
        """A user who is not in the file, or has a ninth field alone, is an error."""
        for line, reason in (
            (b"anna:{X}a\n", "user ann is not in"),
            (b"#ann:{X}a\n", "user ann is not in"),
            (b"ann:{X}a:::::::maildir:~/x\n", "has a ninth field, and no eighth one"),
        ):
            self.write(line)
            for edit in ("disable", "enable"):
                error = self.assertRaises(UsersFileError, self.edit, edit)
                self.assertIn(reason, str(error))
            self.assertEqual(self.content(), line)

    def test_effective(self):
        """Fields without an effect are not shown, nor the values of those that refuse."""
        self.write(
            codecs.BOM_UTF8
            + b"ann:{X}a::::::nodelay pass=secret popserv_since=1d password=secret nologin=y "
            b"s3cret user=x\r\nann:{X}b::::::fail\n\nbob:{X}b\n"
        )
        fields = {name: effective_fields(each) for name, each in read_records(self.path).items()}
        self.assertEqual(fields[b"ann"], [b"popserv_since=1d", b"password", b"nologin", b"user=x"])
        self.assertEqual(fields[b"bob"], [])
