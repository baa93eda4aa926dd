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
) -> tuple[User | None, ScramKeys]:
    """Return the user and the keys; or None and decoy keys if the user cannot use SCRAM.

    ``name`` is the name that the client sent, and ``user`` the user whom it means, if there is
    one.  ``secrets`` must have passwords.

    :raises ValueError: the secret is malformed.
    """
    scheme = {"sha256": b"SCRAM-SHA-256", "sha1": b"SCRAM-SHA-1"}[hash_name]
    decoy_keys = decoys.scram_keys(hash_name, name, SCRAM_ITERATIONS)
    decoy_field = decoys.choose(name, secrets.passwords)
    field = decoy_field if user is None else user.password_field
    can_use_scram = has_password(field) and scheme_of(field) in {scheme, *CLEARTEXT_SCHEMES}
    chosen = field if can_use_scram else decoy_field
    # Decoy keys, too, must take the time of a user's keys and have their iteration count.
    if scheme_of(chosen) == scheme:
        keys = parse_scram_keys(split_field(chosen)[1])
    else:
        password = prepared_password(split_field(chosen)[1])
        keys = derive_scram_keys(hash_name, password, decoy_keys.salt, SCRAM_ITERATIONS)
    decoy_keys = decoy_keys._replace(iterations=keys.iterations)
    return (user, keys) if can_use_scram and user is not None else (None, decoy_keys)
