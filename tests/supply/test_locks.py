"""Tests that the lock files pin what the images install, as it was tested."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply.lock import EXTRAS, without_cuda, without_hashes
from tests.supply.packages import LOCKS, ROOT, pinned
from tests.supply.requirements import requirements_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(extra):
    """Return what an extra needs here, by the metadata of what is installed."""
    found, todo = set(), [Requirement(f"twinforce[{extra}]")]
    while todo:
        name, extras = canonicalize_name(todo[0].name), todo.pop(0).extras
        for each in map(Requirement, _requirements(name, extras)):
            is_ours = each.name == "twinforce"
            if each.marker is None or any(
                each.marker.evaluate({"extra": e}) for e in extras or {""}
            ):
                key = (canonicalize_name(each.name), tuple(sorted(each.extras)))
                if key not in found:
                    found.add(key)
                    todo.append(each)
            assert not is_ours or each.extras, "an extra needs another one, not us"
    return {name for name, _ in found} - {"twinforce"}


def _requirements(name, extras):
    if name == "twinforce":
        of_extras = (PROJECT["optional-dependencies"][each] for each in extras)
        return [*PROJECT["dependencies"], *chain.from_iterable(of_extras)]
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_agrees_with_the_constraints(extra):
    constraints = dict(pinned(ROOT / "constraints.txt"))
    lock = pinned(LOCKS / f"{extra}.lock")
    names = {name for name, _ in lock}
    assert {"numpy", "grpcio", "fastapi"} <= names & constraints.keys()
    assert {name: v for name, v in lock if v != constraints.get(name, v)} == {}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_names_all_that_its_extra_needs(extra):
    names = {name for name, _ in pinned(LOCKS / f"{extra}.lock")}
    without = {"torch"} if extra == "server" else set()
    assert needed(extra) - without - names == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_bill_of_materials_is_made_of_all_that_an_image_installs(extra, tmp_path):
    (tmp_path / "requirements").write_text(requirements_of(extra))
    listed = pinned(tmp_path / "requirements")
    assert pinned(LOCKS / f"{extra}.lock") <= listed
    assert needed(extra) - {name for name, _ in listed} == set()
    constraints = dict(pinned(ROOT / "constraints.txt"))
    assert [version for name, version in listed if name == "torch"] == [constraints["torch"]]


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.lock")), ids=lambda path: path.stem)
def test_each_package_of_a_lock_has_hashes(path):
    assert without_hashes(path.read_text()) == []


def test_an_entry_without_hashes_is_noticed():
    assert without_hashes("# head\na==1 \\\n    --hash=sha256:0\nb==2\n    # via x\n") == ["b==2"]


def test_the_lock_for_the_cpu_leaves_pytorch_and_cuda_to_another_index():
    names = {name for name, _ in pinned(LOCKS / "server.lock")}
    assert not [each for each in names if each.startswith(("nvidia", "cuda", "torch", "triton"))]
    assert {"sympy", "jinja2"} <= names  # what PyTorch needs on a CPU


def test_only_whole_entries_are_left_out_of_a_lock():
    text = "# head\nattrs==1 \\\n    --hash=a\n    # via x\nnvidia-a==1 ; linux \\\n    --hash=b\n"
    text += "torch==2 \\\n    --hash=c\ntqdm==3 \\\n    --hash=d\n"
    assert without_cuda(text) == (
        "# head\nattrs==1 \\\n    --hash=a\n    # via x\ntqdm==3 \\\n    --hash=d\n"
    )
