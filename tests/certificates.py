"""Generate certificates for the tests of TLS."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from popserv.testing.authority import CA_USAGE

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH

KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "x25519": x25519.X25519PrivateKey.generate,
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "dsa": lambda: dsa.generate_private_key(2048),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
}
"""Functions that generate a key, by the name of its kind."""


class Issued(NamedTuple):
    """A certificate, its key, and its chain up to the CA that clients trust."""

    certificate: x509.Certificate
    key: object
    chain: tuple[x509.Certificate, ...] = ()

    def pem(self, passphrase=None):
        """Return the certificate, its chain and its key."""
        return self.certificate_pem() + self.key_pem(passphrase)

    def certificate_pem(self):
        """Return the certificate and its chain."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.chain))

    def key_pem(self, passphrase=None):
        """Return the key."""
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def der(self):
        """Return the certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)


VERSION_1 = b"""\
-----BEGIN CERTIFICATE-----
MIIBJTCBywIURhduxfis+bCSU9pIEIM2o9V4QiwwCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJdmVyc2lvbiAxMCAXDTI2MTEyMTA2NTA1OVoYDzIxMjYxMDI4MDY1MDU5
WjAUMRIwEAYDVQQDDAl2ZXJzaW9uIDEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATYJrP7aZiCYQHQybwbiVF6xqCS2hPzzK9dlwAh/Gzp3TPr9fMh/uQGIVLncX0F
DFVP4rtEZXt2MK0llqer6ipTMAoGCCqGSM49BAMCA0kAMEYCIQCuMWr6Z83IhRvC
Iyqb/4ni/SBUHgL2lrU21StC14A3tQIhAKVr3KzhcTiDM8SpK28/3j3KH+Ti59O3
IOy1QaYU36C9
-----END CERTIFICATE-----
"""
"""A CA certificate of X.509 version 1, which has no extensions."""

RSASSA_PSS = b"""\
-----BEGIN CERTIFICATE-----
MIIDlTCCAkigAwIBAgIUSgRWiQzGkQtCQqrHVJVMSaHqvSYwQgYJKoZIhvcNAQEK
MDWgDzANBglghkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgEF
AKIEAgIA3jAaMRgwFgYDVQQDDA9wb3AuZXhhbXBsZS5vcmcwIBcNMjYxMTI4MjA0
NDQ0WhgPMjEyNjExMDQyMDQ0NDRaMBoxGDAWBgNVBAMMD3BvcC5leGFtcGxlLm9y
ZzCCASAwCwYJKoZIhvcNAQEKA4IBDwAwggEKAoIBAQCSdosLe1k3ypyX0kb23SEP
5Yd4+TjpFYd/hnnHWe+jeApADxe0yOeJjcUrT11XawwDMpoAgEBLEx/9k1iSMNnn
BdYmxR+9cez0A+LEP9M4NDiEf5tHYQywsr2jdCA+FEeYHtidef2hksxm6k0s8yYC
8yv/StVtj1NBAnGw1QBXe+RpNyR6lweeHbl14NpZy3n2j8S5i6Z/A7pnRijOprhO
lO4yRPS1sFU7EKXcroOUHxPP6kVlDJ67wKgWTpLnmKO+WwxnGYi88I3zAvD6v/nL
idhMBSyoMVQr46miJTKteTvaYoAvXKPD7n8xzNrmT7UG7zHb5/nC9bkVm2aeuufn
AgMBAAGjaTBnMB0GA1UdDgQWBBQUCYpd1I9sru2AmZTGqfYFc06JJTAfBgNVHSME
GDAWgBQUCYpd1I9sru2AmZTGqfYFc06JJTAaBgNVHREEEzARgg9wb3AuZXhhbXBs
ZS5vcmcwCQYDVR0TBAIwADBCBgkqhkiG9w0BAQowNaAPMA0GCWCGSAFlAwQCAQUA
oRwwGgYJKoZIhvcNAQEIMA0GCWCGSAFlAwQCAQUAogQCAgDeA4IBAQAku+lxBaHq
WTmT44rsUK8wRr+tWU24ArPRnjzFo0KJ+J/TaH7Sxlb56hgwddeWYmHqdN0Hhe9t
+ACQUPHc34KxZBBd96COW1VCkSwWLR3AY40cuBlIwtDaFGyaOF9NXXsxgI6mSTgq
Bjyqd2aoXGX+oZBgnRSt+4m56ibQFdS3BM3ReMEkWQ4KGQswBOS+055MPB7Dm7s9
WjSB8WXsg0KkFsmyr8Xu72A4yaBbuRk1wye7fzVJY+XXAJZCe75Jx106NeXrueFx
We5bGec9wR7EF3XSxz6RRWyuymteokRuqgUEcil0u6zYLzrAIoCh/xo8RAJBzbYt
DmORQrDIl9Gr
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIIEuwIBADALBgkqhkiG9w0BAQoEggSnMIIEowIBAAKCAQEAknaLC3tZN8qcl9JG
9t0hD+WHePk46RWHf4Z5x1nvo3gKQA8XtMjniY3FK09dV2sMAzKaAIBASxMf/ZNY
kjDZ5wXWJsUfvXHs9APixD/TODQ4hH+bR2EMsLK9o3QgPhRHmB7YnXn9oZLMZupN
LPMmAvMr/0rVbY9TQQJxsNUAV3vkaTckepcHnh25deDaWct59o/EuYumfwO6Z0Yo
zqa4TpTuMkT0tbBVOxCl3K6DlB8Tz+pFZQyeu8CoFk6S55ijvlsMZxmIvPCN8wLw
+r/5y4nYTAUsqDFUK+OpoiUyrXk72mKAL1yjw+5/Mcza5k+1Bu8x2+f5wvW5FZtm
nrrn5wIDAQABAoIBACbTmSG2ldy18BRJULmxvkmGCgdWXjFgHTb/0bm4zE/UCzeX
KKwq1EKBXEMSe4aooJsaZ3v5g9HDJKhmzsSWgbV+NRq7CCKDGJNJkmx/FQHhyhfJ
8kKWZjRTdfVmXAPJAX/AsaDxjXyvO1OPCl1/qdR/XWsEjhbIt4PU34nGtZv7G8Km
bqUVzjaElbL5U2v+M/p9aaAD/+roffkfVzlqCC+8gjcLN4wxYOdWIrefVDDnE+vk
vni7Jzt0mvtw8qh5EOMSOTETX9Gia/XiigoyU1VNadx8S7zpzKg/ICK11gXE8BtX
zLpfj6ZGxTGGuyv62pika323PSVoyuXTqNiOgU0CgYEAyOD/QGat6Jqtr7qbxIg9
4jWLayJ4ExSlDuc3/Jh3zvYEk1vD7awbKA5tbc4yk3UT4EXJIvetDW4qwvo2g6Ut
x7WB6nplqjNfkVf20KUXvORVMFPx0mgRmHkn2Vo1J6nIMYeBOG1shaIvO4d3oj0R
hykcVrXskqOxcOLXKgOYHEsCgYEAuqcIrsfdFAQrhidZ8bwpzMK2j88XDeb6dznO
/4+Cy/9AbNJBAnLjWh7d94rmLkF2APn+6gs2tS5wHXiDcoutTVSi7tkxQG4F3xRT
Ecmf0P0mY+E0VW+3vUJpSp8YmvPaGBbsoBHbV0T+oCkV0Dc48JGP3k6acM0H93/2
exgkqVUCgYAIjs1RCQ7PogdUPTb1oHhCctWFsuo6pd6CTAduk3BHOOPpAzfNoE9n
3XV8ABTXg11daJuxCawtrkvUEqTP5vGUWH84Zg5+ucGQh5bUPLROL8wRSwI6XISj
YkX4VId/MRR+R6+Rn9fHuakZeCP4nXFpuK6kYwu5E5AzpvZTq+OHEQKBgFItdF8v
U6CabWc1MB6ED4s9Nw99x9KxHRkc9IwD7TxPd1fyAflIB90HtgZkuw8mdwPbDWaR
5VZDyczP4F+wK27ekpXCPjL1vdQHqMMuGBT1P8+9uULcWvMSqDTYcwbV0fHFNg0L
j5yOneR58kan6YPRMpxX0xtSye0oA6cSbCG5AoGBAJUN6jOp9qQiLWy0mFd9AqWV
UeE3yHsFSETUKUXB9f7uPGIxpvYrNSQX6qIjeSj8rotT2PWy9qjmm/zk8fIzdOKc
XUziYDKdwWv5X9/TC5pOvIlU0KkOz4UU/u5OOm0mEez6DkpqnR+ES4AabrX9HGSV
I07ac2rpb5PXUOELyUY/
-----END PRIVATE KEY-----
"""
"""A certificate for pop.example.org with a key of type id-RSASSA-PSS, and the key."""

MD5 = b"""\
-----BEGIN CERTIFICATE-----
MIIB+jCCAWOgAwIBAgIUdQ6nmsqYPYWx/FYrVL9u4Y4SlwAwDQYJKoZIhvcNAQEE
BQAwDjEMMAoGA1UEAwwDbWQ1MCAXDTI2MTEyMTA2NTA1OVoYDzIxMjYxMDI4MDY1
MDU5WjAOMQwwCgYDVQQDDANtZDUwgZ8wDQYJKoZIhvcNAQEBBQADgY0AMIGJAoGB
ALvj5RQr5QB6Uo6H6JWzKn+L3kyW8crLLBy5Yp0OX9Mo797NRWF05VaBhE3YsNy+
Ps1iGpLURNjjyBWALdRUNGUWGq9BhrSCzmDNuAsPAkO3nxVMQBxttid3Ipe1YvlX
VJ9CuOIGtsg0bzcPEA+i3UxX7NUJRd5/IgU02WG/gVYnAgMBAAGjUzBRMB0GA1Ud
DgQWBBT4JFbznHkIsm1LPk11qSVE8i2x7zAfBgNVHSMEGDAWgBT4JFbznHkIsm1L
Pk11qSVE8i2x7zAPBgNVHRMBAf8EBTADAQH/MA0GCSqGSIb3DQEBBAUAA4GBAHw/
Vk0NhYdmB7S4whEjkowDmLmPt5VZHs7oJJzOAcJjDDbRTIjxgloNjPGocQWPYm7y
soQjfZAKKW4Rcrqi9I+j0GjYPXrw3F4YeRQQYOvsQkNov5RHIIO9OLZb69yxwces
+EH0eOGeSFOHarHt8d4+iD3JtDTjd+tNsBwqn9xA
-----END CERTIFICATE-----
"""
"""A certificate that is signed with MD5."""

SHA1 = b"""\
-----BEGIN CERTIFICATE-----
MIIB/DCCAWWgAwIBAgIUTpN9KYdAkJo80QTGeHfO0dJ1zCUwDQYJKoZIhvcNAQEF
BQAwDzENMAsGA1UEAwwEc2hhMTAgFw0yNjExMjEwNjUwNTlaGA8yMTI2MTAyODA2
NTA1OVowDzENMAsGA1UEAwwEc2hhMTCBnzANBgkqhkiG9w0BAQEFAAOBjQAwgYkC
gYEA4531kJF8VIGqPBGvPh7x/5Uf8yyJaBfwDRTjpSRX4prfQcpM/+a5K+ekSugG
PunGrWRJegUJSBP1gI56GqUgjLbdDi55DlObHk+JG0bQl7i38VzAt4n33rc5QSSq
Qb6U5V4/TKwUiEJgjGzn/FCif4znjnoI2qjLRDfqozCkIAkCAwEAAaNTMFEwHQYD
VR0OBBYEFPSOr9UA6wkqtxCX8Hk1R1EKMXCGMB8GA1UdIwQYMBaAFPSOr9UA6wkq
txCX8Hk1R1EKMXCGMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQEFBQADgYEA
pMXcIzsyOzeZ0u9WlQzLivjI3eW+2nAK33MT3ybn0WJp+tf1q9uzmV+8FjrmfS/3
hfGZJaZIbf/MDki5ItDNw1Hrxfs9eYrQEhxsrG5nb+V0jxoqwdU8vTXsGmFWQPbk
JbslfDl2VcpK/0TwfP5+BXomCSIoeUlWEkyoWDed9rA=
-----END CERTIFICATE-----
"""
"""A certificate that is signed with SHA-1."""


def issue(
    *hosts,
    issuer=None,
    mail=(),
    others=(),
    subject=((NameOID.COMMON_NAME, "somebody"),),
    usage=(),
    ends=90,
    begins=-30,
    kind="p256",
    algorithm=None,
    authority=False,
    extension=None,
):
    """Generate a key and a certificate for it, signed by an issuer or self-signed.

    ``hosts``, ``mail`` and ``others`` (general names) are its subjectAltName.  Without them
    ``extension`` can be another subjectAltName.  ``begins`` and ``ends`` are days from now.
    ``algorithm`` is the hash of the signature; the default is SHA-256, or the one that the
    issuer's key implies.  If ``authority`` is None, the certificate has no BasicConstraints.
    """
    key = KEYS[kind]()
    name = x509.Name([x509.NameAttribute(oid, value, _validate=False) for oid, value in subject])
    signer = issuer.key if issuer else key
    if algorithm is None and not isinstance(signer, ed25519.Ed25519PrivateKey):
        algorithm = hashes.SHA256()
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
    )
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
    if authority:
        builder = builder.add_extension(CA_USAGE, critical=True)
    # Python 3.13 and newer require these extensions.
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(subject_key, critical=False)
    builder = builder.add_extension(authority_key, critical=False)
    if extension:
        builder = builder.add_extension(extension, critical=False)
    names = [x509.DNSName(host) for host in hosts]
    names += [x509.RFC822Name(address) for address in mail]
    names += others
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    chain = ()
    if issuer and issuer.certificate.issuer != issuer.certificate.subject:
        chain = (issuer.certificate, *issuer.chain)
    return Issued(builder.sign(signer, algorithm), key, chain)


def make_authority(name="the CA", issuer=None, **options):
    """Generate a CA, or an intermediate CA that another one issues."""
    return issue(issuer=issuer, subject=[(NameOID.COMMON_NAME, name)], authority=True, **options)
