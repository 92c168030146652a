"""A process that was forked opens its own connections and leaves those of its parent alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients import forking

PROGRAMS = [
    forking.children_use_what_their_parent_uses,
    forking.children_that_only_exit,
    forking.exit_functions_use_what_the_parent_used,
    forking.an_open_run_goes_on_in_both,
    forking.a_fork_while_a_thread_waits_for_a_reply,
    forking.a_calculator_and_pools,
    forking.asyncio_before_the_fork,
    forking.a_fork_inside_of_a_coroutine,
]

# gRPC does not support what these do: see docs/client.md.
REST_PROGRAMS = [
    forking.children_that_only_exit_beside_calls,
    forking.many_forks_while_threads_call,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_that_forks(program, url):
    run(program, url)


@pytest.mark.parametrize("program", REST_PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_that_forks_beside_calls_over_rest(program, server):
    run(program, server.rest_url)


def test_idle_streams_have_no_thread_at_a_fork(server):
    run(forking.idle_streams_have_no_thread_at_a_fork, server.grpc_url)


def test_a_fork_beside_calls_over_grpc_warns(server):
    run(forking.forks_beside_calls_warn, server.grpc_url)


def test_a_fork_that_grpc_was_told_not_to_survive_is_reported(server):
    run(forking.grpc_does_not_support_forks, server.grpc_url, GRPC_ENABLE_FORK_SUPPORT="0")


def run(program, url, **environment):
    ignored = ["This process:DeprecationWarning", "a fork beside:RuntimeWarning"]
    options = [option for each in ignored for option in ("-W", f"ignore:{each}")]
    command = [sys.executable, "-W", "error", *options]
    done = subprocess.run(
        [*command, "-m", forking.__name__, program.__name__, url],
        capture_output=True,
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        text=True,
        timeout=150,
    )
    assert (done.returncode, done.stderr) == (0, "")
