"""Certificates and keys of a federation over a network: made here once, then given to each holder.

ca.crt                             the CA to trust; a copy is in each of the folders below
ca.key                             only for the one who makes more certificates
superlink/server.{crt,key}         for the SuperLink
superlink/superexec-secret
gateway/server.{crt,key}           for the gateway between the clients' network and the SuperLink
server/superexec-secret            for the one that runs the ServerApp
operator/clients/N.pub             for the one who registers the clients and starts runs
client-N/client.key                for the SuperNode of client N

Each holder has its own folder, and needs no other; see docs/deployment.md.
"""

import ipaddress
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import FedShieldError, explain_os_errors
from common.files import replace_file
from common.links import refuse_links

_CA_DAYS, _SERVER_DAYS = 3650, 397  # the longest that browsers, and so other clients one day, accept of a server
_PRIVATE = 0o600
_CLOCK_SKEW = timedelta(hours=1)
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"({_LABEL}\.)*(?!\d+$){_LABEL}")


def make_certs(folder: Path, clients: int, hosts: Sequence[str]) -> list[Path]:
    """Make a CA, the server's certificate and a key for each client; return the files.

    The CA that a folder has already is kept, and so are the keys of its clients: the command adds what is missing, and
    makes new certificates for SuperLink and gateway, for the hosts that they had and those given.

    Args:
        folder: where to; private keys get the mode 0600.
        clients: keys are made for clients 0 to ``clients`` - 1.
        hosts: names and addresses under which SuperLink and gateway are reached.

    Raises:
        FedShieldError: a host is neither a name nor an address; a file of the folder is damaged, a link out of it, or
            cannot be written.
    """
    for host in hosts:
        _general_name(host)
    refuse_links(folder)
    with explain_os_errors(folder):
        holders = ("superlink", "gateway", "server", "operator", *(f"client-{client}" for client in range(clients)))
        for name in (*holders, "operator/clients"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        authority, key = _authority(folder)
        for holder in holders:
            replace_file(folder / holder / "ca.crt", (folder / "ca.crt").read_bytes())
        return [
            *(folder / "ca.crt", folder / "ca.key"),
            *(path for holder in ("superlink", "gateway") for path in _server(folder / holder, authority, key, hosts)),
            *_secret(folder),
            *(path for client in range(clients) for path in _client(folder, client)),
        ]


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, private = folder / "ca.crt", folder / "ca.key"
    copy = next(folder.glob("*/ca.crt"), None)
    if copy is not None and not certificate.exists():
        replace_file(certificate, copy.read_bytes())
    if certificate.exists():
        return _read_authority(certificate, private)
    # A key without its certificate is what an interrupted command has left.
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedShield federation CA")])
    made = (
        _builder(name, name, key, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    replace_file(private, _pem(key), _PRIVATE)
    replace_file(certificate, made.public_bytes(Encoding.PEM))
    return made, key


def _read_authority(certificate: Path, private: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        made = x509.load_pem_x509_certificate(certificate.read_bytes())
        key = load_pem_private_key(private.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise FedShieldError(
            f"{certificate.parent}: the CA cannot be read ({error}); put back ca.crt and ca.key, or use another --out"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != made.public_key():
        raise FedShieldError(
            f"{private}: not the key of {certificate.name}; put back the one that belongs to it, or use another --out"
        )
    return made, key


def _server(
    folder: Path, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]
) -> list[Path]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"FedShield {folder.name}")])
    names = dict.fromkeys([*(_general_name(host) for host in hosts), *_names(folder / "server.crt")])
    made = (
        _builder(name, authority.subject, key, _SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    replace_file(folder / "server.key", _pem(key), _PRIVATE)
    replace_file(folder / "server.crt", made.public_bytes(Encoding.PEM))
    return [folder / "server.crt", folder / "server.key"]


def _names(certificate: Path) -> list[x509.GeneralName]:
    """Return the hosts of a certificate; none if there is no certificate yet."""
    if not certificate.exists():
        return []
    try:
        made = x509.load_pem_x509_certificate(certificate.read_bytes())
        return list(made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise FedShieldError(f"{certificate}: cannot be read ({error}); delete it, and repeat every --host") from error


def _secret(folder: Path) -> list[Path]:
    """Make the secret by which the one that runs the ServerApp proves to the SuperLink who it is."""
    files = [folder / holder / "superexec-secret" for holder in ("superlink", "server")]
    there = [path.read_bytes() for path in files if path.exists()]
    known = next(filter(None, there), secrets.token_hex(32).encode())
    for path in files:
        replace_file(path, known, _PRIVATE)
    return files


def _client(folder: Path, client: int) -> list[Path]:
    """Make the key by which a SuperNode proves who it is; Flower wants a NIST curve in OpenSSH's format.

    The private key may have been carried away: the public one tells whether it was made.
    """
    private, public = folder / f"client-{client}" / "client.key", folder / "operator" / "clients" / f"{client}.pub"
    if not public.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        replace_file(private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), _PRIVATE)
        replace_file(public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return [path for path in (private, public) if path.exists()]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    others = dict.fromkeys((*names, "decipher_only"), False)
    return x509.KeyUsage(
        digital_signature=not sign_certificates, key_cert_sign=sign_certificates, crl_sign=sign_certificates, **others
    )


def _general_name(host: str) -> x509.GeneralName:
    """Return a host as a certificate names it.

    Raises:
        FedShieldError: it is neither a name nor an address.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if len(host) > 253 or not _HOST.fullmatch(host):
            raise FedShieldError(
                f"--host {host!r}: write only a name or an address, as in fl.example.org (ü and the like as xn--)"
            ) from None
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
