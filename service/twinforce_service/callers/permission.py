"""The permission of a caller: the calls and models that it may use."""

from collections.abc import Iterable
from dataclasses import dataclass

from twinforce_proto import PermissionDeniedError

CALLS = ("predict", "nonconservativity", "propagate", "relax")
"""The scopes of the calls, which a key has unless it is made with others."""

METRICS = "metrics"
ADMIN = "admin"

SCOPES = (*CALLS, METRICS, ADMIN)
"""All scopes. `admin` includes all others."""


@dataclass(frozen=True, slots=True)
class Permission:
    """The calls and models that a caller may use.

    Attributes:
        key: Name of the key, for errors.
        scopes: Scopes of the key; None means that there are no keys, and everything is allowed.
        models: Names of models; None means all.
    """

    key: str = ""
    scopes: frozenset[str] | None = None
    models: frozenset[str] | None = None

    def require(self, scope: str, model: str | None = None) -> None:
        """Check that a call is allowed.

        Args:
            scope: Scope that the call needs.
            model: Name of the model that it asks for; None if it asks for none.

        Raises:
            PermissionDeniedError: The key has not this scope, or is not for this model.
        """
        if self.scopes is not None and not self.scopes & {scope, ADMIN}:
            have = ", ".join(sorted(self.scopes))
            raise PermissionDeniedError(f"expected a key with the scope {scope}, got {have}")
        if model is not None:
            self.require_model(model)

    def require_model(self, model: str) -> None:
        """Check that a model may be used, whether it is served or not.

        Raises:
            PermissionDeniedError: The key is not for this model.
        """
        if not self.allows(model):
            have = ", ".join(sorted(self.models or ()))
            text = f"model: expected one that the key {self.key!r} is for ({have}), got {model!r}"
            raise PermissionDeniedError(text, field="model")

    def allows(self, model: str) -> bool:
        """Return True if a model may be used."""
        return self.models is None or model in self.models


EVERYTHING = Permission()
"""The permission of every caller of a service without keys."""


def checked_scopes(names: Iterable[str]) -> frozenset[str]:
    """Return scopes as a set.

    Raises:
        ValueError: One of them does not exist, or there is none.
    """
    scopes = frozenset(names)
    if not scopes or not scopes <= {*SCOPES}:
        got = ", ".join(sorted(scopes)) or "none"
        raise ValueError(f"scopes: expected some of {', '.join(SCOPES)}, got {got}")
    return scopes
