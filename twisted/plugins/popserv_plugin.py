"""What twistd and --auth find: names alone, nothing of popserv is imported to list them."""

from twisted.application.service import ServiceMaker
from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from zope.interface import implementer

popserv = ServiceMaker(
    "popserv",
    "popserv.tap",
    "A POP3 server: mail from Maildirs, with TLS and SASL",
    "pop3",
)


@implementer(ICheckerFactory, IPlugin)
class _PasswdFileCheckerFactory:
    authType = "passwd-file"
    argStringFormat = "the path of a users file"
    authHelp = """
    A users file in the format of Dovecot's passwd-file: name:{SCHEME}secret,
    a user a line.  "popserv user add" writes one.  It is re-read when it changes.
    A user with an {APOP} secret logs in by APOP, every other by password, or
    by SCRAM, CRAM-MD5 or a client certificate where that is offered.
    """

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
    argStringFormat = "the path of a file with a section [oauth]"
    authHelp = """
    Bearer tokens of an OAuth or OpenID provider, for OAUTHBEARER and XOAUTH2.
    The file says who issues them and how they are verified: by the provider's keys
    (jwks) or by asking the provider (introspection).  It is read at the start.
    Needs: pip install 'popserv[oauth]'
    """

    @property
    def credentialInterfaces(self):
        from popserv.interfaces import ITokenCredentials

        return (ITokenCredentials,)

    def generateChecker(self, argString):
        try:
            from popserv.auth.oauth.checker import TokenChecker
        except ImportError as missing:
            raise ImportError(f"{missing}; pip install 'popserv[oauth]'") from missing

        return TokenChecker.from_file(argString)


oauth = _TokenCheckerFactory()
