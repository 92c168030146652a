"""Tests that the folder of a distillation belongs to one distillation and keeps its time."""

import json

import pytest

from twinforce.distill.folder import DistillFolder


def identity(**values):
    return {"teacher": "mace:small", "temperatures_k": [300.0], "seed": 0} | values


def claimed(path, *, anew=False, **values):
    return DistillFolder(path).claimed(identity(**values), anew=anew)


def test_phases_and_time_are_found_again(tmp_path):
    folder = DistillFolder(tmp_path / "out")
    with folder.claimed(identity(), anew=False):
        phase = folder.phase("sample-0", 12.0)
        phase.spent_s, phase.is_done, phase.facts = 3.0, True, {"n": 4}
        folder.save()
        spent_s = folder.spent_s
    again = DistillFolder(tmp_path / "out")
    with again.claimed(identity(), anew=False):
        assert again.phases == {"sample-0": phase}
        assert again.phase("sample-0", 99.0).allotted_s == 12.0
        assert again.spent_s >= spent_s


def test_other_arguments_are_refused_by_name(tmp_path):
    with claimed(tmp_path / "out"):
        pass
    with (
        pytest.raises(ValueError, match=r"temperatures_k 300\.0, got 300\.0, 400\.0.*--anew"),
        claimed(tmp_path / "out", temperatures_k=[300.0, 400.0]),
    ):
        pass


def test_a_new_start_deletes_the_old_one_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    with claimed(out):
        (out / "data").mkdir()
        (out / "data" / "round-0.xyz").write_text("old")
        (out / "notes.txt").write_text("of the user")
    with claimed(out, anew=True, seed=1):
        assert not (out / "data").exists()
        assert (out / "notes.txt").exists()
    assert json.loads((out / "state.json").read_text())["identity"]["seed"] == 1


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    for anew in (False, True):
        with (
            pytest.raises(ValueError, match="expected an empty folder"),
            claimed(tmp_path, anew=anew),
        ):
            pass
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_that_a_killed_process_has_just_begun_is_taken_over(tmp_path):
    (tmp_path / "state.json.part").write_text('{"format"')
    with claimed(tmp_path):
        assert (tmp_path / "state.json").exists()


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        claimed(tmp_path / "out"),
        pytest.raises(ValueError, match="another process"),
        claimed(tmp_path / "out"),
    ):
        pass
