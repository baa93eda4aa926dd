"""What twistd and --auth find: names alone, nothing of popserv is imported to list them."""

from twisted.application.service import ServiceMaker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from zope.interface import implementer

from popserv.interfaces import IAPOPCredentials

popserv = ServiceMaker(
    "popserv",
    "popserv.tap",
    "A POP3 server: mail from Maildirs, the whole of RFC 1725",
    "pop3",
)


@implementer(ICheckerFactory, IPlugin)
class _PasswdFileCheckerFactory:
    authType = "passwd-file"
    argStringFormat = "the path of a users file"
    authHelp = """
    A users file in the format of Dovecot's passwd-file: name:{SCHEME}secret,
    a user a line.  "popserv user add" writes one.  It is re-read when it changes.
    A user with an {APOP} secret logs in by APOP, every other by password.
    """
    credentialInterfaces = (IUsernamePassword, IAPOPCredentials)

    def generateChecker(self, argString):
        from popserv.auth.passwd import PasswdFileChecker

        return PasswdFileChecker.at_start(argString)


passwd_file = _PasswdFileCheckerFactory()
