"""Settings of pip for a build of the image, which may hold passwords."""

import stat

from tests.image.pip_settings import volumes


def test_settings_of_pip_are_for_their_owner_only(tmp_path, monkeypatch):
    index = "https://alice:secret@packages.example.com/simple"
    monkeypatch.setenv("PIP_INDEX_URL", index)
    assert f"--volume={tmp_path}/pip.conf:/etc/pip.conf:ro" in volumes(tmp_path)
    file = tmp_path / "pip.conf"
    assert f"index-url = {index}\n" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
