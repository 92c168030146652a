"""Tests of the bridge from the socket protocol of i-PI, with ASE on the other side."""

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.socketio import IPIProtocol, SocketIOCalculator
from ase.optimize import BFGS

from tests.ports import free_port
from twinforce.socket_bridge import Endpoint, Forwarding
from twinforce.socket_bridge.main import main

PROGRAM = "ase"


@pytest.fixture
def copper(tmp_path):
    """A crystal in a skewed cell, also in the file start.xyz."""
    atoms = bulk("Cu", a=3.7) * (2, 2, 1)
    atoms.set_cell(atoms.cell.array @ [[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    atoms.rattle(0.05, seed=1)
    ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
    return atoms


@contextmanager
def bridge(folder, *arguments):
    """Run the command in a process."""
    command = [sys.executable, "-m", "twinforce.socket_bridge.main", "start.xyz", *arguments]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("is_unix", [True, False])
def test_a_program_that_listens(service, copper, tmp_path, is_unix):
    """SocketIOCalculator and the bridge: energies, forces and stresses, over TCP and a file."""
    name, port = f"twinforce-{tmp_path.name}-{time.time_ns()}", free_port()
    address = f"unix:{name}" if is_unix else f"localhost:{port}"
    options = {"unixsocket": name} if is_unix else {"port": port}
    arguments = ["--connect", address, "--url", service, "--model", "water"]
    with bridge(tmp_path, *arguments) as process:
        with SocketIOCalculator(**options) as copper.calc:
            local = copper.copy()
            local.calc = EMT()
            for _ in range(3):
                np.testing.assert_allclose(copper.get_forces(), local.get_forces(), atol=1e-9)
                np.testing.assert_allclose(copper.get_stress(), local.get_stress(), atol=1e-9)
                assert copper.get_potential_energy() == pytest.approx(local.get_potential_energy())
                for atoms in (copper, local):
                    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
                    atoms.rattle(0.02, seed=3)
            with BFGS(copper, logfile=None) as search:
                assert search.run(fmax=0.02, steps=60)
        assert process.wait(timeout=60) == 0


def test_small_messages_are_sent_at_once():
    """Sockets over TCP do not wait for more to send."""
    endpoint = Endpoint("127.0.0.1", free_port())
    with endpoint.listen() as listening, endpoint.connect() as connected:
        listening.accept()[0].close()
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_programs_that_connect(service, copper, tmp_path):
    """The bridge listens: two programs are answered at the same time."""
    address = f"127.0.0.1:{free_port()}"
    with bridge(tmp_path, "--listen", address, "--url", service, "--model", "water") as process:
        assert process.stderr.readline() == "twinforce-socket: ready\n"
        endpoint = Endpoint.parse(address)
        with endpoint.connect() as first, endpoint.connect() as second:
            programs = [IPIProtocol(first), IPIProtocol(second)]
            expected = []
            for program in programs:
                assert program.status() == "READY"
                program.sendinit()
                copper.rattle(0.02, seed=len(expected))
                program.sendposdata(copper.cell, np.linalg.inv(copper.cell), copper.positions)
                expected.append(copper.copy())
            for program, atoms in zip(programs, expected, strict=True):
                assert program.status() == "HAVEDATA"
                energy, forces, virial, _ = program.sendrecv_force()
                atoms.calc = EMT()
                assert energy == pytest.approx(atoms.get_potential_energy())
                np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
                stress = -virial / atoms.get_volume()
                np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-9)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True)])
def test_partly_periodic_structures_have_virials(service, copper, tmp_path, pbc):
    """The bridge answers the virial of slabs and wires, too."""
    copper.center(vacuum=4.0, axis=[axis for axis in range(3) if not pbc[axis]])
    copper.pbc = pbc
    ase.io.write(tmp_path / "start.xyz", copper, format="extxyz")
    address = f"127.0.0.1:{free_port()}"
    with bridge(tmp_path, "--listen", address, "--url", service, "--model", "water") as process:
        process.stderr.readline()
        with Endpoint.parse(address).connect() as connected:
            program = IPIProtocol(connected)
            program.sendposdata(copper.cell, np.linalg.inv(copper.cell), copper.positions)
            assert program.status() == "HAVEDATA"
            *_, virial, _ = program.sendrecv_force()
    copper.calc = EMT()
    expected = -copper.get_volume() * copper.get_stress(voigt=False)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(virial, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--forces", "direct"], "UnsupportedOutputError: outputs: expected a model with direct_"),
        (["--model", "none"], "UnknownModelError"),
        (["--connect", "nowhere"], "address: expected HOST:PORT or unix:NAME, got 'nowhere'"),
        (["--connections", "0"], "argument --connections: expected a whole number from 1, got 0"),
        (["--wait", "nan"], "argument --wait: expected a number of seconds from 0, got nan"),
        (["--connect", "a..b:1", "--connections", "2"], "twinforce-socket: UnicodeError: "),
    ],
)
@pytest.mark.usefixtures("copper")
def test_errors_end_the_bridge(service, tmp_path, arguments, text):
    """Errors: the bridge says why it cannot begin, and ends."""
    given = ["--connect", "localhost:1", "--wait", "0", "--model", "water", "--url", service]
    with bridge(tmp_path, *given, *arguments) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode > 0
    assert text in said


