"""Tests of runs whose service comes to have other weights under the same name of a model."""

import asyncio
import copy
import dataclasses
import json
import logging
import pickle

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.optimize import BFGS

from tests.clients.proxy import CountingProxy
from tests.clients.serving import ARGON, port_of, serve
from tests.logs import records_of
from tests.potentials import loaded
from tests.systems import molecule
from twinforce import AsyncClient, Client, Integrator, InvalidRequestError, ModelChangedError, Start
from twinforce.ase import SVR, MultipleTimeStepping, TwinForceCalculator, system_of
from twinforce.assess import Conditions, Progress, assess
from twinforce.cli import predict as predict_command
from twinforce.cli import run
from twinforce.md import draw_velocities
from twinforce_models.potentials.toys.lennard_jones import lennard_jones
from twinforce_models.registry import LoadedModel

FS = units.fs
OLD, NEW = "a" * 64, "b" * 64
SHORT_OLD, SHORT_NEW = OLD[:12], NEW[:12]
LABELS = {"charge": 2}  # which shift the energy of both by different amounts


def model(sha256, charge_energy):
    toy = dataclasses.replace(lennard_jones(), charge_energy=charge_energy)
    info = dataclasses.replace(loaded(toy, "lj").info, sha256=sha256, uses_charge=True)
    return {"lj": LoadedModel(info, toy)}


@pytest.fixture(scope="module")
def servers():
    with serve(model(OLD, 0.5)) as old, serve(model(NEW, 1.0)) as new:
        yield old, new


class Switchable:
    """An address at which another service can take the place of the first."""

    def __init__(self, servers, transport):
        attribute = "grpc_url" if transport == "grpc" else "rest_url"
        self._ports = [port_of(getattr(server, attribute)) for server in servers]
        self._proxy = CountingProxy(self._ports[0])
        scheme = "grpc" if transport == "grpc" else "http"
        self.url = f"{scheme}://127.0.0.1:{self._proxy.port}"

    def switch(self, index=1):
        self._proxy.target = self._ports[index]
        self._proxy.cut()

    def close(self):
        self._proxy.close()


@pytest.fixture
def service(servers, transport):
    switchable = Switchable(servers, transport)
    yield switchable
    switchable.close()


@pytest.fixture
def grpc_service(servers):
    switchable = Switchable(servers, "grpc")
    yield switchable
    switchable.close()


def argon(calculator=None):
    atoms = Atoms([ARGON] * 8, molecule(8).positions, cell=7.6 * np.eye(3), pbc=True)
    atoms.info |= LABELS
    draw_velocities(atoms, 60, np.random.default_rng(0))
    atoms.calc = calculator
    return atoms


def fresh_energy(servers, atoms, index=1):
    with TwinForceCalculator(servers[index].grpc_url) as calculator:
        again = atoms.copy()
        again.calc = calculator
        return again.get_potential_energy()


def refused(where=""):
    text = rf"model: expected the weights of 'lj' \({SHORT_OLD}\){where}.*got 'lj' \({SHORT_NEW}\)"
    return pytest.raises(ModelChangedError, match=f"{text}.*allow_model_change")


# The calculator


def test_a_calculator_refuses_other_weights(service):
    with TwinForceCalculator(service.url) as calculator:
        atoms = argon(calculator)
        before = atoms.get_potential_energy()
        service.switch()
        assert atoms.get_potential_energy() == before  # known, and asked of nobody
        for move in range(3):
            atoms.positions[0, 0] += 0.01
            with refused(", which this calculator began with"):
                atoms.get_potential_energy()
            assert calculator.results == {}, move


def test_quantities_of_two_models_are_never_mixed(service):
    with TwinForceCalculator(service.url) as calculator:
        atoms = argon(calculator)
        atoms.get_potential_energy()
        service.switch()
        with refused():
            atoms.get_forces()
        with refused():
            calculator.get_property("direct_forces", atoms)


