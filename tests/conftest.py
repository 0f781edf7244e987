"""What several rooms' tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says most of what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _no_doctor_s_file(tmp_path_factory):
    """Plans and the doctor keep to a cache of their own, here and in processes begun here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder of text: enough for trials of a second."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(200):
        words = (f"{(number * 7919 + n * n) % 977} is a number, {n} counts." for n in range(60))
        (folder / f"{number}.txt").write_text("\n".join(words))
    return folder
