"""Tests of complete assessments of a toy model: budgets, continuation, refusals and the page."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import ase.io
import pytest

from tests.clients.serving import serve
from tests.potentials import WithoutDirect, loaded
from twinforce import Client
from twinforce.assess import PRESETS, Conditions, Progress, assess
from twinforce.assess.budget import EXPIRED, NEVER, Deadline, share_of
from twinforce.assess.folder import Folder, UnitResults
from twinforce.assess.plan import plan, weights
from twinforce.assess.report.page import page_of
from twinforce.cli import run
from twinforce.cli.assess import _PRESETS

TINY = ["loops", "nve:hybrid-4", "nve:direct", "nvt:hybrid-8:svr:10", "lambda"]


@pytest.fixture(scope="module", autouse=True)
def shorter_simulations():
    """The quick preset, with simulations of a hundred steps."""
    usual = PRESETS["quick"]
    PRESETS["quick"] = replace(usual, n_loops=2, nve_ps=0.2, nvt_ps=0.32)
    yield
    PRESETS["quick"] = usual


def statuses(report):
    return {key: unit["status"] for each in report["pieces"].values() for key, unit in each.items()}


def test_an_assessment_stops_at_its_budget_and_continues_later(client, atoms, conditions, tmp_path):
    def assessed(**options):
        return assess(
            client, atoms, tmp_path, preset="quick", pieces=TINY, conditions=conditions, **options
        )

    first = assessed(budget_minutes=0.0)
    assert set(statuses(first).values()) == {"not run"}
    assert {each["finding"] for each in first["verdict"]["judgements"]} == {"not shown"}
    second = assessed()
    assert set(statuses(second).values()) == {"done"}
    assert json.loads((tmp_path / "report.json").read_text()) == second
    drift = second["pieces"]["nve"]["nve:direct"]["drift"]
    assert abs(drift["rate"]) > 3 * drift["error"] > 0
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("units/*/*.f64")}
    third = assessed(budget_minutes=0.0)
    assert third["pieces"] == second["pieces"]
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_the_report_states_its_provenance(client, atoms, conditions, tmp_path):
    report = assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)
    provenance, info = report["provenance"], client.model()
    assert provenance["model"] == "lj"
    assert provenance["sha256"] == info.sha256
    assert provenance["dtype"] == "float64"
    assert provenance["device"] == "cpu"
    assert provenance["service_version"]
    assert provenance["client_version"]
    assert report["conditions"]["seed"] == 3
    assert report["atoms"]["counts"] == {"Ar": 4, "Ne": 4}
    assert report["wall_s"] > 0


def test_longer_simulations_continue_where_shorter_ones_ended(client, atoms, conditions, tmp_path):
    def assessed(preset):
        report = assess(
            client, atoms, tmp_path, preset=preset, pieces=["nve:direct"], conditions=conditions
        )
        return report["pieces"]["nve"]["nve:direct"]

    short = assessed("quick")
    rows = (tmp_path / "units" / "nve_direct" / "rows.f64").read_bytes()
    PRESETS["standard"], usual = replace(PRESETS["standard"], nve_ps=0.4), PRESETS["standard"]
    long = assessed("standard")
    PRESETS["standard"] = usual
    assert (short["picoseconds"], long["picoseconds"]) == (0.2, 0.4)
    assert (tmp_path / "units" / "nve_direct" / "rows.f64").read_bytes().startswith(rows)


def test_recordings_are_analyzed_again_after_a_change_of_the_analysis(
    client, atoms, conditions, tmp_path
):
    def assessed():
        return assess(
            client,
            atoms,
            tmp_path,
            preset="quick",
            pieces=["nvt:hybrid-8:svr:10"],
            conditions=conditions,
        )["pieces"]["nvt"]["nvt:hybrid-8:svr:10"]

    before = assessed()
    folder = Folder(tmp_path)
    results = folder.results("nvt:hybrid-8:svr:10")
    rows = (folder.directory("nvt:hybrid-8:svr:10") / "rows.f64").read_bytes()
    outdated = replace(results, analysis=0, values={"picoseconds": 0.32})
    folder.write("nvt:hybrid-8:svr:10", outdated)
    again = assessed()
    assert {**again, "wall_s": 0} == {**before, "wall_s": 0}
    assert (folder.directory("nvt:hybrid-8:svr:10") / "rows.f64").read_bytes() == rows


def test_the_folder_of_another_assessment_is_refused(client, atoms, conditions, tmp_path):
    def assessed(atoms, conditions, **options):
        pieces = ["loops"]
        return assess(client, atoms, tmp_path, pieces=pieces, conditions=conditions, **options)

    assessed(atoms, conditions)
    moved = atoms.copy()
    moved.positions[0, 0] += 0.1
    with pytest.raises(
        ValueError, match=r"expected an assessment with atoms \w+, got one with \w+"
    ):
        assessed(moved, conditions)
    hotter = replace(conditions, temperature_k=50.0)
    with pytest.raises(ValueError, match=r"temperature_k 50\.0, got one with 40\.0.*--anew"):
        assessed(atoms, hotter)
    assert assessed(moved, hotter, anew=True)["conditions"]["temperature_k"] == 50.0
    other = tmp_path / "units"
    with pytest.raises(ValueError, match="expected an empty folder or one of an assessment"):
        assess(client, atoms, other, pieces=["loops"], conditions=conditions)


def test_a_folder_that_a_killed_process_has_just_begun_is_taken_over(
    server, atoms, conditions, tmp_path
):
    (tmp_path / "assessment.json.part").write_text('{"format"')
    with Client(server.grpc_url) as client:
        report = assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)
    assert report["pieces"]["loops"]


def test_another_model_under_the_same_name_is_refused(server, atoms, conditions, tmp_path):
    with Client(server.grpc_url) as client:
        assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)
    with (
        serve({"lj": loaded(WithoutDirect(), "lj")}) as other,
        Client(other.grpc_url) as client,
        pytest.raises(ValueError, match="expected an assessment with"),
    ):
        assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)


def test_units_that_a_model_does_not_support_are_skipped_with_the_reason(
    atoms, conditions, tmp_path
):
    conservative = {"conservative": loaded(WithoutDirect(), "conservative")}
    with serve(conservative) as server, Client(server.grpc_url) as client:
        report = assess(
            client,
            atoms,
            tmp_path,
            preset="quick",
            pieces=["lambda", "loops", "nve"],
            conditions=conditions,
        )
    found = statuses(report)
    assert found["lambda:server"] == found["nve:hybrid-4"] == found["loops"] == "skipped"
    assert found["nve:conservative"] == "done"
    note = report["pieces"]["loops"]["loops"]["note"]
    assert note == "skipped: the model has no direct_forces"


def test_a_unit_that_another_process_has_locked_is_not_run(client, atoms, conditions, tmp_path):
    assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions, budget_minutes=0.0)
    with Folder(tmp_path).locked("loops") as is_ours:
        assert is_ours
        report = assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)
    assert report["pieces"]["loops"]["loops"]["note"] == "not run: another process works on it"
    with Folder(tmp_path).locked("loops", Deadline.after(5.0)) as is_ours:
        assert is_ours


def test_units_with_other_settings_start_over(tmp_path):
    folder = Folder(tmp_path)
    assert not folder.prepare("a:b", {"x": 1})
    folder.write("a:b", UnitResults({"value": float("nan")}))
    assert folder.results("a:b").values == {"value": None}
    assert not folder.prepare("a:b", {"x": 1})
    assert folder.prepare("a:b", {"x": 2})
    assert folder.results("a:b") is None
    assert folder.keys() == ["a:b"]


def test_the_files_of_an_assessment_keep_their_fields(client, atoms, conditions, tmp_path):
    """Folders of earlier versions can be continued."""
    assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)
    unit = tmp_path / "units" / "loops"
    fields = {
        path.name: set(json.loads(path.read_text()))
        for path in (tmp_path / "assessment.json", unit / "unit.json", unit / "found.json")
    }
    assert fields == {
        "assessment.json": {
            "format", "model", "version", "sha256", "dtype", "atoms", "temperature_k",
            "time_step_fs", "equilibration_ps", "seed",
        },
        "unit.json": {"key", "settings"},
        "found.json": {"values", "is_done", "note", "wall_s", "cost", "analysis"},
    }  # fmt: skip


def test_time_is_divided_by_weight_among_the_remaining_units():
    assert share_of(NEVER, 1.0, [1.0]) == NEVER
    whole = Deadline.after(100.0)
    assert share_of(whole, 1.0, [3.0]).seconds_left == pytest.approx(25.0, abs=15.0)
    assert share_of(whole, 1.0, []).seconds_left == pytest.approx(100.0, abs=60.0)
    assert share_of(EXPIRED, 1.0, [3.0]).is_over


def test_selectors_name_pieces_groups_and_units_outside_the_preset(subject):
    def keys(*selectors):
        return [unit.key for unit in plan(subject, PRESETS["standard"], selectors)]

    everything = keys()
    assert everything[0] == "start"
    assert "nvt:direct:svr:10" in everything
    assert keys("lambda") == ["lambda:server", "lambda:client"]
    assert keys("nvt:direct") == ["start", "nvt:direct:svr:10", "nvt:direct:langevin:100"]
    assert keys("nvt:hybrid-3:svr-local:25", "nve:hybrid-3") == [
        "start",
        "nve:hybrid-3",
        "nvt:hybrid-3:svr-local:25",
    ]
    for wrong in (
        "speed",
        "nvt:direct:nose:10",
        "nve:hybrid-0",
        "optimise:newton",
        "nvt:direct:svr:0",
    ):
        with pytest.raises(ValueError, match="expected"):
            keys(wrong)
    units = plan(subject, PRESETS["standard"], ["nve", "nvt"])
    shares = dict(zip([unit.piece for unit in units], weights(units), strict=True))
    assert shares["start"] == 0
    total = sum(w for unit, w in zip(units, weights(units), strict=True) if unit.piece == "nvt")
    assert total == pytest.approx(42.0)


class Resources(HTMLParser):
    """A parser that collects the tags of a page and the resources that it would load."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and not value.startswith("#"):
                self.loaded.append(value)