def test_reset_accepts_other_weights_once(service, servers):
    with TwinForceCalculator(service.url) as calculator:
        atoms = argon(calculator)
        atoms.get_potential_energy()
        service.switch()
        calculator.reset()
        assert atoms.get_potential_energy() == pytest.approx(fresh_energy(servers, atoms))
        service.switch(0)
        atoms.rattle(0.01)
        with pytest.raises(ModelChangedError, match=rf"{SHORT_NEW}.*{SHORT_OLD}"):
            atoms.get_potential_energy()


def test_other_parameters_keep_the_weights_and_another_model_does_not(service):
    with TwinForceCalculator(service.url, model="lj") as calculator:
        atoms = argon(calculator)
        atoms.get_potential_energy()
        service.switch()
        calculator.set(force_kind="direct")
        with refused():
            atoms.get_potential_energy()
        calculator.set(model=None)
        atoms.get_potential_energy()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copied_calculator_knows_the_weights(service, duplicate):
    with TwinForceCalculator(service.url) as calculator:
        atoms = argon(calculator)
        atoms.get_potential_energy()
        service.switch()
        again = duplicate(atoms)
        again.rattle(0.01)
        with refused():
            again.get_potential_energy()


def test_allowed_weights_compute_all_anew_with_a_warning(service, servers, caplog):
    with TwinForceCalculator(service.url, allow_model_change=True) as calculator:
        atoms = argon(calculator)
        before = atoms.get_potential_energy()
        service.switch()
        with caplog.at_level(logging.WARNING, logger="twinforce"):
            atoms.get_forces()
        assert [record.levelname for record in records_of(caplog, "twinforce")] == ["WARNING"]
        assert SHORT_OLD in caplog.text
        assert SHORT_NEW in caplog.text
        energy = calculator.results["energy"]
        assert energy == pytest.approx(fresh_energy(servers, atoms), abs=1e-9)
        assert energy == pytest.approx(before + 4 * 0.5)
        assert calculator.prediction.provenance.sha256 == NEW
        atoms.rattle(0.01)
        atoms.get_potential_energy()
        assert len(records_of(caplog, "twinforce")) == 1


def test_an_optimization_stops(service):
    with TwinForceCalculator(service.url) as calculator:
        atoms = argon(calculator)
        optimizer = BFGS(atoms, logfile=None)
        for index, _ in enumerate(optimizer.irun(fmax=1e-9, steps=20)):
            if index == 2:
                service.switch()
                break
        with refused():
            optimizer.run(fmax=1e-9, steps=5)


# Dynamics


def steps(dynamics, n_steps, on_server):
    if on_server:
        for _ in dynamics.irun_on_server(n_steps):
            pass
    else:
        dynamics.run(n_steps)


@pytest.mark.parametrize("on_server", [False, True])
def test_dynamics_refuse_other_weights(service, on_server):
    with TwinForceCalculator(service.url) as calculator:
        atoms = argon(calculator)
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=3)
        steps(dynamics, 2, on_server)
        service.switch()
        positions = atoms.positions.copy()
        with refused(", which this calculator began with"):
            steps(dynamics, 2, on_server)
        np.testing.assert_array_equal(atoms.positions, positions)
        assert dynamics.get_number_of_steps() == 2


@pytest.mark.parametrize("on_server", [False, True])
def test_dynamics_refuse_weights_that_came_before_their_first_step(service, on_server):
    with TwinForceCalculator(service.url) as calculator:
        dynamics = MultipleTimeStepping(argon(calculator), 2 * FS, inner_steps=3)
        service.switch()
        with refused():
            steps(dynamics, 2, on_server)


@pytest.mark.parametrize("on_server", [False, True])
@pytest.mark.parametrize("n_before", [0, 2])
def test_allowed_weights_move_the_atoms_from_where_they_are(
    service, servers, on_server, n_before, caplog
):
    with TwinForceCalculator(service.url, allow_model_change=True) as calculator:
        atoms = argon(calculator)
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=3)
        steps(dynamics, n_before, on_server) if n_before else None
        service.switch()
        expected = atoms.copy()
        with TwinForceCalculator(servers[1].grpc_url) as expected.calc:
            MultipleTimeStepping(expected, 2 * FS, inner_steps=3).run(3)
            steps(dynamics, 3, on_server)
            np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-10)
            assert dynamics.energy == pytest.approx(expected.get_potential_energy(), abs=1e-10)
        assert dynamics.get_number_of_steps() == n_before + 3
        assert len([each for each in caplog.records if SHORT_NEW in each.message]) == 1


