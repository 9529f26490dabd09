"""`tonnage import`, asked the way people ask."""

import json
from pathlib import Path

import pytest

from tests.cli.process import tonnage
from tests.report.documents import checked
from tonnage import errors

SAMPLES = Path(__file__).resolve().parents[1] / "measurement" / "samples"


def test_levels_notes_and_the_next_step_are_shown():
    result = tonnage("import", SAMPLES / "guidellm.json")
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert result.stderr == ""
    for said in ("GuideLLM 0.8.1", "TTFT p50", "TPOT mean", "E2E p95", "4.5 ms", "981 ms"):
        assert said in result.stdout
    assert "concurrency 8: 2 of 61 requests are in the file" in result.stdout
    assert "tonnage fit RUN" in result.stdout


def test_a_workflow_has_its_own_columns_and_says_what_was_interrupted():
    result = tonnage("import", SAMPLES / "nemo_calc.json")
    assert "runtime p95" in result.stdout
    assert "TTFT" not in result.stdout
    assert "concurrency 4: the workflow was interrupted" in result.stdout


def test_the_run_is_kept_with_what_only_the_user_knows(tmp_path):
    result = tonnage(
        *("import", SAMPLES / "vllm_detailed.json", "-o", "kept run"),
        *("--gpus", "4", "--gpu", "H100-SXM", "--model", "Llama-3.3-70B-Instruct"),
        cwd=tmp_path,
    )
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert "tonnage fit 'kept run'" in result.stdout
    assert result.stderr == f"wrote {Path('kept run') / 'run.json'}\n"
    run = checked(json.loads((tmp_path / "kept run" / "run.json").read_text()), "run")
    assert (run["gpus"], run["gpu"], run["model"]) == (4, "H100-SXM", "Llama-3.3-70B-Instruct")
    assert tonnage("import", "kept run", cwd=tmp_path).returncode == errors.EXIT_ANSWERED


def test_json_is_the_run():
    result = tonnage("import", SAMPLES / "aiperf", "--format", "json")
    run = checked(json.loads(result.stdout), "run")
    assert run["format"] == "tonnage-run/1"
    assert run["points"][0]["concurrency"] == 16
    assert run["points"][0]["llm_latency_p95_s"] is None


@pytest.mark.parametrize("arguments", [(), ("--gpus", "0", "x.json"), ("--format", "pdf", "x")])
def test_wrong_use_exits_2(arguments):
    assert tonnage("import", *arguments).returncode == errors.EXIT_USAGE


def test_runs_on_other_gpus_are_not_one_run(tmp_path):
    docs = SAMPLES.parents[2] / "docs" / "samples"
    result = tonnage("import", docs / "tp2.json", docs / "tp4.json", "-o", "both", cwd=tmp_path)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "is of another system: gpus is 4, of the files before 2" in result.stderr
    assert not (tmp_path / "both").exists()


def test_what_was_measured_here_is_not_written_over(tmp_path):
    (tmp_path / "campaign.json").write_text("{}")
    result = tonnage("import", SAMPLES / "nemo_calc.json", "-o", tmp_path)
    assert result.returncode == errors.EXIT_USAGE
    assert "measured here" in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["campaign.json"]


def test_a_file_where_the_run_folder_should_be_is_wrong_use(tmp_path):
    (tmp_path / "taken").write_text("mine")
    result = tonnage("import", SAMPLES / "guidellm.json", "-o", tmp_path / "taken")
    assert result.returncode == errors.EXIT_USAGE
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("content", ["{}", "{", '{"a": NaN}', "[]"])
def test_what_cannot_be_imported_exits_3_and_writes_nothing(tmp_path, content):
    file = tmp_path / "f.json"
    file.write_text(content)
    result = tonnage("import", file, "-o", tmp_path / "run")
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert result.stdout == ""
    assert result.stderr.startswith(str(file))
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
