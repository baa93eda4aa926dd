"""The plugins of popserv that twistd and ``--auth`` find.

Twisted imports this module to list all plugins, so it imports popserv only where needed.
"""

from twisted.application.service import ServiceMaker
from twisted.cred.credentials import IUsernamePassword
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
class _PasswdFileCheckerFactory:
    authType = "passwd-file"
    argStringFormat = "Path of a users file."
    authHelp = _USERS_FILE_HELP

    @property
    def credentialInterfaces(self):
        from popserv.auth.passwords.checker import PasswdFileChecker

        return PasswdFileChecker.credentialInterfaces

    def generateChecker(self, argString):
        from popserv.auth.passwords.checker import PasswdFileChecker

        return PasswdFileChecker.from_file(argString)


passwd_file = _PasswdFileCheckerFactory()


@implementer(ICheckerFactory, IPlugin)
class _TokenCheckerFactory:
    authType = "oauth"
    argStringFormat = "Path of a configuration file with a section [oauth]."
    authHelp = _OAUTH_HELP

    @property
    def credentialInterfaces(self):
        from popserv.interfaces import ITokenCredentials

        return (ITokenCredentials,)

    def generateChecker(self, argString):
        try:
            from popserv.auth.oauth.checker import TokenChecker
        except ImportError as missing:
            from popserv.runtime.extras import how_to_install

            raise ImportError(
                f"{missing}; OAuth requires the extra oauth; run: {how_to_install('oauth')}"
            ) from missing

        return TokenChecker.from_file(argString)


oauth = _TokenCheckerFactory()


@implementer(ICheckerFactory, IPlugin)
class _SQLCheckerFactory:
    authType = "sql"
    argStringFormat = "Path of a configuration file in TOML."
    authHelp = _SQL_HELP

    @property
    def credentialInterfaces(self):
        from popserv.auth.passwords.checker import SecretsChecker

        return SecretsChecker.credentialInterfaces

    def generateChecker(self, argString):
        try:
            from popserv.auth.sql.checker import SQLChecker
        except ImportError as missing:
            from popserv.runtime.extras import how_to_install

            raise ImportError(
                f"{missing}; --auth sql requires the extra sql; run: {how_to_install('sql')}"
            ) from missing

        return SQLChecker.from_file(argString)


sql = _SQLCheckerFactory()


@implementer(ICheckerFactory, IPlugin)
class _LDAPCheckerFactory:
    authType = "ldap"
    argStringFormat = "Path of a configuration file in TOML."
    authHelp = _LDAP_HELP
    credentialInterfaces = (IUsernamePassword,)

    def generateChecker(self, argString):
        try:
            from popserv.auth.ldap.checker import LDAPChecker
        except ImportError as missing:
            from popserv.runtime.extras import how_to_install

            raise ImportError(
                f"{missing}; --auth ldap requires the extra ldap; run: {how_to_install('ldap')}"
            ) from missing

        return LDAPChecker.from_file(argString)


ldap = _LDAPCheckerFactory()


@implementer(ICheckerFactory, IPlugin)
class _DovecotCheckerFactory:
    authType = "dovecot"
    argStringFormat = "Path of Dovecot's socket auth-client."
    authHelp = _DOVECOT_HELP

    @property
    def credentialInterfaces(self):
        from popserv.auth.dovecot.checker import DovecotChecker

        return DovecotChecker.credentialInterfaces

    def generateChecker(self, argString):
        from popserv.auth.dovecot.checker import DovecotChecker

        return DovecotChecker.from_path(argString)


dovecot = _DovecotCheckerFactory()


@implementer(ICheckerFactory, IPlugin)
class _CheckPasswordCheckerFactory:
    authType = "checkpassword"
    argStringFormat = "Path of a program, and arguments for it."
    authHelp = _CHECKPASSWORD_HELP

    @property
    def credentialInterfaces(self):
        from popserv.auth.services.checkpassword import CheckPasswordChecker

        return CheckPasswordChecker.credentialInterfaces

    def generateChecker(self, argString):
        from popserv.auth.services.checkpassword import CheckPasswordChecker

        return CheckPasswordChecker.from_argument(argString)


checkpassword = _CheckPasswordCheckerFactory()


@implementer(ICheckerFactory, IPlugin)
class _PAMCheckerFactory:
    authType = "pam"
    argStringFormat = "Name of a service in /etc/pam.d, such as pop3."
    authHelp = _PAM_HELP

    @property
    def credentialInterfaces(self):
        from popserv.auth.users.service import PasswordService

        return PasswordService.credentialInterfaces

    def generateChecker(self, argString):
        try:
            from popserv.auth.services.pam import PAMChecker
        except ImportError as missing:
            from popserv.runtime.extras import how_to_install

            raise ImportError(
                f"{missing}; PAM requires the extra pam; run: {how_to_install('pam')}"
            ) from missing

        return PAMChecker.from_service(argString)


pam = _PAMCheckerFactory()