@pytest.mark.parametrize("is_allowed", [False, True])
def test_weights_that_change_while_the_server_moves_the_atoms(service, is_allowed):
    with TwinForceCalculator(service.url, allow_model_change=is_allowed) as calculator:
        atoms = argon(calculator)
        ensemble = SVR(temperature_k=60, relaxation_fs=50)
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2, ensemble=ensemble, seed=1)
        moving = dynamics.irun_on_server(200)
        next(moving), next(moving)
        service.switch()
        if is_allowed:
            assert list(moving)[-1]
            assert dynamics.get_number_of_steps() == 200
            assert calculator.prediction.provenance.sha256 == NEW
        else:
            with refused():
                list(moving)


@pytest.mark.parametrize("on_server", [False, True])
@pytest.mark.parametrize("is_allowed", [False, True])
def test_a_restart_file_records_the_weights(service, servers, tmp_path, on_server, is_allowed):
    path = tmp_path / "run.npz"
    with TwinForceCalculator(service.url) as calculator:
        dynamics = MultipleTimeStepping(argon(calculator), 2 * FS, inner_steps=2)
        steps(dynamics, 2, on_server)
        dynamics.save(path)
    with np.load(path) as stored:
        assert json.loads(str(stored["weights"])) == {"model": "lj", "sha256": OLD}
    service.switch()
    with TwinForceCalculator(service.url, allow_model_change=is_allowed) as calculator:
        atoms = argon(calculator)
        atoms.positions += 0.1
        begin = atoms.positions.copy()
        dynamics = MultipleTimeStepping(atoms, 2 * FS, inner_steps=2)
        if is_allowed:
            dynamics.restore(path)
            assert dynamics.energy == pytest.approx(fresh_energy(servers, atoms), abs=1e-9)
            steps(dynamics, 2, on_server)
            assert dynamics.get_number_of_steps() == 4
        else:
            with refused(f", which {path} was saved with"):
                dynamics.restore(path)
            np.testing.assert_array_equal(atoms.positions, begin)
            assert dynamics.get_number_of_steps() == 0


def test_a_restart_file_without_weights_says_that_they_were_not_checked(service, tmp_path, caplog):
    path, old = tmp_path / "run.npz", tmp_path / "old.npz"
    with TwinForceCalculator(service.url) as calculator:
        MultipleTimeStepping(argon(calculator), FS).save(path)
        with np.load(path) as stored:
            np.savez(old, **{name: stored[name] for name in stored if name != "weights"})
        dynamics = MultipleTimeStepping(argon(calculator), FS)
        dynamics.restore(old)
        assert f"{old}: the weights that it was saved with are not known" in caplog.text
        caplog.clear()
        dynamics.restore(path)
        assert not records_of(caplog, "twinforce")


def test_a_restart_file_of_a_service_is_not_continued_without_one(service, tmp_path):
    path = tmp_path / "run.npz"
    with TwinForceCalculator(service.url) as calculator:
        MultipleTimeStepping(argon(calculator), FS, forces="conservative").save(path)
    dynamics = MultipleTimeStepping(argon(LennardJones()), FS, forces="conservative")
    with pytest.raises(ValueError, match=rf"'lj' \({SHORT_OLD}\).*got another calculator"):
        dynamics.restore(path)


# Runs of the client


INTEGRATOR = Integrator(time_step_fs=2.0, inner_steps=2)


