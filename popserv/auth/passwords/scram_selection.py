"""The keys with which the server begins a SCRAM exchange: those of the user, or decoys."""

from __future__ import annotations

from popserv.auth.passwords.decoys import Decoys
from popserv.auth.passwords.preparation import prepared_password
from popserv.auth.passwords.schemes import (
    CLEARTEXT_SCHEMES,
    has_password,
    scheme_of,
    split_field,
)
from popserv.auth.passwords.scram_keys import (
    SCRAM_ITERATIONS,
    ScramKeys,
    derive_scram_keys,
    parse_scram_keys,
)
from popserv.auth.passwords.sources import Secrets
from popserv.auth.users.user import User


def select_scram_keys(
    hash_name: str, name: bytes, user: User | None, secrets: Secrets, decoys: Decoys
) -> tuple[User | None, ScramKeys, str]:
    """Return the user and the keys; or None and decoy keys if the user cannot use SCRAM.

    The last of the results is the reason for the log if the user's secret is malformed, otherwise
    empty.  It must not refuse the login before the exchange: an unknown name gets a salt, too.

    ``name`` is the name that the client sent, and ``user`` the user whom it means, if there is
    one.  ``secrets`` must have passwords.
    """
    scheme = {"sha256": b"SCRAM-SHA-256", "sha1": b"SCRAM-SHA-1"}[hash_name]
    new_keys = decoys.scram_keys(hash_name, name, SCRAM_ITERATIONS)
    decoy_field = decoys.choose(name, secrets.passwords)
    field = decoy_field if user is None else user.password_field
    can_use_scram = has_password(field) and scheme_of(field) in {scheme, *CLEARTEXT_SCHEMES}
    chosen = field if can_use_scram else decoy_field
    # Decoy keys, too, must take the time of a user's keys, and look like them.
    keys = found = _keys_of(chosen, scheme, hash_name, new_keys.salt)
    if keys is None:
        keys = _keys_of(decoy_field, scheme, hash_name, new_keys.salt) or new_keys
    decoy_keys = decoys.scram_keys(hash_name, name, keys.iterations, len(keys.salt))
    if user is None or not can_use_scram:
        return None, decoy_keys, ""
    return (user, found, "") if found else (None, decoy_keys, "malformed password field")


def _keys_of(field: bytes, scheme: bytes, hash_name: str, salt: bytes) -> ScramKeys | None:
    """Return the keys of a secret of the scheme or of a cleartext password; None: malformed."""
    try:
        secret = split_field(field)[1]
        if scheme_of(field) == scheme:
            return parse_scram_keys(secret)
    except ValueError:
        return None
    return derive_scram_keys(hash_name, prepared_password(secret), salt, SCRAM_ITERATIONS)
