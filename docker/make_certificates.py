"""Make the secrets of a trial deployment: a certificate authority of its own, and what it signs.

    python docker/make_certificates.py docker/secrets --name triton.example --name 192.0.2.7

writes ca.crt, server.crt, server.key, client.crt, client.key, admin.key and grafana_password. The authority's own key
is forgotten, so nothing more can be signed; a hospital's authority takes its place in production. The folder is the
owner's alone; the files are not, because each is mounted by itself into containers that run as other users. Needs
`cryptography` (pip install 'chextriev[sign]').
"""

import argparse
import ipaddress
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES = ("localhost", "127.0.0.1")
DAYS = 90


def main(arguments: list[str] | None = None) -> None:
    """Write the files; refuse to overwrite any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", action="append", default=[], help="of the server, a host or an address; repeatable")
    parser.add_argument("--days", type=int, default=DAYS, help="until the certificates expire (default: %(default)s)")
    options = parser.parse_args(arguments)
    files = make(list(dict.fromkeys([*options.name, *NAMES])), days=options.days)
    options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if options.folder.stat().st_mode & 0o077:
        sys.exit(f"{options.folder} is open to others; chmod 700 it first")
    for name, content in files.items():
        try:
            with (options.folder / name).open("xb") as stream:
                stream.write(content)
            (options.folder / name).chmod(0o644)
        except FileExistsError:
            sys.exit(f"{options.folder / name} exists; remove it first, or choose another folder")


def make(names: list[str], *, days: int = DAYS) -> dict[str, bytes]:
    """Name and content of each file; `names` are the server's, as clients know it."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _name("chextriev trial authority")
    ca = _builder(authority, authority_key, days).issuer_name(authority)
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(_usage(signs=True), critical=True)
    mark = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    ca = ca.add_extension(mark, critical=False)
    files = {"ca.crt": _pem(ca.sign(authority_key, hashes.SHA256()))}
    for role, usage in (("server", ExtendedKeyUsageOID.SERVER_AUTH), ("client", ExtendedKeyUsageOID.CLIENT_AUTH)):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _builder(_name(f"chextriev trial {role}"), key, days).issuer_name(authority)
        leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        leaf = leaf.add_extension(_usage(signs=False), critical=True)
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(mark), critical=False)
        if role == "server":
            leaf = leaf.add_extension(x509.SubjectAlternativeName([_known_as(name) for name in names]), critical=False)
        files[f"{role}.crt"] = _pem(leaf.sign(authority_key, hashes.SHA256()))
        files[f"{role}.key"] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    files["admin.key"] = secrets.token_urlsafe(32).encode() + b"\n"
    files["grafana_password"] = secrets.token_urlsafe(16).encode() + b"\n"
    return files


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=days))


def _usage(*, signs: bool) -> x509.KeyUsage:
    other = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs, crl_sign=signs, decipher_only=False, **dict.fromkeys(other, False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _known_as(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


if __name__ == "__main__":
    main()
