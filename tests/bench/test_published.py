"""Tests of the second page of the paper: specs of published models, rules, and the page itself."""

import copy
import functools
import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from bench.paper.published import entries, soap
from bench.paper.published.__main__ import furthest, main
from bench.paper.published.claims import beyond, claims_of, near, within
from bench.paper.published.entries import ENTRIES, ServedPart, silicon, small_water, water
from bench.paper.published.page import document
from bench.runner import weights
from bench.runner.machine import ROOT

from tests.clients.serving import TOY, serve
from twinforce.md import draw_velocities

DOCS = ROOT / "docs"


def value(mean, error, *, is_reliable=True):
    return {"value": mean, "error": error, "n_independent": 40.0, "is_reliable": is_reliable}


def unit(**values):
    return {"status": "done", "note": "", **values}


def optimizations(kind, *numbers):
    """Return the part of a report on optimizations with one kind of forces."""
    return {"optimise": {f"optimise:{kind}": optimization(*numbers)}}


def optimization(minima, n_reported, n_done=4):
    return unit(
        n_done=n_done,
        success_rate=minima / n_done,
        believed_rate=n_reported / n_done,
        n_direct=10.0,
        n_direct_error=1.0,
        n_conservative=20.0,
        n_conservative_error=1.0,
        largest_force_median=0.1,
    )


def simulation(oxygen, hydrogen, mean=301.0, error=5.0, mean_error=1.0, **settings):
    return unit(
        species_temperatures={
            "O": value(300.0 + oxygen, error, **settings),
            "H": value(300.0 + hydrogen, error, **settings),
        },
        temperature=value(mean, mean_error),
        expected_shifts_k={"O": 0.1, "H": -0.1},
        conserved_drift={"rate": 1.0, "error": 0.1},
        picoseconds=1.0,
        planned_picoseconds=2.0,
    )


def energies(rate, error):
    return unit(
        drift={"rate": rate, "error": error},
        time_ps=[0.0, 0.1],
        change_mev_per_atom=[0.0, 1.0],
        first_temperature_k=300.0,
        last_temperature_k=310.0,
        rmse=value(None, None),
        picoseconds=0.1,
        planned_picoseconds=1.0,
    )


def report(name, **pieces):
    return {
        "provenance": {"model": name, "sha256": 64 * "a", "dtype": "float32"},
        "atoms": {
            "formula": "H42O21",
            "n_atoms": 63,
            "counts": {"O": 21, "H": 42},
            "free_counts": {"O": 21, "H": 42},
        },
        "conditions": {"temperature_k": 300.0, "time_step_fs": 0.5, "seed": 0},
        "thresholds": {"max_drift": 0.05},
        "wall_s": 36.0,
        "pieces": pieces,
    }


WORK = {
    "rms_work_mev_per_atom": 1.8,
    "error_mev_per_atom": 0.4,
    "quadrature_error_mev_per_atom": 0.02,
    "relative_to_path": 0.01,
}
REPORTS = {
    "orb": report(
        "orb",
        **{
            "lambda": {"lambda:server": unit(**{"lambda": 0.014, "jacobian_norm": 100.0})},
            "nve": {"nve:direct": energies(18.0, 0.5)},
            "nvt": {"nvt:direct:svr:10": simulation(-68.0, 34.0)},
        },
    ),
    "orb-water16": report(
        "orb-water16",
        cost={"cost": unit(f=value(2.6, 0.02), ways={}, calls={})},
        **optimizations("direct", 0, 3),
    ),
    "orb-silicon": report(
        "orb-silicon",
        loops={"loops": unit(direct=WORK)},
        nve={
            "nve:direct": energies(-3.0, 0.5),
            "nve:conservative": energies(0.001, 0.004),
        },
        **optimizations("direct", 0, 3),
    ),
    "sevennet": report(
        "sevennet",
        nve={"nve:conservative": energies(0.001, 0.004)},
        **optimizations("conservative", 4, 4),
    ),
    "mace-silicon": report(
        "mace-silicon",
        nve={"nve:conservative": energies(0.001, 0.004)},
        **optimizations("conservative", 4, 4),
    ),
    "mace-orb": report(
        "mace-orb",
        nvt={"nvt:conservative:svr:10": simulation(1.0, -0.5, error=2.0)},
        resonance={
            "resonance": unit(
                drifts={"3": value(1.0, 0.1), "4": value(2.0, 0.1)}, rmse=value(0.2, 0.01)
            )
        },
    ),
}


