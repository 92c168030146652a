"""Jobs of the service and of its clients, by the batch scripts that the package ships."""

import io
import json
import signal
import stat
from contextlib import redirect_stdout

import ase.io
import numpy as np
import pytest

from tests.clients.test_outages import start
from tests.slurm.scheduler import Scheduler
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import Client
from twinforce_service.clusters import command

pytestmark = pytest.mark.slow

FLAGS = ("--no-water", "--model", "lj=toy:lennard-jones", "--dtype", "float64", "--device", "cpu")
TWO_SERVERS = {"TWINFORCE_HOST": "127.0.0.1", "SLURM_NTASKS": "2"}


def template(name):
    with redirect_stdout(io.StringIO()) as written:
        assert command.run([name]) == 0
    return written.getvalue()


@pytest.fixture
def slurm(tmp_path):
    found = Scheduler(tmp_path)
    yield found
    found.close()


@pytest.fixture
def service(slurm):
    job = slurm.submit(template("serve"), *FLAGS, **TWO_SERVERS)
    job.wait_for_servers()
    return job


def servers_in(job):
    return json.loads(job.address_file.read_text())["servers"]


def test_a_job_starts_a_server_per_task_and_only_its_owner_sees_the_keys(service):
    with Client(service.url, timeout=60) as client:
        assert [each.name for each in client.models()] == ["lj"]
    servers = servers_in(service)
    assert len({each["grpc"] for each in servers}) == 2
    assert len({each["key"] for each in servers}) == 2
    assert stat.S_IMODE(service.address_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(service.address_file.parent.stat().st_mode) == 0o700
    assert not [each["key"] for each in servers if each["key"] in service.log.read_text()]


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_walkers_and_runs_go_on_in_a_job_that_is_queued_again(slurm, transport):
    again = {"TWINFORCE_REQUEUE": "yes"}
    service = slurm.submit(template("serve"), *FLAGS, **TWO_SERVERS, **again)
    url = service.url.replace("file", f"file+{transport}")
    service.wait_for_servers()
    with Client(url, timeout=60, reconnect_timeout=None) as client:
        walkers = [client.stream("lj") for _ in range(4)]
        expected = [each.predict(molecule()).energy for each in walkers]
        whole = [each.positions for each in client.propagate(start(), 40, 10, model="lj")]
        runs = [client.propagate(start(), 40, 10, model="lj") for _ in range(2)]
        firsts = [next(each).positions for each in runs]
        before = servers_in(service)
        service.warn()
        service.warn()  # twice, which does not end it at once
        assert service.wait() == 0
        assert service.is_requeued
        assert not service.address_file.exists()
        service.start()
        assert [each.predict(molecule()).energy for each in walkers] == expected
        for first, run in zip(firsts, runs, strict=True):
            rest = [each.positions for each in run]
            np.testing.assert_array_equal([first, *rest], whole)
        after = servers_in(service)
    for member in ("grpc", "rest", "key"):
        assert not {each[member] for each in before} & {each[member] for each in after}
    assert service.log.read_text().count("TwinForce ") == 4


def test_clients_find_a_job_that_starts_again_after_it_was_killed(service):
    with Client(service.url, timeout=60, reconnect_timeout=None) as client:
        walker = client.stream("lj")
        expected = walker.predict(molecule()).energy
        service.kill()
        assert service.address_file.exists()
        service.start()
        assert walker.predict(molecule()).energy == expected
    assert len(servers_in(service)) == 2


def test_a_job_that_is_canceled_stops_and_is_not_queued_again(service):
    service.cancel()
    assert service.wait() == 0
    assert not service.is_requeued
    assert not service.address_file.exists()


def test_a_signal_to_the_batch_script_alone_does_not_kill_the_servers(service):
    """Real `srun` turns a SIGTERM to itself into SIGKILL for its tasks."""
    service.signal_batch_shell(signal.SIGTERM)
    service.warn()
    assert service.wait() == 0
    assert not service.address_file.exists()


# The command of the trap returns after the servers have ended.
SLOW_TRAP = """() {
    builtin kill "$@"
    while [ "$1" = -USR1 ] && builtin kill -0 "$2" 2>/dev/null; do sleep 0.02; done
}"""


@pytest.mark.parametrize("n_exit", [0, 3])
def test_the_exit_code_is_that_of_servers_that_end_during_the_trap(slurm, tmp_path, n_exit):
    server = tmp_path / "server"
    server.write_text(
        f"#!/bin/bash\ntrap 'exit {n_exit}' USR1\ntouch ready\nwhile :; do sleep 0.02; done\n"
    )
    server.chmod(0o755)
    variables = {"TWINFORCE_SERVER": str(server), "SLURM_NTASKS": "1"}
    job = slurm.submit(template("serve"), **variables, **{"BASH_FUNC_kill%%": SLOW_TRAP})
    wait_until((tmp_path / "ready").exists)
    job.warn()
    assert job.wait() == n_exit


def environment_of_servers(slurm, **variables):
    """Return the environment that a job gives to its servers."""
    job = slurm.submit(template("serve"), TWINFORCE_SERVER="env", SLURM_NTASKS="1", **variables)
    assert job.wait() == 0
    return dict(line.partition("=")[::2] for line in job.log.read_text().splitlines())


@pytest.mark.parametrize("told", ["", "N/A", "NOT_SET"])
def test_an_unknown_end_of_the_job_is_not_passed_on(slurm, told):
    unknown = {"SLURM_JOB_END_TIME": "", "END_OF_JOB": told}
    stale = {"TWINFORCE_DRAIN_UNTIL": "1"}  # of the shell that submits the job
    assert "TWINFORCE_DRAIN_UNTIL" not in environment_of_servers(slurm, **unknown, **stale)


def test_the_end_of_the_job_is_asked_for_where_slurm_does_not_tell_it(slurm):
    told = {"SLURM_JOB_END_TIME": "", "END_OF_JOB": "2030-01-02T03:04:05", "TZ": "UTC"}
    seen = environment_of_servers(slurm, **told)
    assert seen["TWINFORCE_DRAIN_UNTIL"] == "1893553445"


def test_servers_get_the_cpus_of_a_task(slurm):
    """From SLURM 22.05 to 23.02, `srun` does not take over `--cpus-per-task` of `sbatch`."""
    assert environment_of_servers(slurm, SLURM_CPUS_PER_TASK="3")["TASK_CPUS"] == "3"


def test_a_server_that_cannot_start_is_seen_in_the_exit_code(slurm):
    job = slurm.submit(template("serve"), "--model", "lj=toy:nothing", **TWO_SERVERS)
    assert job.wait() != 0
    assert "twinforce-server: error: " in job.log.read_text()


def test_simulations_of_a_job_array_outlive_a_job_of_the_service(slurm, tmp_path):
    """They begin before it, move with it, and are what they are without a pause."""
    ase.io.write(tmp_path / "start.xyz", atoms())
    number = 103  # of the fourth job below
    flags = ["--forces", "conservative", "--steps", "400", "--interval", "10", "--model", "lj"]

    def simulate(task):
        task_id = {"SLURM_ARRAY_TASK_ID": str(task)}
        return slurm.submit(template("clients"), number, "start.xyz", *flags, **task_id)

    tasks = [simulate(task) for task in range(3)]
    service = slurm.submit(template("serve"), *FLAGS, **TWO_SERVERS)
    assert service.number == number
    logs = [tmp_path / f"md-{task}.csv" for task in range(3)]
    wait_until(lambda: all(each.exists() and len(rows_of(each)) > 2 for each in logs))
    service.warn()
    assert service.wait() == 0
    service.start()
    assert [each.wait() for each in tasks] == [0, 0, 0], tasks[0].log.read_text()
    found = [rows_of(each) for each in logs]
    assert [len(each) for each in found] == [41, 41, 41]
    assert len({tuple(each) for each in found}) == 3
    logs[0].rename(tmp_path / "before.csv")
    for each in tmp_path.glob("md-0.*"):
        each.unlink()
    assert simulate(0).wait() == 0
    assert rows_of(logs[0]) == found[0]


def rows_of(log):
    return log.read_text().splitlines()[1:]


def atoms():
    return ase.Atoms("Ar4", 3.9 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]))
