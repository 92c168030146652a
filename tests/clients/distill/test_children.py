"""Tests that programs end with the process that runs them, and that failures quote them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import wait_until
from twinforce.distill.programs import children
from twinforce.distill.programs.children import ChildFailedError, check_installed, running, wait_for

SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def test_a_child_ends_with_its_context(tmp_path):
    with running([sys.executable, "-c", SLEEPER], tmp_path / "log") as child:
        wait_until(child.output)
        pid = int(child.output())
        assert is_alive(pid)
    assert not is_alive(pid)


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from twinforce.distill.programs.children import running\n"
        f"command, log = [sys.executable, '-c', {SLEEPER!r}], Path({str(tmp_path / 'log')!r})\n"
        "with running(command, log):\n"
        "    print('begun', flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "begun\n"
    log = tmp_path / "log"
    wait_until(lambda: len(log.read_text().splitlines()) == 2)
    pid = int(log.read_text().splitlines()[1])
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    wait_until(lambda: not is_alive(pid))


def test_a_failure_quotes_the_reason_and_names_the_log(tmp_path):
    program = "print('loading'); raise ValueError('minutes: expected more')"
    with (
        running([sys.executable, "-c", program], tmp_path / "train.log") as child,
        pytest.raises(ChildFailedError) as failed,
    ):
        wait_for(child, lambda: False, "the training")
    assert "the training failed: ValueError: minutes: expected more" in str(failed.value)
    assert "train.log" in str(failed.value)


def test_the_output_of_an_earlier_attempt_is_kept_but_not_quoted(tmp_path):
    for text in ("first", "second"):
        with running([sys.executable, "-c", f"print({text!r})"], tmp_path / "log") as child:
            while child.status is None:
                time.sleep(0.01)
        assert child.output().split() == [text]
    assert "first" in (tmp_path / "log").read_text()


def test_a_missing_package_names_the_extras(monkeypatch):
    check_installed()
    monkeypatch.setitem(children._EXTRAS, "training", ("no_such_package",))
    with pytest.raises(ModuleNotFoundError, match=r"no_such_package.*twinforce\[cli,server,trai"):
        check_installed()
