"""The templates of batch scripts and of the container."""

import re
import subprocess
from pathlib import Path

import pytest

from twinforce_service.clusters import command
from twinforce_service.clusters.drain import END_TIME
from twinforce_service.settings import Settings

ROOT = Path(__file__).parents[3]
SCRIPTS = ["serve", "clients"]


def template(name, capsys):
    assert command.run([name]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one_of_bash_whose_options_come_first(name, capsys):
    text = template(name, capsys)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert options
    assert max(options) < first  # SLURM reads none after the first command


def test_the_service_is_warned_earlier_than_it_takes_to_stop(capsys):
    seconds = int(re.search(r"--signal=B:USR1@(\d+)", template("serve", capsys))[1])
    assert seconds >= 20 + Settings().drain_timeout


def test_servers_have_ended_before_a_job_that_is_canceled_is_killed(capsys):
    seconds = int(re.search(r"DRAIN_TIMEOUT:-(\d+)", template("serve", capsys))[1])
    assert seconds + END_TIME < 30  # KillWait, by default


def test_variables_of_the_script_are_settings_of_the_service(capsys):
    named = set(re.findall(r"\bTWINFORCE_(\w+)", template("serve", capsys)))
    assert {each.lower() for each in named - {"SERVER", "REQUEUE"}} <= Settings.model_fields.keys()


def test_the_container_is_made_of_the_image_and_overrides_what_it_fixes(capsys):
    text, image = template("container", capsys), (ROOT / "Dockerfile").read_text()
    fixed = re.findall(r"([A-Z_]+)=/(?:home|etc)/\S+", image)
    assert {"TWINFORCE_CONFIG", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"} <= {*fixed}
    overridden = re.findall(r"export (\w+)=", text)
    assert {*fixed} == {*overridden}
    assert 'ENTRYPOINT ["twinforce-server"]' in image
    assert 'exec twinforce-server "$@"' in text


def test_a_parser_of_definitions_reads_the_container(tmp_path, capsys):
    parsers = pytest.importorskip("spython.main.parse.parsers", reason="spython is not installed")
    path = tmp_path / "twinforce.def"
    path.write_text(template("container", capsys))
    recipe = parsers.get_parser("singularity")(str(path)).recipe["spython-base"]
    assert recipe.fromHeader == "{{ image }}"
    assert recipe.cmd == 'exec twinforce-server "$@"'
    assert "TWINFORCE_CONFIG=" in recipe.environ
    assert any("openssl" in line for line in recipe.install)


def test_an_unknown_template_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.run(["other"])
    assert "choose from" in capsys.readouterr().err
