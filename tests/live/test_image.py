"""The image of contrib/Containerfile: built, and its server run read-only and without privileges.

The images of Python that it is made from cannot be had everywhere, so that their place is taken by
one that has the Python, pip and compiler of this machine's Debian.
"""

import os
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.users_file_editing import set_secret
from tests.live.harness import deliver, require_programs, run, temporary_directory
from tests.live.test_packaging import copy_checkout

PACKAGES = (
    *("base-files", "coreutils", "dash", "gcc", "grep", "libc6-dev", "login", "passwd", "sed"),
    *("python3", "python3-dev", "python3-pip"),
)

FILES = r"""
set -eu
apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "$@" | grep '^[a-z]' | sed 's/:.*//' | sort -u >wanted
dpkg-query --show --showformat '${Package}\n' | sort -u | comm -12 wanted - |
    xargs dpkg --listfiles | grep '^/' |
    grep -v -E '^/(usr/)?share/(doc|man|locale)/|/EXTERNALLY-MANAGED$|^/(\.|bin|sbin|lib|lib64)$' |
    sed 's,^/,,; s,^\(bin\|sbin\|lib\|lib64\)/,usr/&,' | sort -u >files
"""
"""Writes the list of the files of packages and of all that they depend on."""

BUILD = r"""
set -eu
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
buildah="buildah --root $PWD/storage --runroot $PWD/run"
container=$($buildah from scratch)
root=$($buildah mount "$container")
for name in bin sbin lib lib64; do
    ln -s usr/$name "$root"
done
tar --create --directory / --no-recursion --ignore-failed-read --files-from files 2>/dev/null |
    tar --extract --directory "$root"
mkdir -p "$root/usr/local/bin"
install -d -m 1777 "$root/tmp"
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
echo root:x:0:0::/root:/bin/sh >"$root/etc/passwd"
echo root:x:0: >"$root/etc/group"
base=$($buildah commit --quiet "$container")
for name in $(sed -n 's/^FROM \([^ ]*\).*/\1/p' "$1/contrib/Containerfile"); do
    $buildah tag "$base" "docker.io/library/$name"
done
$buildah build --pull-never --isolation chroot --network host --format docker --tag popserv \
    --volume /etc/ssl/certs:/etc/ssl/certs:ro --file "$1/contrib/Containerfile" "$1"
exec unshare --net sh -c "$2"
"""
"""Builds the image from a copy of the checkout, $1, and runs the script $2 in a network."""

RUN = r"""
set -u
podman="podman --root $PWD/storage --runroot $PWD/run"
ip link set lo up
$podman run --cgroups disabled --ulimit nofile=1024 --ulimit nproc=1024 --detach --name popserv \
    --read-only --cap-drop ALL --network host --volume "$PWD/mail:/mail" popserv >/dev/null
for attempt in $(seq 100); do
    ! $podman logs popserv 2>&1 | grep -q 'running as' || break
    sleep 0.2
done
$podman healthcheck run popserv
echo "healthy: $?"
curl --silent --show-error --user joe:secret pop3://127.0.0.1:1110/1 | tr -d '\r'
$podman exec popserv grep -E '^(Uid|Gid|CapEff|CapPrm|CapBnd):' /proc/1/status
$podman exec popserv touch /home/vmail/file
$podman exec popserv python -c 'import popserv._speedups'
echo "functions in C: $?"
$podman stop popserv >/dev/null
$podman inspect --format 'exit code: {{.State.ExitCode}}' popserv
$podman logs popserv
"""


class ImageTests(SynchronousTestCase):
    """The image, in namespaces of its own."""

    def setUp(self):
        """Skip the test where no container can run."""
        if os.geteuid() or not Path("/etc/debian_version").exists():
            self.skipTest("root on a Debian machine is required")
        require_programs(self, "buildah", "podman", "crun", "unshare", "ip", "curl")

    def test_server(self):
        """The server serves mail as a user without capabilities, and can write only that."""
        work = temporary_directory(self)
        mail = work / "mail"
        deliver(mail / "joe", [b"hello\n"])
        set_secret(str(mail / ".users"), b"joe", b"{PLAIN}secret", new=True)
        for path in (mail, *mail.rglob("*")):
            os.chown(path, 5000, 5000)
        done = run("sh", "-c", FILES, "sh", *PACKAGES, cwd=work)
        self.assertEqual(done.returncode, 0, done)
        unshare = ("unshare", "--mount", "--propagation", "private", "sh", "-c", BUILD, "sh")
        done = run(*unshare, copy_checkout(), RUN, cwd=work)
        output = done.stdout.decode() + done.stderr.decode()
        for expected in (
            "healthy: 0\nhello\n",
            r"Uid:\s5000\s5000\s5000\s5000\nGid:\s5000\s5000\s5000\s5000\n"
            r"CapPrm:\s0+\nCapEff:\s0+\nCapBnd:\s0+\n",
            "cannot touch '/home/vmail/file': Read-only file system",
            "functions in C: 0\nexit code: 0\n",
            "running as vmail, who also accesses the maildrops",
            '"joe" logged in by PLAIN|"joe" logged in by PASS',
        ):
            self.assertTrue(re.search(expected, output), output)
