"""The page in a real browser: it loads, predicts, moves, asks for keys, and survives an engine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest

from tests.clients.serving import serve
from tests.service.callers.making import add_key
from tests.service.test_main import running, urls
from tests.service.transports.page.browser import chromium
from tests.waiting import wait_until
from twinforce import Client

pytestmark = pytest.mark.slow

# Atoms in a cell with an axis of order two: one site of each kind gives two atoms.
CIF = """data_test
_cell_length_a 4.0
_cell_length_b 5.0(1)
_cell_length_c 6.0
_cell_angle_alpha 90
_cell_angle_beta 100
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 2'
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-x, y, -z'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ar1 0.1 0.2 0.3
Ar2 0.0 0.7 0.5(2)
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads):
    with chromium(downloads) as found:
        yield found


@pytest.fixture(scope="module")
def server():
    with serve(max_atoms_per_system=250) as found:
        yield found


@pytest.fixture
def page(browser, server):
    browser.open(server.rest_url)
    browser.choose("#example", "argon")
    browser.wait(lambda: browser.text("#system").startswith("Argon"))
    return browser


def is_free(page):
    return page.find("#predict").is_enabled() and not page.find("#stop").is_displayed()


def saved(downloads, name):
    path = downloads / name
    wait_until(path.exists)
    found = ase.io.read(path, index=":")
    path.unlink()
    return found


def test_the_page_shows_models_state_and_a_system_and_the_browser_has_no_complaints(page):
    assert page.find("#model").get_attribute("value") == "lj"
    assert "Argon, a cluster of 13 atoms: 13 atoms" in page.text("#system")
    assert page.find("#viewer").get_attribute("data-atoms") == "13"
    assert page.find("#viewer canvas").is_displayed()
    assert "float64 on cpu" in page.text("#cards")
    page.wait(lambda: page.text("#state") == "ready")
    page.wait(lambda: page.text("#live-models th") == "lj")
    assert page.complaints() == []


def test_what_was_chosen_last_is_shown_although_something_else_arrives_later(page):
    page.run(
        "const usual = fetch; window.fetch = async (...given) => {"
        "  const reply = await usual(...given);"
        "  await new Promise((go) => setTimeout(go, 200));"
        "  window.hasArrived = true; return reply; };"
    )
    page.choose("#example", "water")
    page.choose("#example", "argon")
    page.wait(lambda: page.run("return window.hasArrived"))
    page.evaluate("await new Promise((go) => setTimeout(go, 200));")
    assert page.text("#system").startswith("Argon")


def test_a_prediction_is_shown_with_arrows_of_both_forces_and_can_be_saved(page, server, downloads):
    page.click("#predict")
    page.wait(lambda: "difference, RMSE" in page.text("#values"))
    page.click("#download")
    (atoms,) = saved(downloads, "prediction.xyz")
    with Client(server.grpc_url, timeout=60) as client:
        expected = client.predict(atoms, "hybrid", model="lj")
    assert float(
        atoms.info["energy"] if "energy" in atoms.info else atoms.get_potential_energy()
    ) == (pytest.approx(expected.energy, abs=1e-9))
    for name in ("conservative_forces", "direct_forces"):
        np.testing.assert_allclose(atoms.arrays[name], getattr(expected, name), atol=1e-9)
    n_arrows = int(page.find("#viewer").get_attribute("data-arrows"))
    assert 0 < n_arrows <= 26
    page.click("#arrows .direct input")
    assert 0 < int(page.find("#viewer").get_attribute("data-arrows")) < n_arrows
    page.click("#arrows .direct input")
    page.wait(lambda: float(page.text("#live-callers td")) >= 1)
    assert page.find("#disagreement").is_displayed()
    assert page.complaints() == []


def test_a_run_and_a_relaxation_are_plotted_as_they_go(page, downloads):
    page.click("#run")
    page.wait(lambda: is_free(page) and page.find("#values").is_displayed())
    assert page.find("#energy").get_attribute("data-points") == "51"
    assert "Temperature, K: from" in page.find("#kinetic").get_attribute("aria-label")
    page.click("#download")
    frames = saved(downloads, "trajectory.xyz")
    assert [each.info["step"] for each in frames] == list(range(0, 201, 4))
    assert np.abs(frames[-1].positions - frames[0].positions).max() > 0.01
    page.click("#relax")
    page.wait(
        lambda: is_free(page) and "Largest" in page.find("#kinetic").get_attribute("aria-label")
    )
    page.wait(lambda: page.find("#values").is_displayed())
    page.click("#download")
    relaxed = saved(downloads, "relaxation.xyz")
    assert relaxed[-1].info["energy" if "energy" in relaxed[-1].info else "step"] is not None
    assert float(page.text("#values tr:nth-child(2) td").split()[0]) <= 0.05
    assert page.complaints() == []