def test_a_checkpoint_of_other_weights_is_refused_by_the_server(service):
    atoms = argon()
    start = Start(system_of(atoms), atoms.get_velocities(), INTEGRATOR, random=1)
    with Client(service.url) as client:
        *_, last = client.propagate(start, 4)
        service.switch()
        with pytest.raises(ModelChangedError, match=f"{SHORT_NEW}.*{SHORT_OLD}"):
            list(client.propagate(last, 4))
        assert issubclass(ModelChangedError, InvalidRequestError)


def test_a_run_is_not_resumed_with_other_weights(service):
    atoms = argon()
    start = Start(system_of(atoms), atoms.get_velocities(), INTEGRATOR, random=1)
    with Client(service.url) as client:
        moving = client.propagate(start, 400, 2)
        next(moving), next(moving)
        service.switch()
        with pytest.raises(ModelChangedError, match=f"{SHORT_NEW}.*{SHORT_OLD}"):
            list(moving)


def test_a_relaxation_is_not_resumed_with_other_weights(service):
    with Client(service.url) as client:
        reports = client.relax(system_of(argon()), fmax=1e-12, max_steps=400, interval=1)
        next(reports), next(reports)
        service.switch()
        with refused(", which the run began with"):
            list(reports)


def test_an_allowed_relaxation_goes_on_with_other_weights(service, caplog):
    with Client(service.url) as client:
        reports = client.relax(
            system_of(argon()), fmax=1e-12, max_steps=200, interval=1, allow_model_change=True
        )
        next(reports), next(reports)
        service.switch()
        *_, last = reports
        assert last.provenance.sha256 == NEW
        assert len(records_of(caplog, "twinforce")) == 1


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_an_allowed_checkpoint_is_evaluated_anew(service, servers, encoding, caplog):
    atoms = argon()
    start = Start(system_of(atoms), atoms.get_velocities(), INTEGRATOR, random=1)
    with Client(service.url, encoding=encoding) as client:
        *_, last = client.propagate(start, 4)
        service.switch()
        *_, end = client.propagate(last, 4, allow_model_change=True)
    assert end.step == 8
    assert end.provenance.sha256 == NEW
    assert SHORT_OLD in caplog.text
    again = Start(start.system.moved(last.positions), last.velocities, INTEGRATOR, random=1)
    with Client(servers[1].grpc_url) as client:
        *_, expected = client.propagate(again, 4)
    np.testing.assert_allclose(end.positions, expected.positions, rtol=0, atol=1e-11)
    assert end.energy == pytest.approx(expected.energy, abs=1e-10)
    assert end.conserved_energy == pytest.approx(expected.conserved_energy, abs=1e-9)


def test_an_allowed_run_is_resumed_with_other_weights(service):
    atoms = argon()
    start = Start(system_of(atoms), atoms.get_velocities(), INTEGRATOR, random=1)
    with Client(service.url) as client:
        moving = client.propagate(start, 400, 2, allow_model_change=True)
        next(moving), next(moving)
        service.switch()
        *_, end = moving
    assert (end.step, end.provenance.sha256) == (400, NEW)


def test_the_asyncio_client_treats_weights_alike(service):
    atoms = argon()
    start = Start(system_of(atoms), atoms.get_velocities(), INTEGRATOR, random=1)

    async def converse():
        async with AsyncClient(service.url) as client:
            *_, last = [each async for each in client.propagate(start, 4)]
            reports = client.relax(system_of(atoms), fmax=1e-12, max_steps=400, interval=1)
            await anext(reports), await anext(reports)
            service.switch()
            with refused(", which the run began with"):
                [each async for each in reports]
            with pytest.raises(ModelChangedError, match=f"{SHORT_NEW}.*{SHORT_OLD}"):
                [each async for each in client.propagate(last, 4)]
            *_, end = [each async for each in client.propagate(last, 4, allow_model_change=True)]
            assert end.provenance.sha256 == NEW

    asyncio.run(converse())


# The command line


def command(service, tmp_path, *options):
    atoms = argon()
    ase.io.write(tmp_path / "start.xyz", atoms)
    restart, log = tmp_path / "run.npz", tmp_path / "log.csv"
    arguments = ["md", str(tmp_path / "start.xyz"), f"--url={service.url}", "--interval=1"]
    return run([*arguments, f"--restart={restart}", f"--log={log}", *options])


