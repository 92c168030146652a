"""A stand-in for `srun` of SLURM 22.05: run a command once per task, and wait for all.

It passes SIGUSR1 on. On SIGTERM it kills the tasks, unless the job is canceled: SLURM then refuses
to kill them, because it has sent them SIGTERM itself.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def main():
    words = sys.argv[1:]
    while words and words[0].startswith("-"):
        words.pop(0)
    tasks, n_tasks = [], int(os.environ["SLURM_NTASKS"])
    canceled = Path(os.environ["HOME"]) / f"canceled-{os.environ['SLURM_JOB_ID']}"

    def pass_on(number, _):
        for each in tasks:
            each.send_signal(number)

    def abort(*_):
        if not canceled.exists():
            pass_on(signal.SIGKILL, None)

    signal.signal(signal.SIGUSR1, pass_on)
    signal.signal(signal.SIGTERM, abort)
    cpus = {"TASK_CPUS": os.environ.get("SRUN_CPUS_PER_TASK", "1")}
    variables = [os.environ | cpus | {"SLURM_PROCID": str(rank)} for rank in range(n_tasks)]
    tasks += [subprocess.Popen(words, env=each) for each in variables]
    return max(_exit_code(each.wait()) for each in tasks)


def _exit_code(status):
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
