import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.callers.making import add_key, run_keys
from twinforce_service.callers.entry import parse_time
from twinforce_service.callers.key_file import KeyFileError, read_keys
from twinforce_service.callers.key_text import KEY_PATTERN
from twinforce_service.callers.limits import CallerLimits


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_a_key_is_printed_once_and_only_its_hash_is_kept(file):
    text = add_key(file, "alice")
    assert re.fullmatch(KEY_PATTERN, text)
    key = read_keys(file)["alice"]
    assert key.hash.matches(text)
    assert not key.hash.matches(text[:-1])
    _, key_id, secret = text.split("_")
    assert key.id == key_id
    assert secret not in file.read_text()
    assert str(key.hash) not in repr(key)


def test_only_the_owner_may_read_the_file_and_nothing_else_is_left_beside_it(file):
    add_key(file, "alice")
    add_key(file, "bob")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_the_options_of_a_key_survive_the_file(file):
    text = add_key(
        file, "group", "--scope", "predict", "--scope", "metrics", "--models", "water,copper",
        "--share", "2.5", "--may-be-urgent", "--expires", "2031-02-03T04:05Z",
        "--limit", "max_runs=4", "--limit", "atoms_per_second=1e5",
    )  # fmt: skip
    add_key(file, "plain")
    key = read_keys(file)["group"]
    assert key.hash.matches(text)
    assert key.scopes == {"predict", "metrics"}
    assert key.models == {"water", "copper"}
    assert key.expires == parse_time("2031-02-03T04:05:00+00:00")
    assert (key.caller.name, key.caller.share, key.caller.may_be_urgent) == ("group", 2.5, True)
    assert key.caller.limits == CallerLimits(max_runs=4, atoms_per_second=1e5)
    plain = read_keys(file)["plain"]
    assert plain.caller.limits is None
    assert plain.scopes == {"predict", "nonconservativity", "propagate", "relax"}
    assert (plain.models, plain.expires, plain.caller.share) == (None, None, 1.0)


def test_keys_are_listed_without_their_texts_and_revoked_by_name(file):
    texts = [add_key(file, "alice"), add_key(file, "bob", "--expires", "2020-01-01")]
    status, listed = run_keys(file, "list")
    assert status == 0
    assert [line.split()[0] for line in listed.splitlines()] == ["NAME", "alice", "bob"]
    assert "(expired)" in listed.splitlines()[2]
    assert not any(text.split("_")[2] in listed for text in texts)
    assert run_keys(file, "revoke", "alice") == (0, "")
    assert read_keys(file).keys() == {"bob"}
    status, written = run_keys(file, "revoke", "alice")
    assert status == 1
    assert "expected one of the keys bob, got 'alice'" in written


def test_a_name_is_given_once(file):
    add_key(file, "alice")
    before = file.read_bytes()
    status, written = run_keys(file, "add", "alice")
    assert (status, file.read_bytes()) == (1, before)
    assert "there is a key 'alice' already; revoke it first" in written


def test_keys_that_are_added_at_once_are_all_kept(file):
    names = [f"caller-{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: _added(file, name), names))
    assert found == [0] * len(names)
    assert {*read_keys(file)} == {*names}


def _added(file, name):
    from twinforce_service.callers import command

    return command.run(["add", name, "--file", str(file)], "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("a b",), "name: expected letters, digits"),
        (("a", "--scope", "everything"), "scopes: expected some of predict"),
        (("a", "--models", "a/b"), "models: expected names of models, got a/b"),
        (("a", "--share", "0"), "share: expected a positive number, got 0.0"),
        (("a", "--limit", "max_runs"), "limits: expected NAME=NUMBER, got 'max_runs'"),
        (("a", "--limit", "max_runs=0"), "limits: max_runs: expected a positive number, got 0.0"),
        (("a", "--limit", "runs=1"), "limits: expected some of max_requests, "),
        (("a", "--expires", "soon"), "expires: expected a time, such as 2030-01-31"),
        (("a", "--expires", "9999999999d"), "expires: expected a time before the year 10000"),
    ],
)
def test_an_invalid_option_writes_nothing(file, arguments, expected):
    status, written = run_keys(file, "add", *arguments)
    assert status == 1
    assert expected in written
    assert not file.exists()


def entry(file):
    add_key(file, "alice")
    return json.loads(file.read_text())["keys"]["alice"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scope": ["predict"]}, "keys.alice: expected members of .* unknown or missing: scope"),
        ({"hash": "secret-text"}, r"keys.alice: hash: expected \$scrypt"),
        ({"hash": None}, "keys.alice: hash: expected a text, got NoneType"),
        ({"id": "../../etc"}, "keys.alice: id: expected 10 lowercase"),
        ({"scopes": "predict"}, "keys.alice: scopes: expected a list of names, got str"),
        ({"scopes": []}, "keys.alice: scopes: expected some of .* got none"),
        ({"models": []}, "keys.alice: models: expected names of models, got none"),
        ({"share": "2"}, "keys.alice: share: expected a positive number, got '2'"),
        ({"share": float("nan")}, "keys.alice: share: expected a positive number, got nan"),
        ({"may_be_urgent": 1}, "keys.alice: may_be_urgent: expected a bool, got 1"),
        ({"limits": 4}, "keys.alice: limits: expected a JSON object, got int"),
        ({"limits": {"max_runs": "4"}}, "limits: max_runs: expected a positive number, got '4'"),
        ({"expires": 2030}, "keys.alice: expires: expected a text, got int"),
    ],
)
def test_a_file_that_is_not_one_of_keys_is_refused_with_the_place(file, change, expected):
    file.write_text(json.dumps({"keys": {"alice": entry(file) | change}}))
    with pytest.raises(KeyFileError, match=expected) as caught:
        read_keys(file)
    assert "secret-text" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ("[]", "the file: expected a JSON object, got list"),
        ("{}", "expected the member keys, got none"),
        ('{"keys": []}', "keys: expected a JSON object, got list"),
        ('{"keys": {}, "more": 1}', "expected the member keys, got keys, more"),
    ],
)
def test_other_files_are_refused(file, text, expected):
    file.write_text(text)
    with pytest.raises(KeyFileError, match=expected):
        read_keys(file)


def test_a_hash_that_would_take_all_memory_is_refused(file):
    costly = entry(file)["hash"].replace("ln=14", "ln=24")
    file.write_text(json.dumps({"keys": {"alice": entry_with(file, costly)}}))
    with pytest.raises(KeyFileError, match="expected one that takes at most 1 GiB, got ln=24"):
        read_keys(file)


def entry_with(file, hashed):
    return json.loads(file.read_text())["keys"]["alice"] | {"hash": hashed}


def test_two_keys_of_one_id_are_refused(file):
    same = entry(file)
    file.write_text(json.dumps({"keys": {"alice": same, "bob": same}}))
    with pytest.raises(KeyFileError, match=r"expected different ids, got .* twice"):
        read_keys(file)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_is_refused(file, mode):
    add_key(file, "alice")
    file.chmod(mode)
    with pytest.raises(KeyFileError, match="only its owner may write to: chmod 600"):
        read_keys(file)


def test_a_missing_file_is_named(file):
    with pytest.raises(KeyFileError, match=f"{file}: no such file"):
        read_keys(file)
    status, written = run_keys(file / "keys.json", "add", "alice")
    assert status == 1
    assert "no such file" in written
