"""What the pages show is what happens: every command, example, study and catalog row is tried."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.docs.pages import (
    all_blocks,
    all_pages,
    commands_of,
    difference,
    renewed,
    run_python,
    run_session,
)

SESSIONS = all_blocks("console")
WORKERS = 2


@pytest.fixture(scope="session", autouse=True)
def all_run():
    """Two sessions at a time; `run_session` remembers what they printed.

    Where pytest itself spreads the tests over processes, each runs the sessions it is given.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    typed = {tuple(c.to_run for c in commands_of(block.text)) for block in SESSIONS}
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(run_session, sorted(typed)))


@pytest.mark.parametrize("block", SESSIONS, ids=lambda block: block.name)
def test_a_console_block_shows_what_is_printed(block):
    commands = commands_of(block.text)
    printed = run_session(tuple(command.to_run for command in commands))
    for command, real in zip(commands, printed, strict=True):
        where = f"{block.name}: {command.to_run} (make docs renews the page)"
        assert difference(command.shown, real.lines) == "", where
        assert real.exit_code == command.exit_code, where


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_a_python_block_does_what_it_says(page):
    problems, _ = run_python(page)
    assert problems == []


def test_the_pages_have_sessions_to_check():
    assert len(SESSIONS) > 20
    assert all(commands_of(block.text) for block in SESSIONS)


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "…"], ["a", "b", "c"]),
        (["…", "c"], ["a", "b", "c"]),
        (["a", "  …", "c"], ["a", "b", "c"]),
        (["…", "b", "…"], ["a", "b", "c"]),
        (["a", "…", "b"], ["a", "b"]),
        ([], []),
    ],
)
def test_a_page_may_leave_lines_out_where_it_says_so(shown, real):
    assert difference(shown, real) == ""


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        (["a"], ["a", "b"]),
        (["b"], ["a", "b"]),
        (["a", "c"], ["a", "b", "c"]),
        (["…", "a"], ["a", "b"]),
        (["b", "…"], ["a", "b"]),
        (["…", "b", "…", "a", "…"], ["a", "b"]),
        (["a"], []),
        ([], ["a"]),
    ],
)
def test_a_page_may_not_differ_otherwise(shown, real):
    assert difference(shown, real) != ""


def test_renewing_keeps_the_parts_shown_and_takes_the_new_figures():
    shown = ["title 1", "…", "  Memory 10 GiB", "  more", "…", "end 3"]
    real = ["title 2", "x", "y", "  Memory 12 GiB", "  new line", "  more", "z", "end 4"]
    fresh = renewed(shown, real)
    assert fresh == [
        "title 2", "…", "  Memory 12 GiB", "  new line", "  more", "…", "end 4"
    ]  # fmt: skip
    assert difference(fresh, real) == ""


def test_a_command_is_read_with_its_continuation_and_exit_code():
    (command,) = commands_of("$ tonnage size \\\n>   --model x\nerror: no\n# exit 3\n")
    assert command.to_run == "tonnage size   --model x"
    assert command.shown == ("error: no",)
    assert command.exit_code == 3
