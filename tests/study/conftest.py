from pathlib import Path

import pytest

from tonnage.catalog.loader import Catalog
from tonnage.study import Study, load_study


@pytest.fixture(scope="session")
def catalog():
    return Catalog.load()


@pytest.fixture
def write_study(tmp_path):
    """Write YAML as study.yaml in a folder of its own and give its path."""

    def write(text: str) -> Path:
        path: Path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def read_study(write_study):
    def read(text: str) -> Study:
        return load_study(write_study(text))

    return read
