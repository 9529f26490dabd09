"""What is read of a configuration file, and how mistakes in it are told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import TonnageError
from tonnage.sizing_calc.plan import level_samples
from tonnage.sizing_calc.workflow import load_workflow_file

WHOLE = """\
llms:
  first: {{_type: nim, model_name: meta/llama, base_url: "http://10.0.0.1/v1"}}
  second: {{_type: openai, model: ${{MODEL:-gpt-oss}}}}
workflow: {{_type: react_agent, llm_name: first}}
eval:
  general:
    output_dir: eval_out
    dataset:
      _type: json
      file_path: {dataset}
      id_key: number
      structure: {{question_key: ask}}
"""


@pytest.fixture
def dataset(tmp_path):
    file = tmp_path / "questions.json"
    file.write_text('[{"number": 1, "ask": "?"}]')
    return file


@pytest.fixture
def load(tmp_path):
    def loaded(text, *, runs_here=False, name="config.yml"):
        file = tmp_path / name
        file.write_text(text)
        return load_workflow_file(file, runs_here=runs_here)

    return loaded


def test_what_is_needed_is_read(load, dataset):
    found = load(WHOLE.format(dataset=dataset), runs_here=True)
    assert found.dataset == dataset
    assert (found.id_key, found.question_key) == ("number", "ask")
    assert found.output_dir == Path("eval_out")
    assert found.models == ("gpt-oss", "meta/llama")
    assert found.llm_urls == ("http://10.0.0.1/v1",)


def test_output_dir_has_an_older_and_a_newer_place(load, dataset):
    text = WHOLE.format(dataset=dataset).replace(
        "    output_dir: eval_out\n", "    output_dir: one\n    output: {dir: two}\n"
    )
    assert load(text).output_dir == Path("two")


def test_with_an_endpoint_only_eval_is_needed(load, dataset):
    text = f"eval: {{general: {{dataset: {{_type: json, file_path: {dataset}}}}}}}\n"
    found = load(text)
    assert (found.id_key, found.question_key, found.models) == ("id", "question", ())
    with pytest.raises(TonnageError, match=r"config\.yml: workflow is missing"):
        load(text, runs_here=True)


def test_a_relative_path_starts_at_the_working_directory(load, dataset, monkeypatch):
    text = WHOLE.format(dataset=dataset.name)
    monkeypatch.chdir(dataset.parent)
    assert load(text).dataset == Path(dataset.name)
    monkeypatch.chdir("/")
    with pytest.raises(TonnageError, match=r"questions\.json is not a file in /"):
        load(text)


def test_a_base_is_inherited_from_and_its_lines_are_named(load, dataset, tmp_path):
    (tmp_path / "base.yml").write_text(WHOLE.format(dataset=dataset))
    found = load("base: base.yml\neval:\n  general:\n    output_dir: mine\n")
    assert found.dataset == dataset
    assert found.output_dir == Path("mine")
    (tmp_path / "base.yml").write_text(WHOLE.format(dataset="no.json"))
    with pytest.raises(TonnageError, match=r"base\.yml:10: eval\.general\.dataset\.file_path"):
        load("base: base.yml\n")
    with pytest.raises(TonnageError, match=r"config\.yml:1: base goes in a circle"):
        load("base: config.yml\n")


def test_environment_variables_are_put_in(load, dataset, monkeypatch):
    text = WHOLE.format(dataset="${FOLDER}/questions.json")
    with pytest.raises(TonnageError, match=r"config\.yml:10: .*variable FOLDER, which is not set"):
        load(text)
    monkeypatch.setenv("FOLDER", str(dataset.parent))
    monkeypatch.setenv("MODEL", "another")
    found = load(text)
    assert found.dataset == dataset
    assert "another" in found.models


def test_the_fingerprint_is_of_the_meaning(load, dataset):
    text = WHOLE.format(dataset=dataset)
    found = load(text).fingerprint
    assert load(f"# said\n{text}").fingerprint == found
    assert load(text.replace("react_agent", "other")).fingerprint != found
    assert load(text.replace("eval_out", "elsewhere")).fingerprint != found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("_type: json", "_type: xls", r'yml:9: eval\.general\.dataset\._type "xls" is not read'),
        ("      _type: json\n", "", r"yml:8: eval\.general\.dataset\._type is missing"),
        ("id_key: number", "id_keys: n", r"yml:11: .*dataset\.id_keys is not a key.*id_key\?"),
        ("id_key: number", "id_key: [1]", r"yml:11: .*id_key must be a text"),
        ("id_key: number", "filter: {{a: 1}}", r"yml:11: .*filter is not supported"),
        ("question_key: ask", "questions: a", r"yml:12: .*structure\.questions is not a key"),
        ("question_key: ask", "disable: true", r"yml:12: .*structure\.disable is not supported"),
        ("{{question_key: ask}}", "text", r"yml:12: .*structure must be a mapping"),
        ("file_path: {dataset}", "file_path: no.json", r"yml:10: .*file_path no\.json is not a"),
        ("      file_path: {dataset}\n", "", r"yml:8: .*file_path is missing"),
        ("    dataset:", "    data:", r"yml:6: eval\.general\.dataset is missing"),
        ("eval:", "evals:", r"yml: eval\.general\.dataset is missing"),
        ("output_dir: eval_out", "output_dir: 5", r"yml:7: eval\.general\.output_dir must be a"),
        ("  general:", "  general: 5\n  other:", r"yml:6: eval\.general must be a mapping"),
        ("output_dir: eval_out", "output: {{custom_pre_eval_process_function: f}}", r"yml:7: "),
        ("      _type: json\n", "      _type: json\n      _type: csv\n", r"yml:10: .*stands twice"),
        ("llms:", "llms: [", r"yml:\d+: is not valid YAML"),
    ],
)
def test_a_mistake_is_told_with_its_place(load, dataset, old, new, says):
    assert old in WHOLE
    with pytest.raises(TonnageError, match=says):
        load(WHOLE.replace(old, new).format(dataset=dataset))


@given(
    rows=st.integers(1, 200),
    concurrency=st.integers(1, 64),
    num_passes=st.integers(0, 5),
    min_samples=st.integers(0, 50),
)
def test_a_level_is_a_multiple_of_its_concurrency(rows, concurrency, num_passes, min_samples):
    found = level_samples(rows, concurrency, num_passes=num_passes, min_samples=min_samples)
    assert found % concurrency == 0
    if num_passes:
        assert found == concurrency * num_passes
        return
    # as nat sizing calc has it, and then enough of them
    theirs = rows // concurrency * concurrency if rows >= concurrency else concurrency
    assert found >= max(theirs, min_samples)
    assert found == theirs or found - concurrency < min_samples
