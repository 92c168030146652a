"""The tokens that are accepted, and what their claims allow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from twinforce_proto import PermissionDeniedError, UnauthenticatedError
from twinforce_service.callers.entry import AccessEntry
from twinforce_service.callers.key_file import TokenRule
from twinforce_service.callers.permission import ADMIN, CALLS, SCOPES

# Name of the entry that stands for the tokens that no entry of the file matches.
_NO_RULE = "oidc"
_MOST_LETTERS = 255
# Characters of names that stay as they are; others are percent-encoded, so that no two names clash.
_PLAIN = "@:/|+=.,-_~ "


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """The tokens that are accepted, and what their claims say.

    Attributes:
        issuer: Issuer, as in the claim `iss`.
        audiences: Names of the service, one of which must be in the claim `aud`.
        name_claim: Claim that names the caller.
        scope_claim: Claim that holds scopes, as a list or as a text with spaces in between; empty
            means that the entries of the file of keys alone decide.
        scope_prefix: Text before the scopes of this service in that claim; others are ignored.
    """

    issuer: str
    audiences: tuple[str, ...]
    name_claim: str = "sub"
    scope_claim: str = ""
    scope_prefix: str = ""

    @property
    def expected(self) -> str:
        """The tokens that are expected, in words."""
        return f"expected a token of {self.issuer} for {' or '.join(self.audiences)}"

    def entry_for(self, claims: Mapping[str, Any], rules: Sequence[TokenRule]) -> AccessEntry:
        """Return what a verified token allows: by the first rule that matches it.

        Raises:
            UnauthenticatedError: The token does not name its owner.
            PermissionDeniedError: No rule is for it, or it has none of the scopes.
        """
        rule = next((each for each in rules if each.matches(claims)), None)
        if rule is None and not self.scope_claim:
            raise PermissionDeniedError("no entry of the file of keys is for this token")
        scopes = frozenset(CALLS) if rule is None else rule.scopes
        if self.scope_claim:
            scopes = self._scopes(claims, frozenset({ADMIN}) if rule is None else scopes)
        name = f"{_NO_RULE if rule is None else rule.name}:{self._name(claims)}"
        if rule is None:
            return AccessEntry(name=name, scopes=scopes)
        return AccessEntry(
            name=name,
            scopes=scopes,
            models=rule.models,
            share=rule.share,
            may_be_urgent=rule.may_be_urgent,
            limits=rule.limits,
            expires=rule.expires,
        )

    def _name(self, claims: Mapping[str, Any]) -> str:
        name = _claim(claims, self.name_claim)
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_LETTERS:
            got = type(name).__name__ if not isinstance(name, str) else f"{len(name)} letters"
            expected = f"expected a text of at most {_MOST_LETTERS} letters"
            raise UnauthenticatedError(f"the claim {self.name_claim}: {expected}, got {got}")
        try:
            return quote(name, safe=_PLAIN)
        except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can hold
            expected = "expected a text of Unicode characters"
            raise UnauthenticatedError(f"the claim {self.name_claim}: {expected}") from None

    def _scopes(self, claims: Mapping[str, Any], allowed: frozenset[str]) -> frozenset[str]:
        """Return the scopes that both the token and its rule have."""
        value = _claim(claims, self.scope_claim)
        texts = value.split() if isinstance(value, str) else value
        prefix = self.scope_prefix
        given = {
            text.removeprefix(prefix)
            for text in (texts if isinstance(texts, list) else ())
            if isinstance(text, str) and text.startswith(prefix)
        } & {*SCOPES}
        if ADMIN in given:
            return allowed
        scopes = frozenset(given if ADMIN in allowed else given & allowed)
        if not scopes:
            known = ", ".join(f"{prefix}{scope}" for scope in SCOPES)
            text = f"expected some of {known} in the claim {self.scope_claim} of the token"
            raise PermissionDeniedError(f"{text}, got none that its owner may use")
        return scopes


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim; dots lead into objects unless a claim has the whole name."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
