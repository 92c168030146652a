"""The source of this program, if it can be lent to an environment that has none."""

from pathlib import Path

import twinforce_models
import twinforce_proto
import twinforce_service

_PACKAGES = (twinforce_proto, twinforce_models, twinforce_service)


def lendable_roots() -> list[Path]:
    """Return the folders that our packages are imported from, if they hold nothing else.

    That is so in a checkout. Where other packages are installed beside ours, nothing is lent, as an
    engine must not find them.
    """
    roots = [_root(package.__file__) for package in _PACKAGES]
    return roots if all(_holds_only_ours(root) for root in roots) else []


def checkout() -> Path | None:
    """Return the checkout that this program runs from, if it does."""
    roots = lendable_roots()
    above = {root.parent for root in roots}
    if len(above) == 1 and (folder := above.pop() / "pyproject.toml").is_file():
        return folder.parent
    return None


def _root(file: str | None) -> Path:
    assert file is not None
    return Path(file).absolute().parents[1]


def _holds_only_ours(root: Path) -> bool:
    return all(path.name.startswith(("twinforce_", "__pycache__", ".")) for path in root.iterdir())
