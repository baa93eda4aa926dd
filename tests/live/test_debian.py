"""The Debian package: built twice, checked by lintian, installed, used and purged.

It is installed in an overlay of this machine's file system, and uses a network of its own.
"""

import os
import re
from functools import cache

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import BIN, require_programs, run, temporary_directory
from tests.live.test_packaging import check_output, copy_checkout

PROGRAMS = ("make", "dh", "dpkg-buildpackage", "lintian", "curl", "setpriv", "unshare", "ip")

OUTSIDE = """\
set -eu
mount -t tmpfs none "$1"
cd "$1"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mount -t proc proc root/proc
mount --rbind /dev root/dev
ip link set lo up
cp "$2" root/tmp/popserv.deb
cp "$3" root/tmp/script
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot root sh -eu /tmp/script
"""

INSIDE = """\
files() {
    # Other tests start journald, and write services of PAM.
    find /etc /home /lib/systemd /run /usr /var \
        \\( -path /var/lib/dpkg -o -path /var/tmp -o -path '*/journal*' -o \
        -path '/etc/pam.d/popserv-test-*' \\) -prune -o \
        -path '*popserv*' -print | sort
}

left() {
    echo "left after $1:"
    files | comm -13 /tmp/before -
    id --name --user popserv 2>/dev/null || true
}

deliver() {
    mail=/var/lib/popserv/mail/ann
    install -d -o popserv -g popserv -m 700 $mail $mail/new $mail/cur $mail/tmp
    printf 'Subject: hello\\n\\nIt works.\\n' >$mail/new/1700000000.M1P1.host
    chown popserv: $mail/new/*
}

# What the maintainer scripts and logrotate do where systemd runs, which it does not here.
recorded() {
    echo "$1:"
    shift
    mkdir -p /run/systemd/system
    : >/tmp/calls
    "$@" >/dev/null
    cat /tmp/calls
    rmdir /run/systemd/system
}

upgrade() {
    dpkg-deb --raw-extract /tmp/popserv.deb /tmp/newer
    sed -i 's/^Version: .*/&+1/' /tmp/newer/DEBIAN/control
    dpkg-deb -Znone --build /tmp/newer /tmp/newer.deb
    rm -r /tmp/newer
    dpkg --install /tmp/newer.deb
}

for program in systemctl deb-systemd-invoke; do
    path=$(command -v $program)
    mv "$path" "$path.real"
    printf '#!/bin/sh\necho "%s $*" >>/tmp/calls\n' $program >"$path"
    chmod 755 "$path"
done
files >/tmp/before
dpkg --install /tmp/popserv.deb >/dev/null
stat --format '%A %U %n' /etc/popserv/users /var/lib/popserv/mail /var/log/popserv
deliver
echo secret | popserv user add ann --users /etc/popserv/users
popserv config check --config /etc/popserv/popserv.toml
unit=/lib/systemd/system/popserv.service
user=$(sed -n s/^User=//p $unit)
capability=+net_bind_service
: >/tmp/log
setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps $capability \
    --ambient-caps $capability $(sed -n s/^ExecStart=//p $unit) >/tmp/log 2>&1 &
for attempt in $(seq 100); do
    ! grep -q 'starting on 110' /tmp/log || break
    sleep 0.2
done
curl --silent --show-error --user ann:secret pop3://127.0.0.1/1 || cat /tmp/log
recorded upgrade upgrade
dpkg-query --show --showformat '${Version}\n' popserv | sed 's/.*+1/a newer version/'
stat --format '%A %U %n' /etc/popserv/users
kill $!
{ wait $!; } 2>/dev/null || true
ls /usr/share/man/man1/popserv.1.gz /usr/share/man/man8/twistd-pop3.8.gz
systemd-analyze verify --man=no $unit
install -o popserv -g popserv -m 640 /dev/null /var/log/popserv/popserv.log
logrotate --force /etc/logrotate.d/popserv
echo >>/var/log/popserv/popserv.log
recorded rotation logrotate --force /etc/logrotate.d/popserv
rm /var/log/popserv/popserv.log*
dpkg --remove popserv >/dev/null
left removal
cp /var/lib/dpkg/info/popserv.postrm /tmp/postrm
dpkg --purge popserv >/dev/null
left 'the purge'
mv /var/lib/popserv/mail /srv/mail
ln -s /srv/mail /var/lib/popserv/mail
DPKG_MAINTSCRIPT_PACKAGE=popserv sh /tmp/postrm purge
left 'the purge with a link'
ls /srv/mail
rm -r /srv/mail
dpkg --install /tmp/popserv.deb >/dev/null
dpkg --remove popserv >/dev/null
dpkg --purge popserv >/dev/null
left 'the purge with a broken link'
rm /var/lib/popserv/mail
mkdir /var/lib/popserv/mail
DPKG_MAINTSCRIPT_PACKAGE=popserv sh /tmp/postrm purge
left 'the purge without mail'
"""

