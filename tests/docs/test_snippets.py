"""The commands and programs that the documentation shows work as they stand.

Only the addresses are replaced, by those of a service on free ports. Programs and commands of a
page run in order in one folder, since later ones read the files that earlier ones wrote.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks_of
from twinforce_service.main import run_in_thread
from twinforce_service.settings import Settings, parse_settings

RUN_PAGES = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "dynamics.md"]
ALL_BLOCKS = [block for page in PAGES for block in blocks_of(page)]
# `twinforce assess` takes minutes.
RUN_COMMANDS = {"curl", "twinforce models", "twinforce predict", "twinforce md"}


@pytest.fixture(scope="module")
def server():
    """A service of the bundled model `water`."""
    with run_in_thread(Settings(rest_port=0, grpc_port=0, n_threads=1, compile="off")) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder that looks like a clone to the snippets."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_run(command):
    words = command.split()
    return words[0] in RUN_COMMANDS or " ".join(words[:2]) in RUN_COMMANDS


def with_addresses(code, server):
    code = code.replace("grpc://127.0.0.1:8001", server.grpc_url)
    return code.replace("http://127.0.0.1:8000", server.rest_url)


def run_program(block, server):
    code = compile(with_addresses(block.code, server), str(block), "exec")
    exec(code, {"__name__": "__main__"})


def run_command(command, server):
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "TWINFORCE_URL": server.grpc_url,
    }
    done = subprocess.run(
        ["bash", "-c", with_addresses(command, server)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page, server, folder, capsys):
    n_programs = n_commands = 0
    for block in blocks_of(page):
        if block.language == "python":
            run_program(block, server)
            n_programs += 1
        elif block.language == "bash":
            for command in filter(is_run, block.commands):
                if shutil.which(command.split()[0]) or not command.startswith("curl "):
                    run_command(command, server)
                n_commands += 1
    assert n_programs > 0
    assert n_commands > 0
    assert capsys.readouterr().out


def test_curl_prints_what_python_prints(server, folder, capsys):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    blocks = blocks_of(ROOT / "README.md")
    (curl,) = [
        command
        for block in blocks
        if block.language == "bash"
        for command in block.commands
        if command.startswith("curl ")
    ]
    (program,) = [block for block in blocks if "client.predict(" in block.code]
    run_program(program, server)
    energy = float(capsys.readouterr().out.split()[0])
    found = re.search(r'"energy":\s*([-+.\deE]+)', run_command(curl, server))
    assert float(found[1]) == pytest.approx(energy, abs=1e-4)


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=str)
def test_programs_compile(block):
    if block.language == "python":
        compile(block.code, str(block), "exec")


def commands_named(*names):
    return [
        (f"{block} {command}", shlex.split(command, comments=True))
        for block in ALL_BLOCKS
        if block.language == "bash"
        for command in block.commands
        if Path(command.split()[0]).name in names
    ]


@pytest.mark.parametrize(("where", "words"), commands_named("twinforce-server"))
def test_flags_of_the_service_are_accepted(where, words):
    given = words[1 : words.index("&")] if "&" in words else words[1:]
    assert parse_settings(given).specs(), where


@pytest.mark.parametrize(("where", "words"), commands_named("make"))
def test_targets_of_make_exist(where, words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[1] in targets, where
