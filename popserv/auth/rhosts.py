from popserv.interfaces import IRemoteUserCredentials


class RhostsFileError(Exception):
    pass


class RhostsChecker:
    credentialInterfaces = (IRemoteUserCredentials,)

    @classmethod
    def at_start(cls, path):
        return cls()
