"""The node's own secrets: its key for models at rest, its certificate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from thaloom.edge.wire.control.base import Answer, Ask


class RotateRequest(Ask):
    """Body of `POST encryption/rotate`: what opens encrypted models from now on. Neither: a new key in the place of the
    key file in use. Only through the node's own socket."""

    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    key_file: str | None = Field(default=None, min_length=1)
    """Absolute path of a file with 32 random bytes, readable by its owner alone."""


class MasterKey(Answer):
    """Where the master key is from now on."""

    origin: str


class Encryption(Answer):
    """Whether this node opens encrypted models."""

    ready: bool
    origin: str | None
    problem: str | None
    """Why not."""
    ring: str | None
    """Id of the store's key ring; null: nothing was ever encrypted here."""
    opened_by: str | None
    """`key` or `passphrase`."""
    memory: str | None
    """Where the key is kept: `memfd_secret`, else `memfd`."""
    locked: bool
    """Whether that stays out of swap."""


class Certificate(Answer):
    """The certificate of the node's door. Moments in seconds since the epoch; null: there is none."""

    serving: bool
    """Whether the door speaks TLS."""
    own: bool
    """Whether the node may make and renew it; else files that config.toml names."""
    origin: str
    fingerprint: str | None
    """SHA-256, 64 hexadecimal digits: what THALOOM_FINGERPRINT pins."""
    names: list[str]
    not_before: float | None
    not_after: float | None
    issuer: str | None
    self_signed: bool
    shown: str | None
    """The fingerprint of what the door was last seen to show; null: nobody looked."""
    problem: str | None
    """Why what lies there now is not in force."""
    pem: str | None
    """The certificate and what signed it, without the key: what THALOOM_CA takes."""


class CertificateRequest(Ask):
    """`names` left out: what the machine is called; of a renewal, those the certificate has."""

    names: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    days: Annotated[int, Field(ge=1, le=3650)] = 365


class ImportCertificateRequest(Ask):
    """Absolute paths on the node's machine. `key` left out: it is in the same file."""

    certificate: str
    key: str | None = None
