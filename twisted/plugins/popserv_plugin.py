"""The plugins of popserv that twistd and ``--auth`` find.

Twisted imports this module to list all plugins, so it imports popserv only where needed.
"""

from pkgutil import resolve_name

from twisted.application.service import ServiceMaker
from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from zope.interface import implementer

popserv = ServiceMaker(
    "popserv",
    "popserv.tap",
    "A POP3 server for Maildirs, with TLS and SASL.",
    "pop3",
)

_USERS_FILE_HELP = """
Checks credentials against a users file in the format of Dovecot's passwd-file,
with one user in each line: name:{SCHEME}secret
The command "popserv user add" creates the file.  Changes take effect at the
next login.  A user with an {APOP} secret can log in by APOP only.  All other
users can log in by password and, depending on their scheme and the options of
the server, by SCRAM, CRAM-MD5 or a client certificate.
"""

_OAUTH_HELP = """
Checks bearer tokens of an OAuth or OpenID provider, for the SASL mechanisms
OAUTHBEARER and XOAUTH2.  The section [oauth] of the file describes who issues
the tokens, and how to verify them: with the provider's keys (jwks), or by a
request to the provider (introspection).  The file is read when the server
starts, and on SIGHUP.  Requires the extra oauth.
"""

_SQL_HELP = """
Checks credentials against the users in an SQL database.  The file has the URL
of the database and a query that returns a user's name, secret and extra fields,
in TOML; see "SQL databases" in the guides.  Changes take effect at the next
login.  Requires the extra sql, and the driver of the database.
"""

_SQL_STORE_HELP = """
Checks credentials against the users in the database of --store sql:FILE, for
whom the command "popserv user add" has the option --store.  They are as those
of a users file, and the same on all hosts.  Changes take effect at the next
login.  It is the default with that store.  Requires the extra sql.
"""

_LDAP_HELP = """
Checks passwords by binding to an LDAP directory as the user.  The file has the
URLs of the servers, and how a user is found, in TOML; see "LDAP directories" in
the guides.  Requires the extra ldap.
"""

_DOVECOT_HELP = """
Asks Dovecot, as Postfix and Exim do, by the socket auth-client of its service
auth.  Dovecot decides who may log in, from which networks, and which user's
maildrop is opened.  AUTH offers the mechanisms that Dovecot offers.  Dovecot
need not run when the server starts; while it does not, logins fail with
[SYS/TEMP].
"""

_CHECKPASSWORD_HELP = """
Runs a program with the interface of qmail's checkpassword for each login.
The program reads the name and the password from descriptor 3, and exits with 1
to refuse them, or with 111 if it cannot tell now; otherwise it runs the command
that is added to its arguments.  The maildrop is that of the user in the
variable USER.  The program may be followed by arguments, quoted as in a shell.
"""

_PAM_HELP = """
Asks a service of PAM, whose file is /etc/pam.d/SERVICE, whether a password is
right and whether the account may be used now.  Most modules require that the
server runs as root, or in the group shadow.  Requires the extra pam, and Linux.
"""


@implementer(ICheckerFactory, IPlugin)
class _CheckerFactory:
    """Makes checkers of one kind.

    ``maker`` names what makes one of the argument of ``--auth``, and ``interfaces`` the interfaces
    of its credentials, or the only one; both are loaded when they are needed.  ``extra`` is the
    extra that ``maker`` requires, if there is one.
    """

    def __init__(self, kind, argument, help_text, maker, interfaces, extra=""):
        self.authType = kind
        self.argStringFormat = argument
        self.authHelp = help_text
        self._maker = maker
        self._interfaces = interfaces
        self._extra = extra

    @property
    def credentialInterfaces(self):
        found = resolve_name(self._interfaces)
        return found if isinstance(found, tuple) else (found,)

    def generateChecker(self, argString):
        try:
            maker = resolve_name(self._maker)
        except ImportError as missing:
            if not self._extra:
                raise
            from popserv.runtime.extras import how_to_install

            raise ImportError(
                f"{missing}; --auth {self.authType} requires the extra {self._extra}; "
                f"run: {how_to_install(self._extra)}"
            ) from missing
        return maker(argString)


_SECRETS = "popserv.auth.passwords.checker:SecretsChecker.credentialInterfaces"
_PASSWORDS = "twisted.cred.credentials:IUsernamePassword"

passwd_file = _CheckerFactory(
    "passwd-file",
    "Path of a users file.",
    _USERS_FILE_HELP,
    "popserv.auth.passwords.file_checker:PasswdFileChecker.from_file",
    _SECRETS,
)
oauth = _CheckerFactory(
    "oauth",
    "Path of a configuration file with a section [oauth].",
    _OAUTH_HELP,
    "popserv.auth.oauth.checker:TokenChecker.from_file",
    "popserv.interfaces:ITokenCredentials",
    extra="oauth",
)
sql = _CheckerFactory(
    "sql",
    "Path of a configuration file in TOML.",
    _SQL_HELP,
    "popserv.auth.sql.checker:SQLChecker.from_file",
    _SECRETS,
    extra="sql",
)
sql_store = _CheckerFactory(
    "sql-store",
    "Path of the file of --store sql.",
    _SQL_STORE_HELP,
    "popserv.auth.accounts.checker:AccountsChecker.from_file",
    _SECRETS,
    extra="sql",
)
ldap = _CheckerFactory(
    "ldap",
    "Path of a configuration file in TOML.",
    _LDAP_HELP,
    "popserv.auth.ldap.checker:LDAPChecker.from_file",
    _PASSWORDS,
    extra="ldap",
)
dovecot = _CheckerFactory(
    "dovecot",
    "Path of Dovecot's socket auth-client.",
    _DOVECOT_HELP,
    "popserv.auth.dovecot.checker:DovecotChecker.from_path",
    "popserv.auth.dovecot.checker:DovecotChecker.credentialInterfaces",
)
checkpassword = _CheckerFactory(
    "checkpassword",
    "Path of a program, and arguments for it.",
    _CHECKPASSWORD_HELP,
    "popserv.auth.services.checkpassword:CheckPasswordChecker.from_argument",
    _PASSWORDS,
)
pam = _CheckerFactory(
    "pam",
    "Name of a service in /etc/pam.d, such as pop3.",
    _PAM_HELP,
    "popserv.auth.services.pam:PAMChecker.from_service",
    _PASSWORDS,
    extra="pam",
)
