"""popserv.runtime.permissions."""

import errno
import os
import pwd
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.permissions import (
    can_access,
    can_search,
    describe,
    reason_of,
    this_user,
    user_name,
)


class PermissionTests(SynchronousTestCase):
    """Parts of error messages."""

    def test_user_name(self):
        """A user without a name is named by the uid."""
        self.assertEqual(user_name(0), "root")
        with patch.object(pwd, "getpwuid", side_effect=KeyError):
            self.assertEqual(user_name(12345), "12345")
        self.assertEqual(this_user(), user_name(os.geteuid()))

    def test_reason(self):
        """If permission is missing, the reason names the user who needs it."""
        denied = OSError(errno.EACCES, "Permission denied")
        self.assertEqual(reason_of(denied), f"Permission denied for user {this_user()}")
        self.assertEqual(reason_of(OSError(errno.EIO, "Input/output error")), "Input/output error")
        self.assertEqual(reason_of(OSError("no answer")), "no answer")

    def test_access(self):
        """What the user may do is asked for the user as whom files are accessed."""
        self.assertIs(can_access("/", os.R_OK), True)
        self.assertIs(can_search("/"), True)
        self.assertIs(can_search("/missing"), False)
        with patch.object(os, "access", return_value=True) as access:
            for supported in (True, False):
                with patch.object(os, "supports_effective_ids", {access} if supported else set()):
                    can_access("a", os.W_OK, dir_fd=7)
                access.assert_called_with("a", os.W_OK, dir_fd=7, effective_ids=supported)

    def test_describe(self):
        """The path is absolute; that of a link is the place of the link."""
        here = os.getcwd()
        for arguments, path in [
            (("a",), f"{here}/a: "),
            ((b"/a/../b",), "/b: "),
            (("target", None, "/link"), "/link: "),
            ((7,), ""),
            ((), ""),
        ]:
            self.assertEqual(describe(OSError(5, "Failed", *arguments)), f"{path}Failed")