@pytest.mark.usefixtures("copper")
def test_a_socket_in_use_is_left_alone(service, tmp_path):
    """Errors: a second bridge at the same file ends, and the first one goes on."""
    address = f"unix:{tmp_path / 'socket'}"
    options = ["--listen", address, "--url", service, "--model", "water"]
    with bridge(tmp_path, *options) as first:
        assert first.stderr.readline() == "twinforce-socket: ready\n"
        with bridge(tmp_path, *options) as second:
            _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"Address already in use: '{tmp_path / 'socket'}'" in said
        with Endpoint.parse(address).connect() as connected:
            assert IPIProtocol(connected).status() == "READY"
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=60) == 130
    assert not (tmp_path / "socket").exists()


def test_files_at_the_address(tmp_path):
    """Sockets that were left behind are replaced; other files are kept."""
    left = Endpoint.parse(f"unix:{tmp_path / 'left'}")
    left.listen().close()
    with left.listen() as listening, left.connect():
        listening.accept()[0].close()
    (tmp_path / "notes").write_text("kept")
    with pytest.raises(OSError, match=r"in use: .*notes"):
        Endpoint.parse(f"unix:{tmp_path / 'notes'}").listen()
    assert (tmp_path / "notes").read_text() == "kept"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("copper")
def test_a_connection_that_dies_is_a_failure(service, tmp_path, monkeypatch):
    """Errors: one that nobody foresaw ends a connection, and the exit status tells of it."""
    answer = Forwarding.serve

    def dying(forwarding, connected):
        if died:
            return answer(forwarding, connected)
        died.append(connected)
        connected.close()
        raise RuntimeError("a mistake")

    died = []
    monkeypatch.setattr(Forwarding, "serve", dying)
    endpoint = Endpoint("127.0.0.1", free_port())
    with endpoint.listen() as listening:
        arguments = [str(tmp_path / "start.xyz"), "--connect", f"127.0.0.1:{endpoint.port}"]
        arguments += ["--connections", "2", "--model", "water", "--url", service]
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(main, arguments)
            for _ in range(2):
                listening.accept()[0].close()
            with pytest.raises(SystemExit) as end:
                ending.result(timeout=60)
    assert end.value.code == 1


@pytest.mark.usefixtures("copper")
def test_an_interrupt_ends_the_bridge(service, tmp_path):
    """Ctrl-C ends the bridge while a program is connected that asks for nothing."""
    endpoint = Endpoint("127.0.0.1", free_port())
    address = f"127.0.0.1:{endpoint.port}"
    with endpoint.listen() as listening:
        options = ["--connect", address, "--url", service, "--model", "water"]
        with bridge(tmp_path, *options) as process, listening.accept()[0] as connected:
            assert IPIProtocol(connected).status() == "READY"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130


def is_closed(connected):
    try:
        return connected.recv(1) == b""
    except ConnectionResetError:  # what was sent was not read
        return True


def test_a_program_that_talks_nonsense_is_left(service, copper, tmp_path):
    """Errors: a wrong number of atoms and unknown messages end the connection with a reason."""
    address = f"127.0.0.1:{free_port()}"
    with bridge(tmp_path, "--listen", address, "--url", service, "--model", "water") as process:
        process.stderr.readline()
        with Endpoint.parse(address).connect() as connected:
            small = copper[:2]
            program = IPIProtocol(connected)
            program.sendposdata(small.cell, np.linalg.inv(small.cell), small.positions)
            assert is_closed(connected)
            assert "expected 4 atoms as in the file, got 2" in process.stderr.readline()
        with Endpoint.parse(address).connect() as connected:
            connected.sendall(b"HELLO".ljust(12))
            assert is_closed(connected)
            assert "got 'HELLO'" in process.stderr.readline()