EXPECTED = """\
-rw------- popserv /etc/popserv/users
drwxr-x--- popserv /var/lib/popserv/mail
drwxr-x--- popserv /var/log/popserv
Subject: hello

It works.
upgrade:
{calls}a newer version
-rw------- popserv /etc/popserv/users
/usr/share/man/man1/popserv.1.gz
/usr/share/man/man8/twistd-pop3.8.gz
rotation:
systemctl try-reload-or-restart popserv
left after removal:
/etc/logrotate.d/popserv
/etc/popserv
/etc/popserv/popserv.toml
/etc/popserv/users
{mail}{units}/var/log/popserv
popserv
left after the purge:
{mail}popserv
left after the purge with a link:
/var/lib/popserv
/var/lib/popserv/mail
popserv
ann
left after the purge with a broken link:
/var/lib/popserv
/var/lib/popserv/mail
popserv
left after the purge without mail:
popserv
"""

MAIL = "".join(
    f"/var/lib/popserv{path}\n"
    for path in (
        *("", "/mail", "/mail/ann", "/mail/ann/cur", "/mail/ann/new"),
        *("/mail/ann/new/1700000000.M1P1.host", "/mail/ann/tmp"),
    )
)


UNITS = "".join(
    f"/var/lib/systemd/deb-systemd-helper-enabled/{unit}.dsh-also\n"
    for unit in ("popserv-tls.socket", "popserv.service", "popserv.socket")
)


CALLS = """\
systemctl --system daemon-reload
deb-systemd-invoke try-restart popserv.service
"""
"""What an upgrade calls: the service is restarted if it runs, and no socket is touched."""


def build_package(mask=0o022):
    """Run make deb with this umask, in a new copy of the checkout; return the package."""
    copy = copy_checkout()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MAKE"))
    }
    environment |= {"SOURCE_DATE_EPOCH": "1700000000", "TMPDIR": str(temporary_directory())}
    # The environment that runs the tests has what the one of make has.
    make = ("make", "-C", copy, "deb", "-o", ".venv/dev", f"BIN={BIN}")
    check_output(*make, env=environment, umask=mask)
    (package,) = (copy / "dist").glob("*.deb")
    return package


first_package = cache(build_package)


class DebianTests(SynchronousTestCase):
    """The package of this machine's release."""

    def setUp(self):
        """Skip the tests where the package cannot be built or installed."""
        if os.geteuid() or not os.path.exists("/etc/debian_version"):
            self.skipTest("root on a Debian machine is required")
        require_programs(self, *PROGRAMS)

    def test_reproducible(self):
        """Two builds have the same octets, whatever directory and umask they have."""
        one, other = first_package(), build_package(0o077)
        self.assertEqual(one.name, other.name)
        self.assertTrue(one.read_bytes() == other.read_bytes())

    def test_lintian(self):
        """Lintian has no errors and no warnings."""
        done = run("lintian", "--allow-root", "--fail-on", "error,warning", first_package())
        self.assertEqual((done.returncode, done.stdout), (0, b""), done)

    def test_life(self):
        """The package serves mail, is upgraded, and leaves the mail and the user when purged."""
        work = temporary_directory(self)
        script = work.with_suffix(".sh")
        script.write_text(INSIDE)
        self.addCleanup(script.unlink)
        unshare = ("unshare", "--mount", "--net", "sh", "-c", OUTSIDE, "sh")
        done = run(*unshare, work, first_package(), script)
        output = done.stdout.decode().replace("\r\n", "\n")
        self.assertEqual((done.returncode, done.stderr), (0, b""), output)
        self.assertEqual(output, EXPECTED.format(mail=MAIL, units=UNITS, calls=CALLS))

    def test_contents(self):
        """What another package could have as well is not in the package."""
        listing = check_output("dpkg-deb", "--contents", first_package())
        paths = re.findall(r" \./(\S+)(?: -> \S+)?$", listing, re.MULTILINE)
        shared = [path for path in paths if "popserv" not in path and not path.endswith("/")]
        self.assertEqual(shared, ["usr/share/man/man8/twistd-pop3.8.gz"])
