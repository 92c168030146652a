"""A stand-in for SLURM: it runs batch scripts, warns and ends them, and queues them again."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
_OPTION = re.compile(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", re.MULTILINE)


class Scheduler:
    """The commands of SLURM on one machine, in a folder of their own.

    Args:
        folder: Home of the user, where jobs run.
    """

    def __init__(self, folder):
        self.folder = folder
        self._jobs = []
        self._programs = folder / "bin"
        self._programs.mkdir()
        python = shlex.quote(sys.executable)
        self._add("srun", f'exec {python} {ROOT / "tests" / "slurm" / "srun.py"} "$@"')
        self._add("scontrol", '[ "$1" = requeue ] && touch "$HOME/requeued-$2"')
        self._add("squeue", 'echo "$END_OF_JOB"')
        self._add("twinforce", f'exec {python} -m twinforce.cli "$@"')
        self._add("twinforce-server", f'exec {python} -m twinforce_service.main "$@"')

    def submit(self, script, *arguments, **variables):
        """Start a job and return it."""
        job = Job(self.folder, 100 + len(self._jobs), script, arguments, variables)
        self._jobs.append(job)
        job.start()
        return job

    def close(self):
        for job in self._jobs:
            job.kill()

    def _add(self, name, command):
        path = self._programs / name
        path.write_text(f"#!/bin/bash\n{command}\n")
        path.chmod(0o755)


class Job:
    """A job that runs, and may run again under the same number."""

    def __init__(self, folder, number, script, arguments, variables):
        self.number = number
        self.address_file = folder / ".twinforce" / f"job-{number}.json"
        self.url = f"file:{self.address_file}"
        self.log = folder / f"job-{number}.log"
        self._folder, self._script = folder, folder / f"job-{number}.sbatch"
        self._script.write_text(script)
        self._arguments, self._variables = arguments, variables
        self.options = dict(_OPTION.findall(script))
        self.n_restarts = -1

    def start(self):
        self._requeued.unlink(missing_ok=True)
        self.n_restarts += 1
        known = {name: value for name, value in os.environ.items() if name[:6] != "SLURM_"}
        paths = os.pathsep.join([str(self._folder / "bin"), os.environ["PATH"]])
        job = {
            "HOME": str(self._folder),
            "PATH": paths,
            "PYTHONPATH": os.pathsep.join(map(str, sys.path)),
            "SLURM_JOB_ID": str(self.number),
            "SLURM_RESTART_COUNT": str(self.n_restarts),
            "SLURM_JOB_END_TIME": str(int(time.time()) + 3600),
        }
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                ["bash", str(self._script), *map(str, self._arguments)],
                cwd=self._folder,
                env=known | job | self._variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def warn(self):
        """Send the batch shell the signal that it asks for before the limit."""
        name = re.fullmatch(r"B:(\w+)@\d+", self.options["signal"])[1]
        self._process.send_signal(signal.Signals[f"SIG{name}"])

    def signal_batch_shell(self, number):
        """Send a signal to the batch shell only, as `scancel --batch --signal` does."""
        self._process.send_signal(number)

    def cancel(self):
        """Send SIGTERM to the batch shell, srun and the tasks, as `scancel` does."""
        (self._folder / f"canceled-{self.number}").touch()
        os.killpg(self._process.pid, signal.SIGTERM)

    def wait(self):
        """Return the exit code of the batch script."""
        return self._process.wait(PATIENCE)

    @property
    def is_requeued(self):
        return self._requeued.exists()

    @property
    def _requeued(self):
        return self._folder / f"requeued-{self.number}"

    def wait_for_servers(self):
        wait_until(lambda: self.address_file.exists() or self._process.poll() is not None)
        assert self._process.poll() is None, self.log.read_text()

    def kill(self):
        """End all processes of the job at once, as SLURM does at the limit."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
