"""Certificates: made for names, read from files, and refused by name."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.certificates import pair, write_pair
from thaloom.base.errors import BadParameter, CertificateMissing, CertificateUnusable, Forbidden
from thaloom.kernel.trust.certificates import (
    DAY_S,
    check_names,
    make_pair,
    read_files,
    read_pair,
    require_in_force,
)
from thaloom.kernel.trust.tls import DoorConfig, server_context

PEM, PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()


def key_text(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    locked = PLAIN if password is None else serialization.BestAvailableEncryption(password)
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked)


def signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, named: bool = True) -> bytes:
    """A certificate for this key, made by hand."""
    import datetime

    from cryptography.hazmat.primitives import hashes

    now = datetime.datetime.now(datetime.UTC)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if named:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)


def test_one_of_our_own() -> None:
    now = time.time()
    made = make_pair(["GPU.Example.org.", "10.0.0.1", "fd00::1", "gpu.example.org"], now=now, lifetime_days=30)
    told = made.certificate
    assert told.names == ("gpu.example.org", "10.0.0.1", "fd00::1"), "each once"
    assert told.self_signed
    assert told.not_before <= now < told.not_after == pytest.approx(now + 30 * DAY_S, abs=600)
    parsed = x509.load_pem_x509_certificate(made.public.encode())
    assert not parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, "it signs no other"
    assert b"PRIVATE" not in made.public.encode()
    assert b"PRIVATE" not in repr(made).encode()
    assert read_pair(made.text, made.text, "x").certificate == told
    assert make_pair(["a"], now=now).certificate.fingerprint != make_pair(["a"], now=now).certificate.fingerprint
    server_context(made, "1.3")


@pytest.mark.parametrize(
    "names", [[], ["a b"], ["-a"], ["a..b"], ["http://a"], ["1.2.3"], ["a" * 64], ["é"], [f"n{i}" for i in range(101)]]
)
def test_what_is_no_name_is_refused(names: list[str]) -> None:
    with pytest.raises(BadParameter):
        check_names(names)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_a_lifetime_has_bounds(days: int) -> None:
    with pytest.raises(BadParameter, match="days"):
        make_pair(["a"], now=time.time(), lifetime_days=days)


def test_two_files_or_one(tmp_path: Path) -> None:
    made = pair()
    certificate, key = write_pair(tmp_path, made)
    assert read_files(certificate, key) == made
    both = tmp_path / "both.pem"
    both.write_bytes(made.text)
    both.chmod(0o640)
    assert read_files(both, None) == made
    assert read_files(both, both) == made


def test_a_chain_is_kept_whole_and_its_first_is_ours(tmp_path: Path) -> None:
    made, authority = pair(), pair("authority.example")
    certificate, key = write_pair(tmp_path, made)
    certificate.write_text(made.public + authority.public)
    found = read_files(certificate, key)
    assert found.certificate == made.certificate
    assert found.public == made.public + authority.public


def test_keys_that_anybody_may_read_are_refused(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, pair())
    for mode in (0o604, 0o602, 0o666):
        key.chmod(mode)
        with pytest.raises(Forbidden, match="any user"):
            read_files(certificate, key)
    key.chmod(0o640)
    assert read_files(certificate, key), "a group of its own is how distributions hand keys to services"


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, pair())
    with pytest.raises(CertificateMissing, match="nowhere"):
        read_files(tmp_path / "nowhere", key)
    with pytest.raises(CertificateMissing, match="nowhere"):
        read_files(certificate, tmp_path / "nowhere")
    with pytest.raises(CertificateUnusable, match="not a file"):
        read_files(tmp_path, key)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(CertificateUnusable, match="not a file"):
        read_files(pipe, key)
    big = tmp_path / "big"
    big.write_bytes(b" " * (1 << 21))
    with pytest.raises(CertificateUnusable, match="more than"):
        read_files(big, key)


def test_pairs_that_cannot_be_used_are_refused_by_reason() -> None:
    made, other = pair(), pair()
    key = ec.generate_private_key(ec.SECP256R1())
    cases = {
        "no certificate": (b"", made.text),
        "no certificate in PEM": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", made.text),
        "cannot be read": (made.text, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        "not that of": (made.text, other.text),
        "passphrase": (signed(key), key_text(key, b"secret")),
        "names no host": (signed(key, named=False), key_text(key)),
    }
    for why, (chain, secret) in cases.items():
        with pytest.raises(CertificateUnusable, match=why) as refusal:
            read_pair(chain, secret, "the file")
        assert "the file" in refusal.value.message
    assert read_pair(signed(key), key_text(key), "the file")


def test_weak_keys_are_refused() -> None:
    for bits, fit in ((1024, False), (2048, True)):
        key = rsa.generate_private_key(65537, bits)
        if fit:
            assert read_pair(signed(key), key_text(key), "x")
        else:
            with pytest.raises(CertificateUnusable, match="1024 bits"):
                read_pair(signed(key), key_text(key), "x")


def test_only_what_holds_today_comes_into_force() -> None:
    now = time.time()
    made = make_pair(["a"], now=now, lifetime_days=1)
    require_in_force(made, now, "x")
    with pytest.raises(CertificateUnusable, match="has expired on"):
        require_in_force(made, now + DAY_S, "x")
    with pytest.raises(CertificateUnusable, match="does not hold before"):
        require_in_force(made, now - DAY_S, "x")


def test_a_door_without_a_certificate_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CertificateMissing, match="thaloom cert make"):
        DoorConfig().read(tmp_path)


def test_what_openssl_is_told() -> None:
    for minimum, version in (("1.3", ssl.TLSVersion.TLSv1_3), ("1.2", ssl.TLSVersion.TLSv1_2)):
        context = server_context(pair(), minimum)  # type: ignore[arg-type]
        assert context.minimum_version == version
        assert context.options & ssl.OP_NO_COMPRESSION
        old = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
        assert old
        assert all(name.startswith("ECDHE") and ("GCM" in name or "POLY1305" in name) for name in old), old