def test_the_page_is_self_contained(address, atoms, tmp_path, capsys):
    ase.io.write(tmp_path / "atoms.extxyz", atoms)
    out = tmp_path / "out"
    options = ["--preset=quick", "--temperature=40", "--time-step=2", "--equilibration=0.02"]
    arguments = ["assess", str(tmp_path / "atoms.extxyz"), f"--out={out}", *options]
    assert run([*arguments, f"--url={address}", f"--pieces={','.join(TINY)}"]) == 0
    advice = capsys.readouterr().out.splitlines()
    assert advice[-1] == str(out / "report.html")
    page = (out / "report.html").read_text()
    resources = Resources()
    resources.feed(page)
    assert resources.loaded == []
    assert "script" not in resources.tags
    assert resources.tags.count("svg") == 5
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "prefers-color-scheme: dark" in page
    assert page.index("Without a thermostat") < page.index("<svg")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)
    assert page_of(json.loads((out / "report.json").read_text())) == page


@pytest.fixture
def address(server):
    return server.grpc_url


def test_the_command_line_offers_all_presets():
    assert set(_PRESETS) == set(PRESETS)


def test_progress_is_shown_only_on_request(capsys):
    for is_shown in (True, False):
        progress = Progress(is_shown=is_shown)
        with progress.bar("title", 3, unit="step") as bar:
            bar.update(3)
        progress.say("a line")
        assert ("a line" in capsys.readouterr().err) is is_shown


def test_every_simulation_has_its_own_random_numbers():
    conditions = Conditions(seed=3)
    keys = ["nvt:direct:svr:10", "nvt:hybrid-8:svr:10", "nvt:hybrid-8:svr:100"]
    seeds = [conditions.seed_of(key) for key in keys]
    assert len(set(seeds)) == 3
    assert seeds == [Conditions(seed=3).seed_of(key) for key in keys]
    assert seeds[0] != Conditions(seed=4).seed_of(keys[0])
