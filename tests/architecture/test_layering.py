"""The import contract holds, and would notice a breach."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run the contract of `checkout` on the sources of `checkout`."""
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--no-logo"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied_checkout(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_imports_point_from_doors_to_nouns():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_import_against_the_stream_breaks_the_contract(copied_checkout):
    errors = copied_checkout / "src" / "tonnage" / "errors.py"
    errors.write_text(errors.read_text() + "\nfrom tonnage import evidence\n")
    result = lint_imports(copied_checkout)
    assert result.returncode == 1
    assert "tonnage.errors is not allowed to import tonnage.evidence" in result.stdout


def test_a_module_without_a_layer_breaks_the_contract(copied_checkout):
    (copied_checkout / "src" / "tonnage" / "helpers.py").write_text("")
    result = lint_imports(copied_checkout)
    assert result.returncode == 1
    assert "helpers" in result.stdout
