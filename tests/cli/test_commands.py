"""Every command, asked the way people ask: exit codes, where the lines go, what they say."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli import process
from tonnage import errors

QUESTION = (
    *("--model", "Llama-3.3-70B-Instruct", "--gpu", "H200-SXM", "--peak-request-rate", "11/s"),
    *("--prompt-tokens", "2800", "--output-tokens", "350"),
)
PROMISES = ("--ttft-p95", "1.5 s", "--tpot-p95", "50 ms")
STUDY = """\
name: Support chatbot
model: Llama-3.3-70B-Instruct
workload:
  users: {registered: 20000, active_at_peak: 10 %, requests_per_active_user_per_hour: 12}
  prompt: 2780 tokens
  answer: 350 tokens
promises:
  ttft: {p95: 1.5 s}
  tpot: {p95: 50 ms}
hardware:
  gpus: [H200-SXM]
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def tonnage(*arguments, cwd=None, **environment):
    """Run the command line without the user's own catalog."""
    nowhere = {"HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}
    return process.tonnage(*arguments, cwd=cwd, variables=nowhere | environment)


# ── exit codes and streams ──────────────────────────────────────────────────────────────────────


def test_an_answer_goes_to_stdout_and_exits_0(study):
    result = tonnage("size", study)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert "Recommended" in result.stdout
    assert result.stderr == ""


def test_flags_alone_are_a_study():
    result = tonnage("size", *QUESTION, *PROMISES)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert "11 requests/s" in result.stdout


def test_nothing_asked_is_wrong_use():
    result = tonnage("size")
    assert result.returncode == errors.EXIT_USAGE
    assert result.stdout == ""
    assert result.stderr.startswith("error: there is nothing to size")


@pytest.mark.parametrize(
    "arguments",
    [
        ("size", "--no-such-flag"),
        ("no-such-command",),
        ("size", "--format", "pdf"),
        ("catalog", "list", "planets"),
        ("capacity", "--model", "x"),
        ("size", "--price", "H200-SXM", "--model", "x"),
        ("parameter", "no_such_parameter"),
    ],
)
def test_wrong_use_exits_2_without_a_traceback(arguments):
    result = tonnage(*arguments)
    assert result.returncode == errors.EXIT_USAGE
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_mistakes_in_a_study_are_told_with_their_lines(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        STUDY.replace("answer: 350 tokens", "answer: {p59: 900}").replace("1.5 s", "1.5")
    )
    result = tonnage("size", path.name, cwd=tmp_path)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert result.stdout == ""
    assert "study.yaml:6: workload.answer.p59 is not a key here. Did you mean p95?" in result.stderr
    assert 'study.yaml:8: "1.5" has no unit: promises.ttft.p95 is a time' in result.stderr


def test_mistakes_in_flags_are_told_with_the_flag():
    result = tonnage("size", *QUESTION, "--ttft-p95", "1.5")
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert result.stderr.startswith('error: "1.5" has no unit: --ttft-p95 is a time')


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-batch-size", "0"), "--max-batch-size must be at least 1, not 0."),
        (("--gpu", "H200-SXN"), "--gpu cannot be used: "),
        (("--gpu", "H200-SXM,H200-SXN"), "--gpu[1] cannot be used: "),
    ],
)
def test_a_flag_that_was_given_once_has_no_number(flags, said):
    result = tonnage("size", "--model", "gpt-oss-120b", "--request-rate", "1/s", *flags)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert result.stderr.startswith(f"error: {said}")


def test_a_missing_study_is_bad_input(tmp_path):
    result = tonnage("size", tmp_path / "none.yaml")
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "none.yaml" in result.stderr


def test_an_unknown_name_is_answered_with_the_nearest():
    result = tonnage("size", *QUESTION, "--gpu", "H200-SXN")
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "H200-SXM" in result.stderr


def test_infeasible_is_reported_and_exits_4():
    result = tonnage("size", *QUESTION, "--tpot-p95", "1 ms")
    assert result.returncode == errors.EXIT_INFEASIBLE
    assert "What would have to change" in result.stdout
    assert result.stderr.startswith("error: ")
    assert result.stderr.rstrip().endswith("(exit 4)")


def test_infeasible_is_json_too():
    result = tonnage("size", *QUESTION, "--tpot-p95", "1 ms", "--format", "json")
    assert result.returncode == errors.EXIT_INFEASIBLE
    assert json.loads(result.stdout)["infeasible"]["reason"]


def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = f"{sys.executable} -m tonnage catalog list models | head -1"
    result = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.stderr == ""


