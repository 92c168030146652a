"""Tests that a file can be cut back to a mark from wherever its writer was killed."""

import errno
import io
import os
from contextlib import closing
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import TrajectoryWriter

from tests.clients.serving import ARGON
from tests.systems import molecule
from twinforce.md.growing import GrowingFile


class Recorded(GrowingFile):
    """A file that remembers where it wrote what."""

    def __init__(self, path, mark=None):
        self.writes = []
        super().__init__(path, mark)

    def write(self, content):
        self.writes.append((self.tell(), bytes(content)))
        return super().write(content)


def frame(number):
    atoms = Atoms([ARGON] * 2, molecule(2, seed=number).positions, info={"number": number})
    atoms.calc = SinglePointCalculator(atoms, energy=float(number), forces=np.ones((2, 3)))
    return atoms


def traj_appender(file):
    writer = TrajectoryWriter(file, "a" if file.size else "w")
    file.seek(0, os.SEEK_END)
    return lambda number: writer.write(frame(number))


def extxyz_appender(file):
    def append(number):
        text = io.StringIO()
        ase.io.write(text, frame(number), format="extxyz")
        file.write(text.getvalue().encode())

    return append


APPENDERS = {"run.traj": traj_appender, "run.extxyz": extxyz_appender}


def numbers_in(path):
    return [atoms.info["number"] for atoms in ase.io.read(path, ":")]


@pytest.mark.parametrize("name", APPENDERS)
@pytest.mark.parametrize("n_frames", [1, 2, 42, 43])
def test_a_record_that_was_torn_at_any_byte_is_removed(tmp_path, name, n_frames):
    """The table of a .traj file moves when the second and the 43rd frame are written."""
    path, torn = tmp_path / name, tmp_path / f"torn-{name}"
    file = Recorded(path)
    append = APPENDERS[name](file)
    for number in range(n_frames):
        with file.record():
            append(number)
    mark, before = file.mark(), path.read_bytes()
    file.writes.clear()
    for number in (n_frames, n_frames + 1):
        with file.record():
            append(number)
    file.close()
    content = bytearray(before)
    for place, written in file.writes:
        for length in sorted({0, 1, len(written) // 2, len(written) - 1}):
            part = written[:length]
            torn.write_bytes(content[:place] + part + content[place + length :])
            assert_continues(torn, name, mark, before)
        content[place : place + len(written)] = written
    torn.write_bytes(content)
    assert_continues(torn, name, mark, before)
    assert numbers_in(torn) == [*range(n_frames), 99]


def assert_continues(torn, name, mark, before):
    mark.check(torn)
    file = GrowingFile(torn, mark)
    assert file.size == len(before)
    with file.record():
        APPENDERS[name](file)(99)
    file.close()
    assert ase.io.read(torn, -1).info["number"] == 99


def test_a_file_that_was_cut_and_grew_again_keeps_all_frames(tmp_path):
    path = tmp_path / "run.traj"
    file, mark, expected = GrowingFile(path), None, []
    for number in (0, 1, 2, 41, 42, 43, 44, 45, 1764, 1765):
        append = traj_appender(file)
        for each in range(len(expected), number + 3):
            if each == number:
                mark = file.mark()
            with file.record():
                append(each)
        file.close()
        mark.check(path)
        file = GrowingFile(path, mark)
        expected = [*range(number)]
    file.close()
    assert numbers_in(path) == expected


@pytest.mark.parametrize("name", APPENDERS)
def test_a_record_that_fails_leaves_the_file_as_it_was(tmp_path, name):
    path = tmp_path / name
    file = GrowingFile(path)
    append = APPENDERS[name](file)
    for number in range(2):
        with file.record():
            append(number)
    before = numbers_in(path)

    def fail():
        append(2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=f"No space left on device: '.*{name}'"), file.record():
        fail()
    with pytest.raises(KeyboardInterrupt), file.record():
        interrupt_after(file.write(b"half"))
    file.close()
    assert numbers_in(path) == before


@pytest.mark.parametrize("name", APPENDERS)
def test_another_file_or_a_changed_one_is_refused(tmp_path, name):
    path = tmp_path / name
    file = GrowingFile(path)
    append = APPENDERS[name](file)
    for number in range(3):
        append(number)
    mark = file.mark()
    append(3)
    file.close()
    content = path.read_bytes()
    mark.check(path)
    path.write_bytes(content[: mark.size - 1])
    with pytest.raises(ValueError, match=rf"{name}: expected at least the {mark.size} bytes"):
        mark.check(path)
    for place in (8, mark.size - 20):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"{name}: .*changed"):
            mark.check(path)


def test_a_device_is_written_to_and_has_no_mark():
    with closing(GrowingFile(Path("/dev/null"))) as file:
        fill(file)
        assert file.mark() is None
    full = pytest.raises(OSError, match="No space left on device: '/dev/full'")
    with closing(GrowingFile(Path("/dev/full"))) as file, full:
        fill(file)


def interrupt_after(_):
    raise KeyboardInterrupt


def fill(file):
    with file.record():
        file.write(b"text")
