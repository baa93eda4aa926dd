"""What is wrong with a certificate and its chain, as clients see them.

Apple's rules: https://support.apple.com/en-us/103769.  Requires the extra ``tls``.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import pairwise

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from OpenSSL.crypto import X509, Error, X509Store, X509StoreContext, X509StoreContextError

from popserv.core.findings import Finding, error, hint, unchecked, warning
from popserv.core.printable import one_line
from popserv.runtime.permissions import reason_of, this_user
from popserv.tls.server_certificate import ServerCertificate
from popserv.tls.x509 import EXPIRY_WARNING, alternative_names, matches_name, subject_of

MAX_LIFETIME = timedelta(days=825)
"""The greatest lifetime that Apple's programs accept."""

_WEAK_HASHES = ("md5", "sha1")

_RENEW = "renew it"


def system_store() -> X509Store | None:
    """Return a store with the CAs that this system trusts, or None if it has none."""
    paths = ssl.get_default_verify_paths()
    store = X509Store()
    try:
        store.load_locations(paths.cafile, paths.capath)
    except (Error, TypeError):
        return None
    return store


def check_certificate(
    certificate: ServerCertificate, trusted: X509Store | None, now: datetime | None = None
) -> Iterator[Finding]:
    """Yield what is wrong with a certificate; ``trusted`` has the CAs of this system."""
    path, chain = certificate.file, certificate.chain
    now = now or datetime.now(timezone.utc)
    is_current = True
    for each in chain:
        for finding in _validity(path, each, now):
            is_current = False
            yield finding
    yield from _leaf(path, chain[0])
    yield from _order(path, chain)
    for each in chain:
        algorithm = each.signature_hash_algorithm
        is_root = each.issuer == each.subject and each is not chain[0]
        if algorithm is not None and algorithm.name in _WEAK_HASHES and not is_root:
            what = f"{_named(each)} is signed with {algorithm.name.upper()}, which clients reject"
            yield error("certificate-signature", path, what, "request a new certificate")
    if is_current:
        yield from _trust(path, chain, trusted)


def _named(certificate: x509.Certificate) -> str:
    return f"the certificate of {subject_of(certificate) or 'nobody'}"


def _validity(path: str, certificate: x509.Certificate, now: datetime) -> Iterator[Finding]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        what = f"{_named(certificate)} expired on {end:%Y-%m-%d}"
        yield error("certificate-expired", path, what, _RENEW)
    elif end - now < EXPIRY_WARNING:
        what = f"{_named(certificate)} expires on {end:%Y-%m-%d}"
        yield warning("certificate-expires", path, what, _RENEW)
    if now < begin:
        what = f"{_named(certificate)} is not valid before {begin:%Y-%m-%d %H:%M} UTC"
        yield error("certificate-early", path, what, "wait, or correct the clock")


def _leaf(path: str, leaf: x509.Certificate) -> Iterator[Finding]:
    names = alternative_names(leaf)
    if names is None or not names.get_values_for_type(x509.DNSName):
        what = "it has no DNS name in subjectAltName, and clients do not look elsewhere"
        yield error("certificate-names", path, what, "request one with the names of the server")
    if leaf.not_valid_after_utc - leaf.not_valid_before_utc > MAX_LIFETIME:
        what = f"it is valid for more than {MAX_LIFETIME.days} days, which Apple Mail rejects"
        yield warning("certificate-lifetime", path, what, "request one with a shorter lifetime")
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        what = "it does not have the extended key usage serverAuth, which Apple Mail requires"
        yield warning("certificate-usage", path, what, "request one that has it")


def _order(path: str, chain: Sequence[x509.Certificate]) -> Iterator[Finding]:
    for below, above in pairwise(chain):
        if below.issuer != above.subject:
            yield warning(
                "certificate-order",
                path,
                f"after {_named(below)} comes {_named(above)}, which has not issued it",
                "put the issuer of each certificate after it, and remove the others",
            )
            return
    if len(chain) > 1 and chain[-1].issuer == chain[-1].subject:
        what = f"it contains {_named(chain[-1])}, a root, which clients must have anyway"
        yield hint("certificate-root", path, what, "remove it")


def _trust(
    path: str, chain: Sequence[x509.Certificate], trusted: X509Store | None
) -> Iterator[Finding]:
    if trusted is None:
        what = "this system has no CA certificates to verify the chain with"
        yield unchecked("certificate-untrusted", path, what, "install ca-certificates")
        return
    leaf, *others = map(X509.from_cryptography, chain)
    try:
        X509StoreContext(trusted, leaf, others).verify_certificate()
    except X509StoreContextError as problem:
        last = problem.certificate.to_cryptography()
        if last == chain[0] and last.issuer == last.subject:
            yield warning(
                "certificate-self-signed",
                path,
                "it is self-signed, and clients ask their users, or refuse it as Gmail does",
                "use the certificate of a CA",
            )
        elif _is_public(last) and last.issuer != last.subject:
            yield error(
                "certificate-incomplete",
                path,
                f"the certificate of the CA that has issued {_named(last)} is missing",
                "append it, as in certbot's fullchain.pem",
            )
        else:
            yield warning(
                "certificate-untrusted",
                path,
                f"this system does not trust {_named(last)}: {one_line(str(problem))}",
                "install the CA in all clients, or use the certificate of a public CA",
            )


def _is_public(certificate: x509.Certificate) -> bool:
    """Return whether a certificate says where that of its issuer can be fetched."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except x509.ExtensionNotFound:
        return False
    return any(
        each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in access.value
    )


def check_hostname(hostname: str, certificates: Sequence[ServerCertificate]) -> Iterator[Finding]:
    """Yield whether no certificate has the name of ``--hostname``."""
    names = [name for each in certificates for name in each.names]
    if not any(matches_name(hostname, name) for name in names):
        yield warning(
            "certificate-hostname",
            f"--hostname {hostname}",
            f"no certificate has this name, but {one_line(', '.join(names) or 'none')}",
            "have clients use a name in the certificate, or request one with this name",
        )


def check_key_files(certificate: ServerCertificate) -> Iterator[Finding]:
    """Yield whether others can read the key, or this user cannot read the files again."""
    for path in dict.fromkeys((certificate.file, certificate.key_file)):
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
        except OSError as problem:
            yield warning(
                "certificate-unreadable",
                path,
                f"{reason_of(problem)}, so that a renewed certificate is not used before a restart",
                f"let {this_user()} read it, and its directories",
            )
            continue
        if path == certificate.key_file and mode & stat.S_IRWXO:
            what = f"its mode {stat.S_IMODE(mode):04o} lets other users read the private key"
            yield warning("key-exposed", path, what, f"run: chmod o= {path}")