def test_an_interrupt_exits_130(tmp_path):
    fifo = tmp_path / "study.yaml"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [sys.executable, "-m", "tonnage", "size", fifo],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        writer = os.open(fifo, os.O_WRONLY)  # returns once tonnage reads: it is waiting for us
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        os.close(writer)
    assert process.returncode == errors.EXIT_INTERRUPTED
    assert (out, err) == ("", "interrupted\n")


# ── what is asked, and how it is written ────────────────────────────────────────────────────────


def test_flags_override_the_study(study):
    found = json.loads(
        tonnage("size", study, "--peak-request-rate", "3/s", "--name", "Other", "-f", "json").stdout
    )
    assert found["name"] == "Other"
    assert found["demand"]["requests_per_s_peak"] == 3


def test_headroom_and_spare_are_the_recommended_scenario_s():
    result = tonnage(
        "size", *QUESTION, *PROMISES, "--headroom", "50 %", "--spare", "2", "-f", "json"
    )
    scenarios = json.loads(result.stdout)["plan"]["scenarios"]
    assert scenarios["recommended"]["configuration"]["headroom_fraction"] == 0.5
    assert scenarios["recommended"]["configuration"]["spare_units"] == 2


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_page_is_as_wide_as_the_terminal(study, columns):
    lines = tonnage("size", study, COLUMNS=columns, cwd=study.parent).stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)


def test_no_colour_when_nobody_looks(study):
    assert "\x1b" not in tonnage("size", study, FORCE_COLOR="1").stdout


def test_explain_tells_one_figure(study):
    result = tonnage("size", study, "--explain", "kv_bytes_per_session")
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert result.stdout.startswith("kv_bytes_per_session\n")
    assert "formula" in result.stdout


def test_explain_of_an_unknown_figure_lists_what_there_is(study):
    result = tonnage("size", study, "--explain", "kv_per_session")
    assert result.returncode == errors.EXIT_USAGE
    assert "Did you mean kv_bytes_per_session" in result.stderr


@pytest.mark.parametrize(("name", "start"), [("p.json", "{"), ("p.md", "# "), ("p.txt", "  ")])
def test_the_ending_of_the_file_chooses_the_format(study, tmp_path, name, start):
    result = tonnage("size", study, "-o", tmp_path / name)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert result.stdout == ""
    assert f"wrote {tmp_path / name}" in result.stderr
    assert (tmp_path / name).read_text().startswith(start)


def test_quiet_says_nothing(study, tmp_path):
    result = tonnage("size", study, "-q", "-o", tmp_path / "p.json")
    assert (result.stdout, result.stderr) == ("", "")


def test_a_directory_is_refused_before_the_work(study, tmp_path):
    result = tonnage("size", study, "-o", tmp_path)
    assert result.returncode == errors.EXIT_USAGE
    assert "is a directory" in result.stderr


def test_a_mistake_leaves_the_old_file(study, tmp_path):
    target = tmp_path / "plan.json"
    target.write_text("old")
    assert tonnage("size", study, "--ttft-p95", "soon", "-o", target).returncode == 3
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "study.yaml"]


def test_memory_is_sized_without_a_load():
    result = tonnage(
        *("size", "--model", "gpt-oss-120b", "--sessions", "1000", "--context-tokens", "128 k"),
        *(
            "--server",
            "DGX-B300",
            "--kv-dtype",
            "fp8",
            "--runtime-overhead",
            "120 GiB",
            "-f",
            "json",
        ),
    )
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    found = json.loads(result.stdout)
    assert found["mode"] == "memory"
    assert found["plan"]["latency"] is None


# ── the other commands ──────────────────────────────────────────────────────────────────────────


def test_capacity_turns_the_question_round():
    result = tonnage(
        *("capacity", "--fleet", "1 x DGX-H100:tp4", "--model", "Llama-3.3-70B-Instruct"),
        *("--prompt-tokens", "2000", "--output-tokens", "200", "--requests-per-user", "3"),
        *("--active-hours", "8 h", "-f", "json"),
    )
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    found = json.loads(result.stdout)
    assert found["starts"] is True
    assert (found["gpus"], found["replicas"], found["tensor_parallel"]) == (8, 2, 4)
    assert found["requests_per_s"] > 0
    assert found["daily_users"] == pytest.approx(found["daily_requests"] / 3, abs=1)


