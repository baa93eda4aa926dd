"""TLS: server certificates, client certificates and channel bindings; requires the extra ``tls``.

This package may import core, interfaces, errors and texts.  Other packages import it only
where TLS is used, because its libraries are optional.
"""
