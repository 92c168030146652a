"""Keys of a server as users start it, in a separate process."""

import signal
import subprocess
import sys

import httpx2
import pytest

from tests.service.callers.making import add_key
from tests.service.test_main import PATIENCE, TOYS, running, start, urls
from tests.systems import molecule
from twinforce import Client, UnauthenticatedError


def test_the_command_makes_a_key_that_the_server_takes_and_no_output_shows_it(tmp_path):
    file = tmp_path / "keys.json"
    command = [sys.executable, "-m", "twinforce_service.main", "keys", "add", "alice"]
    key = subprocess.run(
        [*command, "--file", str(file)], capture_output=True, text=True, check=True
    ).stdout.strip()
    wrong = key[:-4] + "zzzz"
    with running(*TOYS, "--keys", str(file), "--log-level", "debug") as (process, lines):
        for url in urls(lines):
            with Client(url, key=key) as client, client.stream("lj") as stream:
                assert stream.predict(molecule())
            with Client(url, key=wrong) as client, pytest.raises(UnauthenticatedError) as caught:
                client.models()
            assert wrong not in str(caught.value)
        headers = {"authorization": f"Bearer {key}"}
        reply = httpx2.post(f"{urls(lines)[0]}/v1/models/lj/predict", content="{", headers=headers)
        assert reply.status_code == 422
        process.send_signal(signal.SIGTERM)
        written, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "a request with a wrong key was refused" in errors
    for text in (key, wrong):
        assert text.split("_")[2][:20] not in written + errors + "".join(lines)


def test_a_server_without_its_file_of_keys_does_not_start(tmp_path):
    add_key(tmp_path / "keys.json", "alice")
    process = start(*TOYS, "--keys", str(tmp_path / "other.json"))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    expected = f"twinforce-server: error: {tmp_path}/other.json: no such file or directory"
    assert errors.splitlines()[-1] == expected
