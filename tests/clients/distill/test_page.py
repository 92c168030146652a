"""Tests of the report and its page, made from given results."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.clients.distill.test_recommendation import EVIDENCE, run_of
from twinforce.distill import DistillSettings, ServiceOptions, TeacherSource
from twinforce.distill.folder import DistillFolder, Phase
from twinforce.distill.results.page import page_of
from twinforce.distill.results.recommendation import recommend
from twinforce.distill.results.report import commands_of, report_of

SETTINGS = DistillSettings(teacher="mace:small", rounds=2, temperatures_k=(300.0, 350.0))
SOURCE = TeacherSource.of("mace:small", "", SETTINGS.service, {})
SIZES = {"mae": 0.5, "rmse": 0.8}


def errors(scale):
    sizes = {"mae": 0.02 * scale, "rmse": 0.03 * scale}
    species = {"species": {"Ar": sizes}}
    return {
        "n_systems": 5,
        "size": SIZES | {"species": {"Ar": SIZES}},
        "direct_forces": sizes | species,
        "conservative_forces": sizes | species,
        "energy": {"mae": 0.001, "rmse": 0.002},
    }


def walker(**values):
    facts = {
        "n_labels": 10,
        "picoseconds": 0.04,
        "disagreement": None,
        "note": "",
        "is_fallback": False,
    }
    return facts | values


@pytest.fixture
def folder(tmp_path):
    """A folder whose phases are done."""
    folder = DistillFolder(tmp_path / "out")
    sampled = {"inner_steps": 1, "n_sampled": 20, "n_train": 16, "n_test": 4}
    teacher = {"name": "teacher", "version": "1", "sha256": "ab" * 32, "dtype": "float32"}
    measured = {
        "errors": {"0": errors(2.0), "1": errors(1.0)},
        "lambda": 0.0123,
        "notes": ["The student was measured on a Sunday."],
        "period_fs": 9.0,
    }
    later = sampled | {"inner_steps": 4, "walkers": [walker(disagreement=0.04, is_fallback=True)]}
    for name, facts in {
        "sample-0": sampled | {"teacher": teacher, "walkers": [walker()]},
        "train-0": {},
        "sample-1": later,
        "train-1": {},
        "measure": measured,
    }.items():
        folder.phases[name] = Phase(60.0, 0.0, 30.0, True, facts)
    return folder


# The report of an assessment in which nothing was measured.
NOTHING = {"pieces": {}}
MEASURED = replace(EVIDENCE, runs={8: run_of(0.03)})


class Reader(HTMLParser):
    """A reader of pages that keeps the text and checks that tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_says_what_was_found(folder, argon):
    report = report_of(folder, SETTINGS, SOURCE, [argon], NOTHING, MEASURED)
    page = page_of(report, NOTHING)
    reader = Reader()
    reader.feed(page)
    text = " ".join(" ".join(reader.text).split())
    assert reader.open == []
    assert all(link.startswith("#") for link in reader.links)
    assert "Use M = 8 inner steps of 0.5 fs" in text
    assert "20.0 (30.0)" in text  # meV/Å, of the last round
    assert "λ = 0.0123" in text
    assert "+0.030 ± 0.005" in text
    assert "measured on a Sunday" in text
    assert "at 300 K only, not at 350 K" in text
    assert "radial distributions of the hybrid were not compared with the teacher's" in text
    assert "some walkers went on with the teacher alone" in text
    assert page.count("<svg") == 2


def test_a_comparison_with_the_teacher_is_on_the_page(folder, argon):
    found = {"value": 300.0, "error": 1.0, "is_reliable": True}
    of_ar = {"Ar": found}
    unit = {"status": "done", "note": "", "picoseconds": 5.0, "planned_picoseconds": 20.0}
    unit |= {"temperature": found, "species_temperatures": of_ar, "expected_shifts_k": None}
    unit |= {"conserved_drift": None, "diffusion": of_ar, "spectra": {}, "radial": {}}
    unit |= {"largest_wave_number": 4000.0}
    atoms = {"counts": {"Ar": 2}, "free_counts": {"Ar": 2}}
    runs = {"nvt:conservative:svr:10": unit, "nvt:hybrid-8:svr:10": unit}
    start = {"start": {"start": {}}}
    assessment = {
        "pieces": {"nvt": runs} | start,
        "atoms": atoms,
        "conditions": {"temperature_k": 300.0},
        "thresholds": {"max_temperature_error": 3.0},
    }
    report = report_of(folder, SETTINGS, SOURCE, [argon], assessment, MEASURED)
    assert not any("not compared" in each for each in report["not_shown"])
    page = page_of(report, assessment)
    assert "temperature of Ar, difference in K" in page
    assert "<td>+0.0 ± 1.4</td>" in page


def test_a_page_without_any_measurement_is_whole(folder, argon):
    measured = folder.phases["measure"].facts
    empty = replace(EVIDENCE, predicted={}, step_ms={}, period_fs=None)
    measured |= {"period_fs": None, "lambda": None}
    report = report_of(folder, SETTINGS, SOURCE, [argon], NOTHING, empty)
    page = page_of(report, NOTHING)
    assert "there was no time to measure" in page
    assert "--forces conservative" in report["commands"]["simulate"]


def test_the_commands_repeat_what_was_asked_for(tmp_path):
    options = ServiceOptions(dtype="float64", device="cuda", trust_pickles=True)
    settings = replace(SETTINGS, hydrogen_mass=3.0, time_step_fs=1.0, service=options)
    found = commands_of(tmp_path, settings, SOURCE, recommend(EVIDENCE))
    spec = f"'hybrid=conservative:mace:small+direct:{tmp_path / 'student'}'"
    assert found["serve"] == (
        f"twinforce-server --no-water --dtype float64 --device cuda --trust-pickles --model {spec}"
    )
    for words in (
        "--forces hybrid --inner-steps 8",
        "--ensemble svr --relaxation 10",
        "--temperature 300 --time-step 1",
        str(tmp_path / "start.xyz"),
    ):
        assert words in found["simulate"]
    elsewhere = ServiceOptions(environments=("sevenn=/envs/sevenn/bin/python",))
    assert "--environment=sevenn=/envs/sevenn/bin/python" in elsewhere.flags()
    serve = commands_of(tmp_path, replace(settings, service=elsewhere), SOURCE, recommend(EVIDENCE))
    assert "--environment 'sevenn=/envs/sevenn/bin/python'" in serve["serve"]
    served = TeacherSource.of("mace", "grpc://host:1", options, {})
    assert "assess" not in commands_of(tmp_path, settings, served, recommend(EVIDENCE))