def test_a_fleet_that_will_not_start_exits_4():
    result = tonnage(
        *("capacity", "--fleet", "1 x L4:tp1", "--model", "Llama-3.3-70B-Instruct"),
        *("--prompt-tokens", "2000", "--output-tokens", "200"),
    )
    assert result.returncode == errors.EXIT_INFEASIBLE
    assert "It will not start" in result.stdout
    assert result.stderr.startswith("error: it will not start")


@pytest.mark.parametrize("kind", ["gpus", "models", "servers", "storage", "engines"])
@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_catalog_lists_every_kind(kind, columns):
    result = tonnage("catalog", "list", kind, COLUMNS=columns)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= int(columns)
    listed = json.loads(tonnage("catalog", "list", kind, "-f", "json").stdout)[kind]
    assert len(listed) == int(result.stdout.split()[0])


@pytest.mark.parametrize("name", ["H200-SXM", "DGX-H100", "Llama-3.3-70B-Instruct", "vllm"])
def test_the_catalog_shows_a_thing_with_its_source(name):
    result = tonnage("catalog", "show", name)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert "source" in result.stdout


def test_the_catalog_knows_what_it_does_not_have():
    result = tonnage("catalog", "show", "Cray-1")
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "nothing called" in result.stderr


def test_the_catalog_is_in_order_and_a_bad_file_is_not(tmp_path):
    assert tonnage("catalog", "check").returncode == errors.EXIT_ANSWERED
    path = tmp_path / "mine.toml"
    path.write_text("[gpus.Mine]\nmemory_gb = -1\n")
    result = tonnage("catalog", "check", path)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "Mine" in result.stdout


def test_every_parameter_is_explained_by_any_of_its_names():
    for name in ("--kv-dtype", "kv_dtype", "engine.kv_dtype"):
        result = tonnage("parameter", name)
        assert result.returncode == errors.EXIT_ANSWERED
        assert "KV cache" in result.stdout
    assert "output_tokens" in tonnage("parameter", "--list").stdout


def test_init_writes_a_study_that_can_be_sized(tmp_path):
    told = tonnage("init", *QUESTION, *PROMISES, cwd=tmp_path)
    assert told.returncode == errors.EXIT_ANSWERED, told.stderr
    assert tonnage("size", "study.yaml", cwd=tmp_path).returncode == errors.EXIT_ANSWERED


def test_init_does_not_replace_a_study(study):
    again = ("init", *QUESTION, *PROMISES, "-o", study)
    result = tonnage(*again)
    assert result.returncode == errors.EXIT_USAGE
    assert study.read_text() == STUDY
    assert tonnage(*again, "--force").returncode == errors.EXIT_ANSWERED
    assert study.read_text() != STUDY


def test_init_asks_again_after_a_bad_unit(tmp_path):
    answers = (
        "Llama-3.3-70B-Instruct\nlots\n2000 tokens\n300 tokens\n"
        "11 apples\n11/s\nfirst 1.5 s\nH200-SXM\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "tonnage", "init"],
        cwd=tmp_path,
        input=answers,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert '"lots" cannot be read' in result.stderr
    assert result.stdout == ""
    written = (tmp_path / "study.yaml").read_text()
    for answer in ("2000 tokens", "11/s", "1.5 s", "H200-SXM"):
        assert answer in written


def test_init_without_anybody_to_ask_says_which_flag(tmp_path):
    result = tonnage("init", cwd=tmp_path)
    assert result.returncode == errors.EXIT_USAGE
    assert "--model" in result.stderr
    assert list(tmp_path.iterdir()) == []


# ── the door itself ─────────────────────────────────────────────────────────────────────────────


def test_version():
    assert tonnage("--version").stdout.startswith("tonnage ")


@pytest.mark.parametrize(
    "command",
    [
        (),
        *((name,) for name in ("size", "capacity", "init", "catalog", "measure", "fit", "import")),
        ("sizing", "calc"),
    ],
)
def test_help_teaches_and_fits(command):
    result = tonnage(*command, "--help")
    assert result.returncode == errors.EXIT_ANSWERED
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\\" not in result.stdout


def test_an_example_in_a_help_is_a_line_to_copy():
    lines = tonnage("measure", "--help").stdout.splitlines()
    assert "    tonnage measure my_agent:answer --dataset questions.jsonl" in lines


def test_help_loads_none_of_the_machinery():
    code = (
        "import sys\n"
        "from tonnage.cli import main\n"
        "sys.argv = ['tonnage', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'numpy', 'pydantic', 'yaml', 'rich', 'tonnage.fleet', 'tonnage.catalog.loader'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"


def test_the_installed_command_is_this_one():
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert 'tonnage = "tonnage.cli:main"' in pyproject.read_text()
