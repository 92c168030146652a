"""Whole assessments of the toy: budgets, going on, refusals, and the page."""

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
from twinforce.assess.budget import AT_ONCE, NEVER, Deadline, share_of
from twinforce.assess.folder import Folder, Found
from twinforce.assess.page import page_of
from twinforce.assess.plan import plan, weights
from twinforce.cli import run
from twinforce.cli.assess import _PRESETS

TINY = ["loops", "nve:hybrid-4", "nve:direct", "nvt:hybrid-8:svr:10", "lambda"]


@pytest.fixture(scope="module", autouse=True)
def shorter_runs():
    """The quick preset, with runs of a hundred steps."""
    usual = PRESETS["quick"]
    PRESETS["quick"] = replace(usual, n_loops=2, nve_ps=0.2, nvt_ps=0.32)
    yield
    PRESETS["quick"] = usual


def statuses(report):
    return {key: unit["status"] for each in report["pieces"].values() for key, unit in each.items()}


def test_an_assessment_stops_at_its_budget_and_goes_on(client, atoms, conditions, tmp_path):
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


def test_the_report_says_what_made_it(client, atoms, conditions, tmp_path):
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


def test_longer_runs_go_on_where_shorter_ones_ended(client, atoms, conditions, tmp_path):
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


def test_recordings_are_analyzed_anew_where_the_analysis_has_changed(
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
    found = folder.found("nvt:hybrid-8:svr:10")
    rows = (folder.place("nvt:hybrid-8:svr:10") / "rows.f64").read_bytes()
    folder.keep("nvt:hybrid-8:svr:10", replace(found, analysis=0, values={"picoseconds": 0.32}))
    again = assessed()
    assert {**again, "wall_s": 0} == {**before, "wall_s": 0}
    assert (folder.place("nvt:hybrid-8:svr:10") / "rows.f64").read_bytes() == rows


def test_a_folder_of_something_else_is_refused(client, atoms, conditions, tmp_path):
    def assessed(atoms, conditions, **options):
        pieces = ["loops"]
        return assess(client, atoms, tmp_path, pieces=pieces, conditions=conditions, **options)

    assessed(atoms, conditions)
    moved = atoms.copy()
    moved.positions[0, 0] += 0.1
    with pytest.raises(ValueError, match=r"holds an assessment with atoms \w+, but \w+ is wanted"):
        assessed(moved, conditions)
    hotter = replace(conditions, temperature_k=50.0)
    with pytest.raises(ValueError, match=r"with temperature_k 40\.0, but 50\.0 is wanted.*--anew"):
        assessed(atoms, hotter)
    assert assessed(moved, hotter, anew=True)["conditions"]["temperature_k"] == 50.0
    other = tmp_path / "units"
    with pytest.raises(ValueError, match="expected an empty folder or one of an assessment"):
        assess(client, atoms, other, pieces=["loops"], conditions=conditions)


def test_another_model_under_the_same_name_is_refused(server, atoms, conditions, tmp_path):
    with Client(server.grpc_url) as client:
        assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)
    with (
        serve({"lj": loaded(WithoutDirect(), "lj")}) as other,
        Client(other.grpc_url) as client,
        pytest.raises(ValueError, match="holds an assessment with"),
    ):
        assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)


def test_what_a_model_cannot_do_is_skipped_with_the_reason(atoms, conditions, tmp_path):
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


def test_a_unit_that_another_process_holds_is_left_to_it(client, atoms, conditions, tmp_path):
    assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions, budget_minutes=0.0)
    with Folder(tmp_path).locked("loops") as is_ours:
        assert is_ours
        report = assess(client, atoms, tmp_path, pieces=["loops"], conditions=conditions)
    assert report["pieces"]["loops"]["loops"]["note"] == "not run: another process works on it"
    with Folder(tmp_path).locked("loops", Deadline.after(5.0)) as is_ours:
        assert is_ours


def test_units_with_other_settings_begin_anew(tmp_path):
    folder = Folder(tmp_path)
    assert not folder.prepare("a:b", {"x": 1})
    folder.keep("a:b", Found({"value": float("nan")}))
    assert folder.found("a:b").values == {"value": None}
    assert not folder.prepare("a:b", {"x": 1})
    assert folder.prepare("a:b", {"x": 2})
    assert folder.found("a:b") is None
    assert folder.keys() == ["a:b"]


def test_time_is_shared_out_and_what_is_left_goes_to_later_ones():
    assert share_of(NEVER, 1.0, [1.0]) == NEVER
    whole = Deadline.after(100.0)
    assert share_of(whole, 1.0, [3.0]).seconds_left == pytest.approx(25.0, abs=15.0)
    assert share_of(whole, 1.0, []).seconds_left == pytest.approx(100.0, abs=60.0)
    assert share_of(AT_ONCE, 1.0, [3.0]).is_over


def test_selectors_name_pieces_groups_and_units_of_their_own(subject):
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
    """Collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and not value.startswith("#"):
                self.loaded.append(value)


def test_the_page_needs_nothing_but_itself(address, atoms, tmp_path, capsys):
    ase.io.write(tmp_path / "atoms.extxyz", atoms)
    out = tmp_path / "out"
    options = ["--preset=quick", "--temperature=40", "--time-step=2", "--equilibration=0.02"]
    arguments = ["assess", str(tmp_path / "atoms.extxyz"), f"--out={out}", *options]
    assert run([*arguments, f"--url={address}", f"--pieces={','.join(TINY)}"]) == 0
    advice = capsys.readouterr().out.splitlines()
    assert advice[-1] == str(out / "report.html")
    page = (out / "report.html").read_text()
    seen = Resources()
    seen.feed(page)
    assert seen.loaded == []
    assert "script" not in seen.tags
    assert seen.tags.count("svg") == 5
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


def test_the_command_knows_the_presets():
    assert set(_PRESETS) == set(PRESETS)


def test_progress_is_shown_where_wanted(capsys):
    for is_shown in (True, False):
        progress = Progress(is_shown=is_shown)
        with progress.bar("title", 3, unit="step") as bar:
            bar.update(3)
        progress.say("a line")
        assert ("a line" in capsys.readouterr().err) is is_shown


def test_runs_do_not_share_the_random_numbers_of_their_thermostats():
    conditions = Conditions(seed=3)
    keys = ["nvt:direct:svr:10", "nvt:hybrid-8:svr:10", "nvt:hybrid-8:svr:100"]
    seeds = [conditions.seed_of(key) for key in keys]
    assert len(set(seeds)) == 3
    assert seeds == [Conditions(seed=3).seed_of(key) for key in keys]
    assert seeds[0] != Conditions(seed=4).seed_of(keys[0])
