"""Tests that the commands and programs in the documentation work unchanged.

Only the addresses are replaced, by those of a service on free ports. The programs and commands of a
page run in order in one folder, since later ones read the files that earlier ones wrote. The README
runs against the bundled model, the longer pages against a toy that is served as `water`.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks_of
from twinforce.cli import run
from twinforce_service.callers import command as keys_command
from twinforce_service.clusters import command as slurm_command
from twinforce_service.embedded import run_in_thread
from twinforce_service.environments import command
from twinforce_service.flags import parse_settings
from twinforce_service.settings import Settings

README = ROOT / "README.md"
LONGER_PAGES = [ROOT / "docs" / "tutorial.md", ROOT / "docs" / "dynamics.md"]
PROGRAMS = [block for page in PAGES for block in blocks_of(page) if block.language == "python"]
# `twinforce assess` takes minutes.
QUICK_COMMANDS = {"status", "models", "predict", "md"}
_MODULE = re.compile(r"python -m ([\w.]+)")


def serve(**settings):
    return run_in_thread(Settings(rest_port=0, grpc_port=0, n_threads=1, compile="off", **settings))


@pytest.fixture(scope="module")
def water():
    """A service of the bundled model `water`."""
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def toy():
    """A service of springs between atoms, under the name `water`."""
    with serve(water=False, model={"water": "toy:harmonic"}) as server:
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder that looks like a clone to the snippets."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)


def with_addresses(code, server):
    code = code.replace("grpc://127.0.0.1:8001", server.grpc_url)
    return code.replace("http://127.0.0.1:8000", server.rest_url)


def run_program(block, server):
    code = compile(with_addresses(block.code, server), str(block), "exec")
    exec(code, {"__name__": "__main__"})


def words_of(command):
    return shlex.split(command.replace("\\\n", " "), comments=True)


def commands_named(*names, pages=PAGES):
    """Return the words of each of these commands, with its place as the id of a parameter."""
    return [
        pytest.param(words_of(command), id=f"{block} {' '.join(command.split()[:3])}")
        for page in pages
        for block in blocks_of(page)
        if block.language == "bash"
        for command in block.commands
        if Path(command.split()[0]).name in names
    ]


def run_page(page, server, monkeypatch):
    """Run the Python programs and the quick `twinforce` commands of a page in order."""
    monkeypatch.setenv("TWINFORCE_URL", server.grpc_url)
    counts = {"python": 0, "twinforce": 0}
    for block in blocks_of(page):
        if block.language == "python":
            run_program(block, server)
            counts["python"] += 1
        elif block.language == "bash":
            for words in map(words_of, block.commands):
                if words[0] == "twinforce" and words[1] in QUICK_COMMANDS:
                    assert run(words[1:]) == 0, f"{block}: {words}"
                    counts["twinforce"] += 1
    return counts


def test_the_readme_runs(water, monkeypatch, capsys):
    assert run_page(README, water, monkeypatch) == {"python": 2, "twinforce": 4}
    assert "water" in capsys.readouterr().out
    assert Path("predicted.xyz").stat().st_size > 0
    assert Path("run.png").stat().st_size > 0


@pytest.mark.parametrize("page", LONGER_PAGES, ids=lambda page: page.name)
def test_a_longer_page_runs(page, toy, monkeypatch):
    counts = run_page(page, toy, monkeypatch)
    assert min(counts.values()) >= 2


def test_curl_prints_what_python_prints(water, capsys):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    blocks = blocks_of(README)
    (request,) = [
        command
        for block in blocks
        if block.language == "bash"
        for command in block.commands
        if command.startswith("curl ")
    ]
    (program,) = [block for block in blocks if "client.predict(" in block.code]
    run_program(program, water)
    energy = float(capsys.readouterr().out.split()[0])
    done = subprocess.run(
        ["bash", "-c", with_addresses(request, water)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = re.search(r'"energy":\s*([-+.\deE]+)', done.stdout)
    assert float(found[1]) == pytest.approx(energy, abs=1e-4)


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_programs_compile(block):
    compile(block.code, str(block), "exec")


@pytest.mark.parametrize("words", commands_named("twinforce-server"))
def test_the_service_accepts_the_flags(words):
    flags = words[1:-1] if words[-1] == "&" else words[1:]
    if flags[:1] == ["env"]:
        assert command.make_parser().parse_args(flags[1:])
    elif flags[:1] == ["keys"]:
        assert keys_command.make_parser().parse_args(flags[1:])
    elif flags[:1] == ["slurm"]:
        assert slurm_command.make_parser().parse_args(flags[1 : flags.index(">")])
    else:
        assert parse_settings(flags).specs()


@pytest.mark.parametrize("words", commands_named("make"))
def test_the_makefile_has_the_target(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[1] in targets


def test_modules_that_the_pages_run_exist():
    names = {name.rstrip(".") for page in PAGES for name in _MODULE.findall(page.read_text())}
    assert len(names) > 5
    assert not [name for name in names if importlib.util.find_spec(name) is None]
