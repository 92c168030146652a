"""A stand-in for `srun`: run a command once per task, pass signals on, and wait for all."""

import os
import signal
import subprocess
import sys


def main():
    words = sys.argv[1:]
    while words and words[0].startswith("-"):
        words.pop(0)
    tasks, n_tasks = [], int(os.environ["SLURM_NTASKS"])
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: [each.send_signal(number) for each in tasks])
    variables = [os.environ | {"SLURM_PROCID": str(rank)} for rank in range(n_tasks)]
    tasks += [subprocess.Popen(words, env=each) for each in variables]
    return max(abs(each.wait()) for each in tasks)


if __name__ == "__main__":
    sys.exit(main())