def test_files_are_read_as_ase_reads_them(page, tmp_path, downloads):
    for name, text in (("ring.cif", CIF), ("cluster.xyz", "2\nargon\nAr 0 0 0\nAr 0 0 3.9\n")):
        path = tmp_path / name
        path.write_text(text)
        page.find("#file").send_keys(str(path))
        page.wait(lambda name=name: page.text("#system").startswith(name))
        page.click("#download-start")
        (found,) = saved(downloads, "system.xyz")
        expected = ase.io.read(path)
        assert len(found) == len(expected)
        np.testing.assert_allclose(found.cell.cellpar(), expected.cell.cellpar(), atol=1e-9)
        np.testing.assert_allclose(
            np.sort(found.get_all_distances(mic=True), axis=None),
            np.sort(expected.get_all_distances(mic=True), axis=None),
            atol=1e-6,
        )
        page.click("#predict")
        page.wait(lambda: page.find("#values").is_displayed())


def test_axes_in_every_notation_are_understood(page):
    script = """
        const { parseXyz, parseCif } = await import("/page/structures.js");
        const [xyz, cif] = given;
        const found = parseXyz(xyz);
        const group = cif.replace("'-x, y, -z'", "1/2-x,y+1/2,-z").replace("P 2", "P 21");
        return [found, parseCif(group).positions.length];
    """
    members = 'Lattice="3 0 0 0 4 0 0 0 5" Properties=id:I:1:species:S:1:pos:R:3 pbc="T F T"'
    found, n_atoms = page.evaluate(script, f"1\n{members}\n7 Ar 1 2 3", CIF)
    assert found == {
        "symbols": ["Ar"],
        "positions": [[1, 2, 3]],
        "cell": [[3, 0, 0], [0, 4, 0], [0, 0, 5]],
        "pbc": [True, False, True],
    }
    assert n_atoms == 4


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.xyz", "hello", "expected the number of atoms"),
        ("b.xyz", "1\n\nQq 0 0 0\n", 'expected the symbol of an element, got "Qq"'),
        ("c.xyz", "1\n\nAr 0 zero 0\n", "three coordinates"),
        ("d.cif", "data_x\n", "lengths of a cell"),
        ("e.cif", CIF.replace("'x, y, z'\n'-x, y, -z'\n", ""), "symmetry operations"),
    ],
)
def test_files_that_cannot_be_read_are_reported(page, tmp_path, name, text, problem):
    path = tmp_path / name
    path.write_text(text)
    page.find("#file").send_keys(str(path))
    page.wait(lambda: problem in page.text("#problem"))
    assert page.find("#problem").is_displayed()


def test_a_refusal_of_the_service_is_reported(page, tmp_path):
    path = tmp_path / "large.xyz"
    path.write_text("251\n\n" + "".join(f"Ar 0 0 {4 * n}\n" for n in range(251)))
    page.find("#file").send_keys(str(path))
    page.wait(lambda: page.text("#system").startswith("large.xyz"))
    page.click("#predict")
    page.wait(lambda: "250" in page.text("#problem"))
    assert is_free(page)


