"""The place of the keys of an issuer: a file, a URL, or what the issuer says about itself."""

import json
import ssl
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from twinforce_service.hosts import is_loopback, is_safe_url, is_url

_DISCOVERY = "/.well-known/openid-configuration"
# Seconds that a connection may be silent, and that a document may take.
_SILENCE_S, _LONGEST_S = 5.0, 10.0
_MOST_BYTES = 2**20
_PART = 64 * 1024


class KeySourceError(Exception):
    """The keys of an issuer cannot be read."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """The place of the keys of an issuer (JWKS).

    Attributes:
        issuer: Issuer of the tokens, a URL.
        jwks: URL or path of the keys; empty means the URL that the issuer names (OpenID Connect
            Discovery).
        ca: File of certificates to trust, in PEM; empty means those of the system.
        token_file: File of a token to give to the issuer; empty means none.
    """

    issuer: str
    jwks: str = ""
    ca: str = ""
    token_file: str = ""

    @property
    def files(self) -> list[Path]:
        """The files whose change means other keys."""
        is_file = self.jwks and not is_url(self.jwks)
        return [Path(self.jwks).expanduser()] if is_file else []

    def read(self) -> Any:
        """Return the JWKS; that may take some seconds.

        Raises:
            KeySourceError: It cannot be read; the message says why.
        """
        try:
            if self.files:
                return _parsed(self.files[0].read_bytes()[: _MOST_BYTES + 1])
            return self._get(self.jwks or self._discover())
        except (OSError, ValueError, RecursionError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise KeySourceError(str(reason)[:1000]) from error

    def _discover(self) -> str:
        values = self._get(self.issuer.rstrip("/") + _DISCOVERY)
        found = values if isinstance(values, dict) else {}
        if found.get("issuer") != self.issuer:
            got = str(found.get("issuer"))[:200]
            raise ValueError(f"{_DISCOVERY}: expected the issuer {self.issuer}, got {got!r}")
        url = found.get("jwks_uri")
        if not isinstance(url, str) or not is_safe_url(url):
            raise ValueError(f"{_DISCOVERY}: expected a jwks_uri that begins with https://")
        return url

    def _get(self, url: str) -> Any:
        headers = {"Accept": "application/json", "User-Agent": "twinforce-server"}
        if self.token_file:
            token = Path(self.token_file).expanduser().read_text().strip()
            headers["Authorization"] = f"Bearer {token}"
        context = ssl.create_default_context(cafile=self.ca or None)
        handlers = [urllib.request.HTTPSHandler(context=context), _NoRedirects()]
        if is_loopback(urlsplit(url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        opener = urllib.request.build_opener(*handlers)
        # The address of the issuer was checked with the settings, and that of its keys above.
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        try:
            with opener.open(request, timeout=_SILENCE_S) as reply:
                return _parsed(_content(reply))
        except HTTPError as error:
            with error:
                raise OSError(f"{url} answered with {error.code} {error.reason}") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which could lead to other hosts."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _content(reply: HTTPResponse) -> bytes:
    """Return the content of a reply, or the beginning of one that is too large."""
    ends_at = time.monotonic() + _LONGEST_S
    content = b""
    while len(content) <= _MOST_BYTES and (part := reply.read1(_PART)):
        content += part
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{reply.url} took longer than {_LONGEST_S:g} s")
    return content


def _parsed(content: bytes) -> Any:
    if len(content) > _MOST_BYTES:
        raise ValueError(f"expected at most {_MOST_BYTES} bytes")
    return json.loads(content)