def verdicts(reports):
    return [claim.holds for claim in claims_of(reports)]


def changed(name, piece, key, **values):
    reports = copy.deepcopy(REPORTS)
    reports[name]["pieces"][piece][key] |= values
    return reports


def test_statements_that_the_numbers_support_agree():
    assert verdicts(REPORTS) == ["yes"] * 20


@pytest.mark.parametrize(
    "reports", [{}, {name: each | {"pieces": {}} for name, each in REPORTS.items()}]
)
def test_statements_without_runs_are_not_shown(reports):
    assert verdicts(reports) == ["not shown"] * 20
    page = document(reports, [])
    assert "0 of these statements hold, 0 do not hold, and 20 are not shown" in page


@pytest.mark.parametrize(
    ("reports", "holds"),
    [
        (changed("orb", "lambda", "lambda:server", **{"lambda": 0.1}), "no"),
        (changed("orb", "nve", "nve:direct", drift={"rate": -4.0, "error": 1.0}), "no"),
        (changed("orb", "nve", "nve:direct", drift={"rate": 60.0, "error": 1.0}), "no"),
        (changed("orb", "nve", "nve:direct", drift={"rate": 18.0, "error": 9.0}), "not shown"),
        (changed("orb", "nvt", "nvt:direct:svr:10", **simulation(-30.0, 34.0)), "no"),
        (changed("orb", "nvt", "nvt:direct:svr:10", **simulation(-68.0, -30.0)), "no"),
        (
            changed("orb", "nvt", "nvt:direct:svr:10", **simulation(-68.0, 34.0, error=40.0)),
            "not shown",
        ),
        (
            changed("orb", "nvt", "nvt:direct:svr:10", **simulation(-68, 34, is_reliable=False)),
            "not shown",
        ),
        (changed("orb", "nvt", "nvt:direct:svr:10", **simulation(-68, 34, mean=320)), "no"),
        (changed("orb-water16", "optimise", "optimise:direct", **optimization(2, 4)), "no"),
        (
            changed(
                "orb-silicon",
                "loops",
                "loops",
                direct=WORK | {"quadrature_error_mev_per_atom": 1.5},
            ),
            "not shown",
        ),
        (changed("orb-silicon", "nve", "nve:direct", drift={"rate": 0.1, "error": 1}), "not shown"),
        (changed("orb-water16", "cost", "cost", f=value(1.7, 0.02)), "no"),
        (
            changed("sevennet", "nve", "nve:conservative", drift={"rate": 0.4, "error": 0.1}),
            "no",
        ),
        (
            changed("mace-silicon", "nve", "nve:conservative", drift={"rate": 0.0, "error": 1.0}),
            "not shown",
        ),
        (changed("mace-silicon", "optimise", "optimise:conservative", **optimization(3, 4)), "no"),
        (
            changed(
                "mace-orb", "nvt", "nvt:conservative:svr:10", **simulation(20.0, -9.0, error=2.0)
            ),
            "no",
        ),
        (
            changed("mace-orb", "resonance", "resonance", drifts={"3": value(0.01, 0.001)}),
            "no",
        ),
    ],
)
def test_statements_follow_from_the_numbers(reports, holds):
    assert holds in verdicts(reports)
    assert set(verdicts(reports)) <= {"yes", holds}


def test_errors_that_are_too_large_decide_nothing():
    assert [near(1.0, 1.0, 2.0), near(4.0, 1.0, 2.0), near(2.5, 1.0, 2.0)] == [
        "yes",
        "no",
        "not shown",
    ]
    assert near(1.0, 5.0, 2.0) == "not shown"
    assert [beyond(each, 1.0) for each in (4.0, 2.0, -2.5, -3.0)] == [
        *("yes", "not shown", "not shown", "no")
    ]
    assert [within(mean, 0.4, 0.5, 2.0) for mean in (1.2, 1.3, 3.0, 4.0)] == [
        *("not shown", "not shown", "not shown", "no")
    ]
    assert within(1.0, 0.1, 0.5, 2.0) == "yes"


