"""Certificates for tests, as files."""

import trustme


class Authority:
    """A private authority, whose files lie in a folder.

    Attributes:
        ca: File of its own certificate.
    """

    def __init__(self, folder, name="ca"):
        self._authority = trustme.CA()
        self._folder = folder
        self.ca = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name, *hosts):
        """Write a certificate for hosts, or this machine, and its key; return the files."""
        issued = self._authority.issue_cert(*(hosts or ("localhost", "127.0.0.1", "::1")))
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        issued.private_key_pem.write_to_path(key)
        certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        return certificate, key
