"""A file is whole or untouched."""

import os
import stat

import pytest

from tonnage.cli.output import Format, deliver
from tonnage.errors import InputError, UsageError
from tonnage.files import write_atomically
from tonnage.report import Headline, Report

REPORT = Report(title="t", subtitle=(), headline=Headline(label="L", answer="a"), sections=())


def test_a_new_file_is_written(tmp_path):
    write_atomically(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"


def test_a_file_that_cannot_be_encoded_keeps_the_old_one_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(target, "half\ud800")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_rendering_that_fails_keeps_the_old_file(tmp_path):
    target = tmp_path / "f.json"
    target.write_text("old")
    broken = Report(
        title="t", subtitle=(), headline=REPORT.headline, sections=(), data={"x": float("nan")}
    )
    with pytest.raises(ValueError, match="JSON"):
        deliver(broken, chosen=Format.JSON, output=target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "f", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


@pytest.mark.parametrize("target", [".", "none/f"])
def test_what_cannot_be_a_file_is_refused(tmp_path, target):
    with pytest.raises(UsageError):
        write_atomically(tmp_path / target, "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said_so(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_atomically(tmp_path / "f", "new")
    finally:
        tmp_path.chmod(0o700)


def test_the_note_says_what_was_written(tmp_path, capsys):
    deliver(REPORT, chosen=None, output=tmp_path / "f.md")
    assert capsys.readouterr().err == f"wrote {tmp_path / 'f.md'} · L: a\n"