@pytest.mark.parametrize("action", ["predict", "relax", "run", "run at a temperature"])
def test_the_programs_that_the_page_shows_do_the_same(page, tmp_path, downloads, action):
    if action == "run at a temperature":
        page.click("#playground details summary")
        page.click("#thermostat")
    page.click("#equivalent summary")
    page.choose("#action", action.partition(" ")[0])
    page.wait(lambda: "import ase.io" in page.text("#python"))
    page.click("#download-start")
    (atoms,) = saved(downloads, "system.xyz")
    ase.io.write(tmp_path / "system.xyz", atoms)
    done = subprocess.run(
        [sys.executable, "-c", page.find("#python").get_attribute("textContent")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    energy = next(float(word) for word in done.stdout.split() if "." in word)
    command = page.find("#curl").get_attribute("textContent")
    if Path("/usr/bin/curl").exists():
        reply = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert '"energy":' in reply.stdout
    with Client(page.run("return location.origin"), timeout=60) as client:
        assert energy == pytest.approx(client.predict(atoms, model="lj").energy, abs=0.1)


def test_all_can_be_done_with_the_keyboard_on_a_narrow_screen_in_the_dark(page):
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        width = "return document.documentElement.scrollWidth"
        page.wait(lambda: page.run(width) == 400)
        background = page.run("return getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, background.removeprefix("rgb(").rstrip(")").split(","))) < 150
        from selenium.webdriver.common.keys import Keys

        reached = []
        page.run("document.activeElement.blur()")
        for _ in range(40):
            page.press(Keys.TAB)
            reached.append(page.run("return document.activeElement.id"))
            if reached[-1] == "predict":
                page.press(Keys.ENTER)
                page.wait(lambda: page.find("#values").is_displayed())
        assert {"model", "example", "file", "predict", "relax", "run", "viewer", "scale"} <= {
            *reached
        }
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_service_with_keys_asks_for_one_and_the_tab_keeps_it(browser, tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "me", "--scope", "admin")
    narrow = add_key(path, "narrow")
    with serve(keys=str(path)) as server:
        browser.open(server.rest_url)
        give(browser, key[:-4] + "zzzz")
        browser.wait(lambda: browser.text("#ask-why") != "This service asks for a key.")
        give(browser, key)
        browser.wait(lambda: browser.find("#predict").is_enabled())
        browser.click("#predict")
        browser.wait(lambda: browser.find("#values").is_displayed())
        browser.wait(lambda: browser.text("#live-state") == "connected")
        stored = (
            "return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
        )
        assert browser.run(stored) == [[key], [], ""]
        browser.click("#equivalent summary")
        browser.wait(lambda: "TWINFORCE_KEY" in browser.text("#curl"))
        assert key not in browser.run("return document.documentElement.outerHTML")
        browser.click("#forget")
        give(browser, narrow)
        browser.wait(lambda: "scope metrics" in browser.text("#live-state"))
        browser.click("#predict")
        browser.wait(lambda: browser.find("#values").is_displayed())
        browser.run("sessionStorage.clear()")


def test_the_description_of_the_api_is_shown_with_the_key_of_the_page(browser, tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "me")
    with serve(keys=str(path)) as server:
        browser.open(server.rest_url)
        give(browser, key)
        browser.wait(lambda: browser.find("#predict").is_enabled())
        browser.complaints()  # those of the page, which has asked for a key
        browser.click("nav a[href=docs]")
        browser.wait(lambda: "/v1/models/{model}/predict" in browser.text("#description"))
        assert browser.complaints() == []
        browser.click("#operations-models-list_models_v1_models_get button")
        browser.click(".try-out button")
        browser.click("button.execute")
        browser.wait(
            lambda: '"name": "lj"' in browser.text(".live-responses-table").replace("\n", "")
        )
        assert browser.text(".live-responses-table tbody .response-col_status").startswith("200")
        assert key not in browser.run("return document.documentElement.outerHTML")
        browser.click("#forget")
        give(browser, key)  # whoever comes here first is asked here
        browser.wait(lambda: "/v1/models/{model}/predict" in browser.text("#description"))
        browser.run("sessionStorage.clear()")


def give(browser, key):
    """Give the key that the page asks for."""
    browser.wait(lambda: browser.find("#key").is_displayed())
    browser.find("#key").send_keys(key)
    browser.click("#ask-ok")


def test_the_page_survives_an_engine_that_dies(browser, troubled_model, monkeypatch):
    folder, gate = troubled_model
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with running("--model", f"troubled={folder}") as (process, lines):
        browser.open(urls(lines)[0])
        browser.click("#predict")
        browser.wait(lambda: browser.find("#values").is_displayed())
        browser.wait(lambda: browser.text("#state") == "ready")
        with gate.starts_held():
            for pid in engines_of(process):
                os.kill(pid, signal.SIGKILL)
            browser.wait(lambda: "not ready" in browser.text("#state"))
            browser.click("#predict")
            browser.wait(lambda: browser.text("#problem"))
            browser.wait(lambda: is_free(browser))
        browser.wait(lambda: browser.text("#state") == "ready")
        browser.click("#predict")
        browser.wait(
            lambda: not browser.text("#problem") and browser.find("#values").is_displayed()
        )


def engines_of(process):
    """Return the engine processes of a server."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in tasks for pid in path.read_text().split()]


def test_the_page_finds_a_service_that_was_away(browser):
    with serve() as server:
        port = server.rest_url.rpartition(":")[2]
        browser.open(server.rest_url)
        browser.wait(lambda: browser.text("#live-state") == "connected")
    browser.wait(lambda: browser.text("#live-state") != "connected")
    with serve(rest_port=int(port)):
        browser.wait(lambda: browser.text("#live-state") == "connected")
        browser.click("#predict")
        browser.wait(lambda: browser.find("#values").is_displayed())
