"""The users file, and changes of its lines."""

from contextlib import suppress

from popserv.auth.passwords.user_changes import UserChanges
from popserv.auth.passwords.users_file import UsersFileError, parse_user, parse_users
from popserv.core.connection_details import ConnectionDetails
from tests.fuzz.target import Target

_DETAILS = ConnectionDetails(("192.0.2.1", 4321))


def check(text):
    """Every line is a user, a problem, or nothing; no problem shows a secret."""
    users = parse_users(text)
    lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    expected = {}
    for line in lines:
        name, colon, rest = line.removesuffix(b"\r").partition(b":")
        if colon and name and line.strip() and not line.startswith(b"#"):
            expected.setdefault(name, rest.split(b":")[0])
    assert {name: user.password_field for name, user in users.by_name.items()} == expected
    assert users.password_fields.items() <= expected.items()
    for problem in users.problems:
        assert 1 <= problem.line <= len(lines), problem
        assert problem.text.isprintable(), problem
        line = lines[problem.line - 1]
        secret = line.partition(b":")[2].partition(b":")[0].rpartition(b"}")[2]
        if b"S3cr3t" in secret and line.count(b"S3cr3t") == 1:
            assert "S3cr3t" not in problem.text, problem
    for name, user in users.by_name.items():
        # A line that starts with a name's first octets is not that user.
        assert users.find(name) == user
        refusal = user.rules.refusal_of(lambda: _DETAILS, 0)
        assert isinstance(refusal, str)
        assert not user.rules.refusal or refusal == user.rules.refusal
        assert user.maildrop
    users.find(text[:100])
    for line in lines:
        name, colon, record = line.removesuffix(b"\r").partition(b":")
        if colon and name:
            check_changes(name, record)


def check_changes(name, record):
    """A user who is disabled cannot log in, one who is enabled can, and all else stays."""
    before = parse_user(name, record)
    changes = UserChanges(name, "the file")
    disabled = changes.disable()
    for change in (disabled, changes.enable()):
        try:
            record = change(record)
        except UsersFileError:
            return
        user = parse_user(name, record)
        assert user.password_field == before.password_field, record
        assert bool(user.rules.refusal) == (change is disabled), record
    if not before.rules.refusal:
        assert user == before, record
    with suppress(ValueError):
        record = changes.set_secret(b"{PLAIN}new")(record)
        assert parse_user(name, record) == user._replace(password_field=b"{PLAIN}new"), record


TARGET = Target(
    "users",
    check,
    (
        b"ann:{PLAIN}S3cr3t\n# remark\n\nbob:{SHA512-CRYPT}$6$x$y::::::allow_nets=192.0.2.0/24\n",
        b"\xef\xbb\xbfann:{APOP}S3cr3t:1000:1000:Ann:/home/ann:/bin/sh:user=bob nologin\r\n",
        b"a:{X}S3cr3t\na:b\n:c\nd\ne:::::::delay_until=12345+60 popserv_require_tls\n",
        b"u:{SCRAM-SHA-256}4096,c2FsdA==,a,b::::::popserv_since=3d popserv_deleted=keep\n",
        b"v:x::::::popserv_maildrop=/a/b popserv_max_user_sessions=3 allow_real_nets=::1,local\n",
        b"w:x:1:2::::nopassword proxy=y host=h userdb_a=b unknown=S3cr3t user=%u\n",
    ),
    (
        *(b"::::::", b"{PLAIN}", b"allow_nets=", b"delay_until=", b"popserv_", b"user=", b"\r\n"),
        *(b"popserv_maildrop=/", b"popserv_since=", b"popserv_deleted=", b":protected", b"S3cr3t"),
        *(b"popserv_max_user_sessions=", b"popserv_read_only=yes", b"nologin", b"/129", b"::"),
    ),
    max_octets=1024,
    calls_per_octet=60,
)
