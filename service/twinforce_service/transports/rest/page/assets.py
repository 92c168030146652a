"""The files of the page: read once, and sent with headers that let them do nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from twinforce_dynamics.elements import MASSES, SYMBOLS

_FOLDER = Path(__file__).with_name("assets")
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".xyz": "text/plain",
}
# Nothing is loaded from elsewhere or sent there, and no script or style is part of a document.
# 3Dmol makes images of what it has drawn.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for again, and sent again only if it has changed
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page.

    Attributes:
        content: Its bytes.
        media_type: Its media type.
    """

    content: bytes
    media_type: str

    def response(self, request: Request) -> Response:
        """Return the reply to a request for the file."""
        tag = f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'
        headers = _HEADERS | {"ETag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(None, HTTPStatus.NOT_MODIFIED, headers)
        return Response(self.content, HTTPStatus.OK, headers, media_type=self.media_type)


def read_assets() -> Mapping[str, Asset]:
    """Return the files of the page by their path below its folder."""
    found = {
        path.relative_to(_FOLDER).as_posix(): Asset(path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }
    return found | {"elements.js": Asset(_elements().encode(), _MEDIA_TYPES[".js"])}


def _elements() -> str:
    """Return the module of the symbols and masses of the elements, by atomic number."""
    symbols, masses = json.dumps(["", *SYMBOLS]), json.dumps([0.0, *MASSES.tolist()])
    return f"export const SYMBOLS = {symbols};\nexport const MASSES = {masses};\n"