def test_the_page_shows_every_model_and_what_is_missing():
    reports = copy.deepcopy(REPORTS)
    del reports["sevennet"]
    reports["orb"]["pieces"]["nve"]["nve:direct"] |= {"status": "shortened"}
    page = document(reports, ["nve"])
    assert "| `orb` | direct | 0.1 of 1 | +18.0 ± 0.5 |" in page
    assert "| `mace-silicon` | conservative | 0.1 of 1 |" in page
    assert "direct forces of `orb` heat by +70 ± 2 K/ps" in page.replace("+69.6 ± 1.9", "+70 ± 2")
    assert "- `orb`, nve:direct: shortened" in page
    assert "SevenNet-0 (`sevennet`): not run" in page
    assert "](published/nve.png)" in page
    assert "published/nvt.png" not in page
    assert "statements hold, 0 do not hold" in page


def test_what_a_model_no_longer_has_to_do_is_not_missing_and_the_rest_is():
    reports = copy.deepcopy(REPORTS)
    reports["orb"]["pieces"]["cost"] = {"cost": unit(status="shortened")}
    del reports["orb"]["pieces"]["lambda"]
    missing = document(reports, []).partition("## What is missing")[2]
    assert "`orb`, cost" not in missing
    assert "- `orb`, lambda:server: not run" in missing
    assert "- `orb-water16`, loops: not run" in missing


def test_work_below_its_quadrature_error_is_said_to_be_noise():
    noise = WORK | {"quadrature_error_mev_per_atom": 2.0}
    reports = changed("orb-silicon", "loops", "loops", conservative=noise)
    sentence = "The work of the {} forces of `orb-silicon` is less than its quadrature error"
    page = document(reports, [])
    assert sentence.format("conservative") in page
    assert sentence.format("direct") not in page


def test_the_page_in_the_repository_is_that_of_its_reports(tmp_path):
    shutil.copytree(DOCS / "published", tmp_path / "published")
    assert main([f"--docs={tmp_path}", "--page-only"]) == 0
    assert (tmp_path / "published.md").read_text() == (DOCS / "published.md").read_text(), (
        "run `make paper PAGE=published ARGS=--page-only`"
    )


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        (
            unit(picoseconds=0.444, wall_s=2065.0, status="shortened"),
            unit(picoseconds=0.9, wall_s=600.0, status="shortened"),
        ),
        (
            unit(picoseconds=1.0, wall_s=100.0),
            unit(picoseconds=3.0, wall_s=50.0, status="shortened"),
        ),
        (unit(loops=[1, 2], wall_s=9.0), unit(loops=[1, 2, 3], wall_s=2.0)),
        (unit(rounds=[1, 2], wall_s=9.0), unit(rounds=[1, 2, 3], wall_s=2.0)),
        (unit(n_done=2, wall_s=9.0), unit(n_done=3, wall_s=2.0)),
        (unit(wall_s=9.0, status="shortened"), unit(wall_s=2.0)),
        ({"status": "not run", "note": ""}, unit(wall_s=2.0, status="shortened")),
    ],
)
def test_the_experiment_that_went_further_stays_whatever_time_it_took(shorter, longer):
    assert furthest({"a": shorter}, {"a": longer}) == {"a": longer}
    assert furthest({"a": longer}, {"a": shorter}) == {"a": longer}


def test_experiments_keep_the_date_of_the_run_that_measured_them():
    def measured(date, **values):
        return unit(measured={"written": date}, **values)

    earlier = {"a": measured("first", n_done=2, wall_s=1.0), "b": measured("first", wall_s=1.0)}
    later = {"a": measured("second", n_done=3, wall_s=2.0), "b": measured("second", wall_s=1.0)}
    found = furthest(earlier, later)
    assert [found[key]["measured"]["written"] for key in "ab"] == ["second", "first"]


