"""Files are read once, checked, and never run unless the user vouches for them."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from twinforce_models.loading.model_file import read_file
from twinforce_proto import ModelLoadError


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Shape:
    """A harmless class, which is not allowed unless a family says so."""

    def __init__(self):
        self.sides = 3


@pytest.fixture
def owned(tmp_path):
    return tmp_path / "owned"


def malicious(folder, owned, kind):
    """Return a file that runs code when it is unpickled without care."""
    path = folder / "bad.ckpt"
    content = {"weights": torch.ones(3), "extra": Payload(owned)}
    if kind == "zip":
        torch.save(content, path)
    elif kind == "former":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def read(path, sha256=None, *, trusted=False):
    return read_file(path, sha256, trusted=trusted, published=False)


@pytest.mark.parametrize("kind", ["zip", "former", "pickle"])
def test_a_malicious_file_is_refused_without_running_it(tmp_path, owned, kind, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file = read(malicious(tmp_path, owned, kind))
    with pytest.raises(
        ModelLoadError, match=r"run arbitrary code.*#sha256=.*--trust-pickles|expected a checkpoint"
    ):
        file.unpickle()
    assert not owned.exists()


def test_the_error_names_what_is_not_safe(tmp_path, owned):
    file = read(malicious(tmp_path, owned, "zip"))
    with pytest.raises(ModelLoadError, match=r"contains .*pathlib"):
        file.unpickle()


def test_a_user_can_vouch_for_a_file_by_its_hash(tmp_path, owned):
    path = malicious(tmp_path, owned, "zip")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ModelLoadError, match="its SHA-256 is"):
        read(path, "00" * 32)
    assert not owned.exists()
    assert set(read(path, sha256).unpickle()) == {"weights", "extra"}
    assert owned.exists()


def test_a_server_can_trust_all_pickles(tmp_path, owned):
    read(malicious(tmp_path, owned, "zip"), trusted=True).unpickle()
    assert owned.exists()


def test_a_family_allows_classes(tmp_path):
    torch.save({"shape": Shape()}, tmp_path / "shape.ckpt")
    file = read(tmp_path / "shape.ckpt")
    with pytest.raises(ModelLoadError, match=r"contains .*Shape,? and loading it"):
        file.unpickle()
    assert file.unpickle([Shape])["shape"].sides == 3
    with pytest.raises(ModelLoadError):  # allowed for one file only
        file.unpickle()


def test_what_other_packages_allow_for_the_whole_process_is_refused_all_the_same(tmp_path):
    torch.save({"shape": Shape()}, tmp_path / "shape.ckpt")
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([Shape]):
        with pytest.raises(ModelLoadError, match=r"contains .*Shape,? and loading it"):
            read(tmp_path / "shape.ckpt").unpickle()
        assert set(torch.serialization.get_safe_globals()) == before | {Shape}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04", b"\x80\x02."])
def test_what_is_no_checkpoint_is_an_error(tmp_path, content):
    path = tmp_path / "note.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"note.ckpt"):
        read(path).unpickle()


def test_the_bytes_that_were_checked_are_the_ones_that_are_used(tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save({"value": 1}, path)
    file = read(path, hashlib.sha256(path.read_bytes()).hexdigest())
    torch.save({"value": 2}, path)
    assert file.unpickle() == {"value": 1}
    with file.private_copy() as copy:
        assert torch.load(copy, weights_only=True) == {"value": 1}
        assert copy.name == path.name
        assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert not copy.exists()


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ModelLoadError, match=rf"{tmp_path}: cannot be read: Is a directory"):
        read(tmp_path)
