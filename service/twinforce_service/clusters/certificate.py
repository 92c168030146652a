"""A certificate that a server makes for itself, which its clients read in the address file."""

import ipaddress
import subprocess
from pathlib import Path

# No job takes longer.
_DAYS = 365
_PROGRAM = "openssl"


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Write a certificate that no one signed, and its private key; return the files.

    Args:
        folder: Folder of the files.
        host: Name or address by which clients reach the server.

    Raises:
        OSError: The program `openssl` is missing, or fails.
    """
    certificate, key = folder / "certificate.pem", folder / "private_key.pem"
    command = [
        *(_PROGRAM, "req", "-x509", "-nodes", "-newkey", "ec"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", str(_DAYS)),
        *("-subj", "/CN=TwinForce", "-addext", f"subjectAltName={_kind_of(host)}:{host}"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    reason = "expected --tls-certificate and --tls-key, or the program openssl to make them"
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise OSError(f"{reason}: there is no such program") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["it failed"]
        raise OSError(f"{reason}: {lines[-1]}") from error
    return certificate, key


def _kind_of(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "DNS"
    return "IP"
