import pytest
from ase import Atoms

from tests.clients.serving import serve
from tests.systems import crystal
from twinforce import Client
from twinforce.assess import Conditions, Progress
from twinforce.assess.budget import NEVER
from twinforce.assess.folder import write_json
from twinforce.assess.subject import Subject
from twinforce.assess.units.start import KEY, start_unit


@pytest.fixture(scope="session")
def server():
    """A service of the toy model whose direct forces have a known curl."""
    with serve() as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture
def atoms():
    """Eight atoms of two species in a periodic cell."""
    system = crystal(8)
    return Atoms(["Ar"] * 4 + ["Ne"] * 4, system.positions, cell=system.cell, pbc=True)


@pytest.fixture
def conditions():
    return Conditions(temperature_k=40.0, time_step_fs=2.0, equilibration_ps=0.02, seed=3)


@pytest.fixture
def subject(client, atoms, conditions):
    return Subject(
        client=client,
        info=client.model(),
        atoms=atoms,
        conditions=conditions,
        progress=Progress(is_shown=False),
    )


@pytest.fixture
def started(subject, tmp_path):
    """The directory of a unit, beside that of an equilibrated start."""
    start = tmp_path / KEY
    start.mkdir()
    results = start_unit(subject).work(subject, start, NEVER)
    write_json(start / "found.json", {"values": dict(results.values)})
    directory = tmp_path / "unit"
    directory.mkdir()
    return directory
