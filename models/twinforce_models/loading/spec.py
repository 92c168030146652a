"""Specs of models of other projects.

water.pt                              a file whose suffix tells its family
orb:orb-v3-direct-20-omat             a published model of a family
orb:weights.ckpt#arch=orb-v2          a file of a family, with an option of that family
water.pt#variant=pbe&sha256=3f0a...   one of several energies, in a known file
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from twinforce_proto import ModelLoadError

_PREFIX = re.compile(r"([a-z][a-z0-9_-]*):(.+)")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A parsed spec.

    Attributes:
        text: The whole spec.
        family: Name before the first colon; None if there is none.
        place: Path of a file, or a published name.
        sha256: Expected SHA-256 of the file, in hexadecimal. None accepts any.
        options: The other options after #, by name.
    """

    text: str
    family: str | None
    place: str
    sha256: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def start(self) -> str:
        """The spec without its options: family and place."""
        return self.text.partition("#")[0]

    @classmethod
    def parse(cls, text: str) -> "ModelSpec":
        """Split a spec into its parts.

        Raises:
            ModelLoadError: If an option has no value or is given twice.
        """
        start, _, fragment = text.partition("#")
        found = _PREFIX.fullmatch(start)
        family, place = found.groups() if found else (None, start)
        options: dict[str, str] = {}
        for part in filter(None, fragment.split("&")):
            key, _, value = part.partition("=")
            if not value or key in options:
                raise ModelLoadError(f"model {text!r}: expected KEY=VALUE once per key, got {part}")
            options[key] = value
        sha256 = options.pop("sha256", "").lower() or None
        return cls(text, family, place, sha256, options)


def split_option(text: str, key: str) -> tuple[str, str | None]:
    """Return a spec without one of its options, and the value of that option, if it has one.

    Raises:
        ModelLoadError: If the option has no value or is given twice.
    """
    start, _, fragment = text.partition("#")
    parts = fragment.split("&")
    found = [part for part in parts if part.partition("=")[0] == key]
    if not found:
        return text, None
    value = found[0].partition("=")[2]
    if not value or len(found) > 1:
        raise ModelLoadError(f"model {text!r}: expected {key}=VALUE once, got {'&'.join(found)}")
    rest = "&".join(part for part in parts if part not in found)
    return f"{start}#{rest}" if rest else start, value
