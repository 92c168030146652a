"""Packages of third parties, installed for one test."""

import sys
from importlib import invalidate_caches


def install(monkeypatch, folder, name, code, entry_points=""):
    """Install a package of one module, and forget it at the end of the test."""
    site = folder / "site"
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    (site / f"{name}.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.delitem(sys.modules, name, raising=False)
    invalidate_caches()
    return site
