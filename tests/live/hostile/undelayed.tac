"""A server that replies to a failed login at once, for measurements of how long the check takes."""

import json
import os

from twisted.application.service import Application

from popserv.server.protocol import POP3Server
from popserv.tap import Options, makeService

POP3Server.FAILED_LOGIN_DELAY = 0.0
POP3Server.MAX_FAILED_LOGINS = 1 << 62

options = Options()
options.parseOptions(json.loads(os.environ["POPSERV_TEST_OPTIONS"]))
application = Application("popserv")
makeService(options).setServiceParent(application)