@pytest.mark.parametrize("there", [[], ["--on-server"]])
def test_the_command_line_refuses_and_accepts_other_weights(service, tmp_path, there, capsys):
    assert command(service, tmp_path, "--steps=4", *there) == 0
    before = (tmp_path / "run.npz").read_bytes(), (tmp_path / "log.csv").read_bytes()
    service.switch()
    capsys.readouterr()
    assert command(service, tmp_path, "--steps=8", *there) == 1
    text = capsys.readouterr().err
    for part in (SHORT_OLD, SHORT_NEW, "run.npz was saved with", "--allow-model-change", "'lj'"):
        assert part in text
    after = (tmp_path / "run.npz").read_bytes(), (tmp_path / "log.csv").read_bytes()
    assert after == before
    assert command(service, tmp_path, "--steps=8", "--allow-model-change", *there) == 0
    with np.load(tmp_path / "run.npz") as stored:
        assert json.loads(str(stored["weights"]))["sha256"] == NEW
        assert int(stored["n_steps"]) == 8


def test_a_file_of_predictions_is_of_one_model(service, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("twinforce.cli.predict._MAX_SYSTEMS", 1)
    path = tmp_path / "all.xyz"
    ase.io.write(path, [argon(), argon()])
    arguments = ["predict", str(path), f"--url={service.url}", f"--output={tmp_path / 'out.xyz'}"]
    assert run([*arguments, "--index=:"]) == 0
    chunks = predict_command._chunks

    def switching(systems):
        for index, chunk in enumerate(chunks(systems)):
            if index:
                service.switch()
            yield chunk

    monkeypatch.setattr("twinforce.cli.predict._chunks", switching)
    before = (tmp_path / "out.xyz").read_bytes()
    assert run([*arguments, "--index=:"]) == 1
    assert f"which the first systems had, got 'lj' ({SHORT_NEW})" in capsys.readouterr().err
    assert (tmp_path / "out.xyz").read_bytes() == before


# Assessments


class Switching:
    """Shows nothing, but switches to the other service as soon as a unit would show progress."""

    def __init__(self, service):
        self._service = service
        self._hidden = Progress(is_shown=False)

    def bar(self, *args, **kwargs):
        self._service.switch()
        return self._hidden.bar(*args, **kwargs)

    def say(self, text):
        self._hidden.say(text)


@pytest.mark.parametrize("piece", ["nve:direct", "loops", "lambda"])
def test_an_assessment_stops_at_other_weights_and_goes_on_with_its_own(
    grpc_service, tmp_path, piece
):
    conditions = Conditions(temperature_k=40.0, time_step_fs=2.0, equilibration_ps=0.01)
    settings = {"preset": "quick", "pieces": [piece], "conditions": conditions}
    with Client(grpc_service.url) as client:
        with pytest.raises(ModelChangedError, match=f"{SHORT_OLD}.*{SHORT_NEW}.*--anew"):
            assess(client, argon(), tmp_path, progress=Switching(grpc_service), **settings)
        with pytest.raises(ValueError, match=f"sha256 {NEW}, got one with {OLD}.*--anew"):
            assess(client, argon(), tmp_path, **settings)
        grpc_service.switch(0)
        report = assess(client, argon(), tmp_path, **settings)
    assert report["provenance"]["sha256"] == OLD


def test_the_folder_of_an_assessment_knows_the_charge(grpc_service, tmp_path):
    conditions = Conditions(temperature_k=40.0, time_step_fs=2.0, equilibration_ps=0.01)
    settings = {"preset": "quick", "pieces": ["loops"], "conditions": conditions}
    with Client(grpc_service.url) as client:
        assess(client, argon(), tmp_path, **settings)
        other = argon()
        other.info["charge"] = 1
        with pytest.raises(ValueError, match="expected an assessment with atoms"):
            assess(client, other, tmp_path, **settings)