def test_the_errors_of_soap_stand_beside_those_of_the_paper():
    errors = {"n_test_systems": 34.0, "energy_mae_mev_per_atom": 2.345}
    for kind in ("conservative", "direct"):
        errors |= {f"{kind}_forces_mae_mev_per_angstrom": 123.4, f"{kind}_epochs": 7.0}
    page = document(REPORTS, [], errors)
    assert "| **SOAP-BPNN conservative, 7 epochs** | **123.4** | **2.35** |" in page
    assert "| SOAP-BPNN direct | 111.9 | 3.20 |" in page
    assert (
        "options of the training ask for 200 epochs. After fewer (conservative and direct)" in page
    )
    assert "## Errors of SOAP-BPNN" not in document(REPORTS, [])
    whole = errors | {"conservative_epochs": 200.0, "direct_epochs": 250.0}
    assert "After fewer" not in document(REPORTS, [], whole)


@pytest.mark.parametrize(
    ("epochs", "n_before", "is_trained"),
    [
        (None, 0, True),
        (None, 100, False),
        (50, 100, False),
        (100, 100, False),
        (200, 100, True),
    ],
)
def test_soap_is_trained_until_it_has_the_epochs_that_are_asked_for(
    monkeypatch, tmp_path, capsys, epochs, n_before, is_trained
):
    commands = []
    monkeypatch.setattr(soap.subprocess, "run", lambda command, **_: commands.append(command))
    if n_before:
        (tmp_path / "model.pt").touch()
        attempt = tmp_path / "outputs" / "2026-01-01" / "00-00-00"
        attempt.mkdir(parents=True)
        for epoch in (0, 9, n_before - 1):
            (attempt / f"model_{epoch}.ckpt").touch()
    soap.train("direct", tmp_path, epochs, {})
    assert len(commands) == is_trained
    if is_trained and epochs:
        assert commands[0][-1] == f"architecture.training.num_epochs={epochs}"
    if n_before:
        said = f"continues to {epochs}" if is_trained else f"delete {tmp_path} to train anew"
        assert f"direct: trained for 100 epochs before; {said}" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_training_soap_asks_for_the_data_before_it_installs_anything(tmp_path):
    command = ["make", "train-soap", f"FAMILY_VENVS={tmp_path}/venvs", f"DATA={tmp_path}/none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"DATA: expected the folder of the training data, got '{tmp_path}/none'" in done.stderr
    assert not (tmp_path / "venvs").exists()


def test_models_that_a_command_makes_are_left_out_until_it_has_run(tmp_path):
    part = ServedPart(family="metatomic", file=tmp_path / "model.pt", environment="soap")
    with pytest.raises(weights.WeightsUnavailableError, match="train-soap` makes it"):
        part.spec(None)
    (tmp_path / "model.pt").touch()
    assert part.spec(None) == f"metatomic:{tmp_path / 'model.pt'}"


def test_a_spec_names_the_hash_of_every_part_and_its_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(entries, "published_weights", lambda name: tmp_path / name)
    monkeypatch.setattr(entries, "PACKAGES", {"orb": "no_such_package", "mace": "numpy"})
    spec = ENTRIES["mace-orb"].spec(tmp_path)
    first, second = spec.split("+direct:")
    assert first.startswith(f"conservative:mace:{tmp_path}/{entries.MACE}#sha256=")
    assert second.startswith(f"orb:{tmp_path}/{entries.ORB}#sha256=")
    assert second.endswith("&env=orb")
    assert "env=" not in first
    assert "env=" not in ENTRIES["mace-orb"].spec(None)


def test_water_has_the_size_of_the_paper_and_moves():
    atoms = water()
    assert atoms.get_chemical_formula() == "H128O64"
    assert atoms.get_temperature() == pytest.approx(300.0, rel=0.2)
    np.testing.assert_array_equal(atoms.get_momenta(), water().get_momenta())


def test_small_water_has_the_density_of_the_larger_one_and_whole_molecules():
    small, large = small_water(), water()
    assert small.get_chemical_formula() == "H32O16"
    assert small.get_volume() / 16 == pytest.approx(large.get_volume() / 64)
    assert small.get_temperature() == pytest.approx(300.0, rel=0.3)
    near_each = small.get_all_distances(mic=True)[small.numbers == 8] < 1.25
    np.testing.assert_array_equal(near_each.sum(axis=1), 3)  # itself and two hydrogens


def test_no_two_neighbors_in_silicon_are_equally_near():
    atoms = silicon()
    distances = np.sort(atoms.get_all_distances(mic=True)[0])[1:]
    assert len(atoms) == 16
    assert atoms.get_temperature() == pytest.approx(300.0, rel=0.3)
    assert np.diff(distances).min() > 1e-4


def argon():
    atoms = bulk("Ar", cubic=True)
    draw_velocities(atoms, 20.0, np.random.default_rng(0))
    return atoms


@pytest.fixture(scope="module")
def server():
    with serve(model={"orb": TOY, "sevennet": TOY}) as server:
        yield server


@pytest.fixture
def study(monkeypatch, server, tmp_path):
    for name, pieces in (("orb", ("loops", "lambda:server")), ("sevennet", ("loops",))):
        entry = replace(ENTRIES[name], start=argon, pieces=pieces)
        monkeypatch.setitem(ENTRIES, name, entry)
    return functools.partial(_study, server.grpc_url, tmp_path)


def _study(url, folder, *arguments):
    status = main([f"--url={url}", f"--out={folder / 'out'}", f"--docs={folder}", *arguments])
    return status, folder


def test_the_study_writes_its_page_and_continues(study):
    status, folder = study("--only", "orb", "--minutes=0")
    assert status == 0
    assert "`orb`, loops: not run: no time was left" in (folder / "published.md").read_text()
    assert study("--only", "orb", "sevennet", "--minutes=5")[0] == 0
    saved = json.loads((folder / "published" / "orb.json").read_text())
    found = saved["pieces"]["lambda"]["lambda:server"]["lambda"]
    page = (folder / "published.md").read_text()
    assert f"| `orb` | direct, automatic differentiation (service) | {found:.5f} |" in page
    assert "`orb`, loops: not run" not in page
    assert "| `sevennet` | conservative |" in page


def test_a_new_checkout_adds_to_the_experiments_of_the_page(study):
    _, folder = study("--only", "orb", "--pieces=loops", "--minutes=5")
    (folder / "out").rename(folder / "lost")
    study("--only", "orb", "--pieces=lambda:server", "--minutes=5")
    saved = json.loads((folder / "published" / "orb.json").read_text())
    assert len(saved["pieces"]["loops"]["loops"]["loops"]) == 4
    assert saved["pieces"]["lambda"]["lambda:server"]["status"] == "done"
    assert saved["wall_s"] >= saved["pieces"]["loops"]["loops"]["wall_s"]
    dates = [
        saved["pieces"][piece][key]["measured"]["written"]
        for piece, key in (("loops", "loops"), ("lambda", "lambda:server"))
    ]
    assert dates[0] <= dates[1] == saved["provenance"]["written"]
    assert (
        f"| {dates[0][:10]} ({saved['provenance']['service_version']})"
        in (folder / "published.md").read_text()
    )


def test_experiments_under_other_conditions_are_replaced(study):
    _, folder = study("--only", "orb", "--pieces=loops", "--minutes=5")
    study("--only", "orb", "--pieces=lambda:server", "--minutes=5", "--seed=1", "--anew")
    saved = json.loads((folder / "published" / "orb.json").read_text())
    assert "loops" not in saved["pieces"]
    assert saved["conditions"]["seed"] == 1


def test_the_page_alone_needs_no_service(study):
    _, folder = study("--only", "orb", "--minutes=0")
    page = (folder / "published.md").read_text()
    (folder / "published.md").unlink()
    assert main([f"--docs={folder}", "--page-only"]) == 0
    assert (folder / "published.md").read_text() == page


def test_models_without_weights_are_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(weights, "failure", lambda package: f"{package.requirement}: offline")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["--only", "orb", f"--docs={tmp_path}", f"--out={tmp_path}"]) == 0
    assert "orb: not run: janus-core==0.8.2: offline" in capsys.readouterr().err
    with pytest.raises(weights.WeightsUnavailableError):
        ServedPart(family="orb", file=entries.ORB).spec(None)
