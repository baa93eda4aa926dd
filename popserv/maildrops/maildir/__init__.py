"""The Maildir store: a directory for each user, with one file for each message in new/ and cur/.

Rules of this package:
 1. Other programs deliver, remove and rename messages (to change flags, or from new/ to cur/) at
    any time and without a lock.  A message is identified by its base name, the file name without
    its info suffix.  If a scan does not find the base name, the message has vanished.
 2. A session renames or removes a file only to remove a message, or to mark it as retrieved; and
    opening a maildrop renames a file only if another one has its base name.
 3. Only regular files are messages.  Messages, new/ and cur/ are opened relative to their parent
    directory, and symbolic links are not followed.
 4. Octets are counted from the bytes of a message, decompressed, once.  The sizes in file names
    are not used.
 5. The exclusive-access lock is flock(2) on the Maildir's directory: it needs neither a lock file
    nor write permission, and the kernel releases it however the process ends.
 6. Everything that may wait for a disk runs in a thread, except opening the file of one message
    and reading data that is in the page cache.
 7. An index is used again only if device, inode and times of new/ and cur/ are those from before
    its scan, and only if every change since is certain to have altered them.
 8. Sizes survive a restart of the server in the size file (listing/size_file.py).  Its list of
    messages replaces a scan only under the conditions of rule 7.
"""

from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir.delivery import Delivery
from popserv.maildrops.maildir.store import MaildirMaildrops

__all__ = ["Delivery", "Layout", "MaildirMaildrops"]
