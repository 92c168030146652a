"""TLS, mutual TLS and the rotation of certificates, over both transports."""

import asyncio
import logging
import ssl

import pytest

from tests.clients.certificates import Authority
from tests.clients.conftest import url_of
from tests.clients.serving import serve
from tests.clients.test_outages import start
from tests.service.callers.making import add_key
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import AsyncClient, Client, UnavailableError
from twinforce.ase import TwinForceCalculator
from twinforce.cli import run
from twinforce_service.transports.tls import Certificates


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("KEY", "CA", "CERTIFICATE", "PRIVATE_KEY"):
        monkeypatch.delenv(f"TWINFORCE_{name}", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder):
    return Authority(folder)


@pytest.fixture(scope="module")
def key(folder):
    return add_key(folder / "keys.json", "alice")


@pytest.fixture(scope="module")
def server(authority, folder, key):
    """A service with TLS and keys."""
    assert key
    certificate, private_key = authority.issue("server")
    files = {"tls_certificate": str(certificate), "tls_key": str(private_key)}
    with serve(engine="thread", keys=str(folder / "keys.json"), **files) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(authority):
    """A service that asks clients for certificates."""
    certificate, private_key = authority.issue("mutual")
    files = {"tls_certificate": str(certificate), "tls_key": str(private_key)}
    with serve(engine="thread", tls_client_ca=str(authority.ca), **files) as server:
        yield server


def use_all(client):
    """Use every kind of call of a client."""
    assert client.predict(molecule(), model="lj")
    with client.stream("lj") as stream:
        assert stream.predict(molecule())
    assert len(list(client.propagate(start(), 4, 2, model="lj"))) == 3


def test_every_kind_of_client_trusts_a_private_authority(url, authority, key, monkeypatch):
    assert url.startswith(("https://", "grpcs://"))
    with Client(url, ca=authority.ca, key=key) as client:
        use_all(client)

    async def ask():
        async with AsyncClient(url, ca=str(authority.ca), key=key) as client:
            return await client.predict(molecule(), model="lj")

    assert asyncio.run(ask())
    with TwinForceCalculator(url, ca=authority.ca, key=key) as calculator:
        assert calculator.client.models()
    monkeypatch.setenv("TWINFORCE_KEY", key)
    assert run(["models", "--url", url, "--ca", str(authority.ca)]) == 0
    monkeypatch.setenv("TWINFORCE_CA", str(authority.ca))
    with Client(url) as client:
        assert client.models()


def test_the_variable_of_the_system_for_authorities_counts_alike(url, authority, key, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    monkeypatch.setattr("twinforce._transports.rest_pools._default_tls", ssl.create_default_context)
    with Client(url, key=key) as client:
        assert client.models()


def test_a_service_of_another_authority_is_not_trusted(url, tmp_path, key):
    for options in ({}, {"ca": Authority(tmp_path).ca}):
        untrusted = pytest.raises(UnavailableError, match="its certificate is not trusted")
        with Client(url, key=key, **options) as client, untrusted:
            client.models()


def test_a_client_without_a_certificate_is_turned_away(mutual, transport, authority):
    url = url_of(mutual, transport)
    certificate, private_key = authority.issue("client")
    with Client(url, ca=authority.ca, certificate=certificate, private_key=private_key) as client:
        use_all(client)
    both = certificate.with_name("both.pem")
    both.write_bytes(private_key.read_bytes() + certificate.read_bytes())
    with Client(url, ca=authority.ca, certificate=both) as client:
        assert client.models()
    refused = pytest.raises(UnavailableError, match="may ask clients for a certificate")
    with Client(url, ca=authority.ca, max_retries=0) as client, refused:
        client.models()


def test_a_client_with_a_certificate_of_another_authority_is_turned_away(
    mutual, transport, authority, tmp_path
):
    certificate, private_key = Authority(tmp_path).issue("stranger")
    files = {"ca": authority.ca, "certificate": certificate, "private_key": private_key}
    client = Client(url_of(mutual, transport), max_retries=0, **files)
    with client, pytest.raises(UnavailableError):
        client.models()


def test_new_certificates_are_used_without_a_restart(transport, tmp_path):
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    certificate, private_key = old.issue("server")
    files = {"tls_certificate": str(certificate), "tls_key": str(private_key)}
    with serve(engine="thread", host="localhost", **files) as server:
        url = url_of(server, transport)
        with Client(url, ca=old.ca) as before, before.stream("lj") as stream:
            stream.predict(molecule())
            new.issue("server")
            wait_until(lambda: _is_trusted(url, new.ca))
            assert not _is_trusted(url, old.ca)
            stream.predict(molecule())  # connections that are open stay open


def _is_trusted(url, ca):
    with Client(url, ca=ca, max_retries=0) as client:
        try:
            return bool(client.models())
        except UnavailableError:
            return False


def test_bad_new_certificates_keep_the_old_ones_and_are_logged(tmp_path, caplog):
    authority = Authority(tmp_path)
    certificate, private_key = authority.issue("server")
    certificates = Certificates(certificate, private_key)
    good = certificates._loaded
    certificate.write_text("no certificate")
    certificates.reload_if_changed()
    assert certificates._loaded is good
    assert "the certificates stay as they were" in caplog.text
    caplog.clear()
    other = Authority(tmp_path, "other").issue("other")
    certificate.write_bytes(other[0].read_bytes())  # the key is not there yet
    certificates.reload_if_changed()
    assert certificates._loaded is good
    assert caplog.records[-1].levelno == logging.ERROR
    private_key.write_bytes(other[1].read_bytes())
    certificates.reload_if_changed()
    assert certificates._loaded is not good


def test_files_that_are_no_certificates_are_refused_with_their_names(tmp_path, authority):
    certificate, private_key = authority.issue("good")
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for files in ((bad, private_key), (certificate, bad), (certificate, tmp_path / "none.pem")):
        with pytest.raises(OSError, match=r"cannot use the certificates in .*pem, .*: "):
            Certificates(*files)
    with pytest.raises(OSError, match=r"cannot use the certificates in .*bad.pem"):
        Certificates(certificate, private_key, bad)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_client_refuses_files_that_are_no_certificates(tmp_path, authority, scheme):
    url = f"{scheme}://127.0.0.1:1"
    certificate, private_key = authority.issue("good")
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for options in (
        {"ca": bad},
        {"ca": tmp_path / "none.pem"},
        {"certificate": certificate},
        {"certificate": certificate, "private_key": bad},
    ):
        names = ", ".join(options)
        with pytest.raises(ValueError, match=f"^{names}: expected files of certificates in PEM"):
            Client(url, **options)
    with pytest.raises(ValueError, match=r"^private_key: expected the certificate"):
        Client(url, private_key=private_key)
    with pytest.raises(ValueError, match=r"^ca: expected a path, got int"):
        Client(url, ca=1)
    with pytest.raises(ValueError, match=r"^ca: expected a url with TLS"):
        Client(url.replace("s:", ":"), ca=authority.ca)
