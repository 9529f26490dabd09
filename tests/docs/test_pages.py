"""The pages are complete and lead somewhere: keys, fields, studies, catalog rows and links."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import pytest
import yaml

from tests.docs.pages import ROOT, Block, all_blocks, all_pages, anchors_of, links_of
from tonnage.catalog.loader import Catalog
from tonnage.catalog.profiles import engine
from tonnage.cli.flags import FLAGS
from tonnage.fleet.search import PIPELINE_PARALLEL, TENSOR_PARALLEL
from tonnage.pipeline import open_catalog
from tonnage.report.json import DocumentName, schema
from tonnage.study import build, demand
from tonnage.study.document import (
    LOAD_FORMS,
    AnswerSection,
    Call,
    Document,
    LengthSection,
    PromptSection,
    ScenarioSection,
    Section,
    SpeedPercentiles,
    TimePercentiles,
    annotation_at,
    parse_key,
    section_at,
)
from tonnage.study.loader import study_from_text
from tonnage.units import WORDS_PER_TOKEN
from tonnage.workload import reading_speed_tpot_s

STUDY_PAGE = ROOT / "docs" / "study.md"
JSON_PAGE = ROOT / "docs" / "json.md"
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \|(?P<rest>.*)$", re.MULTILINE)
# sections that stand in several places are described once, under a name of their own
ONCE = {
    LengthSection: "LENGTH",
    TimePercentiles: "TIMES",
    SpeedPercentiles: "SPEEDS",
    ScenarioSection: "scenarios.NAME",
}


# ── the study ───────────────────────────────────────────────────────────────────────────────────


def keys_of(section: type[Section], key: tuple[str | int, ...] = ()) -> Iterator[str]:
    """Every key of the document as the page writes it."""
    place = ONCE.get(section) or ".".join(map(str, key)).replace(".0", "[]")
    for name, field in section.model_fields.items():
        inner = section_at((*key, name))
        shared = section in {PromptSection, AnswerSection} and name in LengthSection.model_fields
        if shared or field is None:
            continue
        yield f"{place}.{name}".lstrip(".") if inner is None or inner in ONCE else ""
        if inner in {PromptSection, AnswerSection} and "calls" in key:
            yield f"{place}.{name}"
        elif inner is not None:
            yield from keys_of(inner, (*key, name))
        elif name == "calls":
            yield from keys_of(Call, (*key, name, 0))


@cache
def study_rows() -> dict[str, str]:
    """Key -> the rest of its row on the page."""
    text = STUDY_PAGE.read_text(encoding="utf-8")
    return {match["name"]: match["rest"] for match in ROW.finditer(text)}


KEYS = sorted({key for key in keys_of(Document) if key and not key.startswith("scenarios.")})
KEYS += [f"scenarios.NAME.{name}" for name in ScenarioSection.model_fields]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_study_has_a_row(key):
    assert key in study_rows()


def test_every_row_of_the_study_page_is_a_key():
    unknown = [key for key in study_rows() if key not in KEYS]
    assert [key for key in unknown if annotation_at(parse_key(key)) is None] == []


def test_every_flag_stands_in_the_row_of_its_key():
    rows = study_rows()
    wrong = []
    for flag in FLAGS:
        key = re.sub(r"\.(p\d\d|mean)$", "", flag.key)
        key = re.sub(r"^scenarios\.recommended\.", "scenarios.NAME.", key)
        if not flag.hidden and f"`{flag.name}`" not in rows.get(key, ""):
            wrong.append((flag.name, key))
    assert wrong == []


def test_every_flag_on_the_study_page_exists():
    named = set(re.findall(r"`(--[a-z0-9-]+)`", "".join(study_rows().values())))
    assert named - {flag.name for flag in FLAGS} == set()


# ── the JSON report ─────────────────────────────────────────────────────────────────────────────


def shape_of(node: dict[str, Any]) -> str:
    """The type of a field as the page writes it."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return "evidence" if name == "evidence" else f"[{name}](#{name})"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join("null" if value is None else f"`{value}`" for value in node["enum"])
    if "anyOf" in node:
        return " or ".join(shape_of(each) for each in node["anyOf"])
    if node["type"] == "array":
        return f"list of {shape_of(node['items'])}"
    return " or ".join(node["type"]) if isinstance(node["type"], list) else node["type"]


def fields_of(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every field below `node` and its type; what a `$ref` names is a table of its own."""
    below = {
        f"{path}.{name}".lstrip("."): each for name, each in node.get("properties", {}).items()
    }
    if isinstance(node.get("additionalProperties"), dict):
        below[f"{path}.*"] = node["additionalProperties"]
    for place, each in below.items():
        yield place, shape_of(each)
        yield from fields_of(each, place)
    if "items" in node:
        yield from fields_of(node["items"], f"{path}[]")
    for each in node.get("anyOf", ()):
        yield from fields_of(each, path)


@cache
def json_tables() -> dict[str, dict[str, str]]:
    """Heading -> field -> type, as the page has them."""
    tables: dict[str, dict[str, str]] = {}
    parts = re.split(r"^## (.+)$", JSON_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        rows = {m["name"]: m["rest"].split(" | ")[0].strip() for m in ROW.finditer(text)}
        tables[heading.lower()] = rows
    return tables


def published() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table that the page needs: its heading, and what it describes."""
    headings = {
        "plan": "the report",
        "run": "a run",
        "request": "a request",
        "fits": "fits",
        "simulation": "a simulation",
    }
    for document in get_args(DocumentName):
        node: Any = schema(document)
        yield headings[document], node
        yield from ((name, each) for name, each in node["$defs"].items() if name != "evidence")


@pytest.mark.parametrize(
    ("heading", "node"), [pytest.param(*each, id=each[0]) for each in published()]
)
def test_every_field_of_a_document_is_described_with_its_type(heading, node):
    assert json_tables()[heading] == dict(fields_of(node))


def test_every_field_of_a_document_has_a_meaning():
    rows = [match["rest"] for match in ROW.finditer(JSON_PAGE.read_text(encoding="utf-8"))]
    assert [rest for rest in rows if not rest.split(" | ")[1].strip(" |")] == []


# ── what stands in blocks ───────────────────────────────────────────────────────────────────────


def completed(text: str) -> str:
    """A part of a study, with the least that makes it whole."""
    tree = yaml.safe_load(text)
    workload = tree.setdefault("workload", {})
    if not {*LOAD_FORMS, "sessions"} & set(workload):
        workload["request_rate"] = "1/s"
    tree.setdefault("model", "meta-llama/Llama-3.3-70B-Instruct")
    return yaml.safe_dump(tree)


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: block.name)
def test_a_yaml_block_is_a_study_or_a_part_of_one(block: Block):
    study = study_from_text(completed(block.text))
    study.question(open_catalog(study))


@pytest.mark.parametrize("block", all_blocks("toml"), ids=lambda block: block.name)
def test_a_toml_block_is_a_catalog_file(block: Block, tmp_path):
    path = tmp_path / "rows.toml"
    path.write_text(block.text)
    assert Catalog.load([path]).rows("gpus")
    assert block.text == (ROOT / "docs" / "samples" / "own-catalog.toml").read_text()


@pytest.mark.parametrize("block", all_blocks("json"), ids=lambda block: block.name)
def test_a_json_block_is_json(block: Block):
    assert json.loads(block.text)


def test_the_step_model_on_the_page_is_one(tmp_path):
    (block,) = (block for block in all_blocks("json") if block.page == STUDY_PAGE)
    (tmp_path / "step.json").write_text(block.text)
    study = study_from_text(
        completed("engine: {step_model: step.json}"), file="s.yaml", folder=tmp_path
    )
    assert study.step_model is not None
    assert study.step_model.base_s == json.loads(block.text)["base_s"]


# ── links ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_a_link_leads_to_a_page_and_a_heading_that_exist(page):
    broken = []
    for link in links_of(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_index():
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / link.partition("#")[0]).resolve() for link in links_of(index)}
    assert {page for page in all_pages() if page != index} <= reached


def test_every_example_is_on_its_page():
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [p.name for p in (ROOT / "examples").glob("*.yaml") if p.name not in text] == []


# ── figures in prose ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("workload.users.active_at_peak", f"{demand.ACTIVE_AT_PEAK_SHARE:.0%}"),
        (
            "workload.users.requests_per_active_user_per_hour",
            f"{demand.REQUESTS_PER_ACTIVE_USER_PER_HOUR:g}",
        ),
        ("workload.daily_users.requests_per_user", f"{demand.REQUESTS_PER_DAILY_USER:g}"),
        ("workload.active_hours", f"{demand.ACTIVE_HOURS:g} h"),
        ("workload.peak.poisson_percentile", f"{demand.POISSON_PERCENTILE:g}"),
        ("workload.words_per_token", f"{WORDS_PER_TOKEN:g}"),
        ("workload.prompt", f"{build.PROMPT_TOKENS:,.0f} tokens"),
        ("workload.answer", f"{build.ANSWER_TOKENS:g} tokens"),
        ("promises.tpot", f"{reading_speed_tpot_s(WORDS_PER_TOKEN) * 1e3:.0f} ms"),
        ("engine.name", build.ENGINE),
        ("memory.kv_budget_fraction", f"{build.KV_BUDGET_FRACTION:.0%}"),
        (
            "scenarios.NAME.headroom",
            ", ".join(f"{each:.0%}" for each in build.HEADROOM_FRACTION.values()),
        ),
        ("scenarios.NAME.spare", ", ".join(map(str, build.SPARE_UNITS.values()))),
        ("scenarios.NAME.kv_budget_fraction", f"{build.IDEAL_KV_BUDGET_FRACTION:.0%}"),
        ("hardware.tensor_parallel", ", ".join(map(str, TENSOR_PARALLEL))),
        ("hardware.pipeline_parallel", ", ".join(map(str, PIPELINE_PARALLEL))),
    ],
)
def test_a_default_on_the_study_page_is_the_one_taken(key, shown):
    assert shown.replace("%", " %") in study_rows()[key]


def test_the_engine_rules_on_the_page_are_the_packaged_ones():
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if "| vLLM |" in line)
    rows = text[text.index(header) :].split("\n\n")[0].splitlines()
    engines = [engine(name.strip()) for name in header.strip("| ").split("|")]
    shown = [[cell.strip() for cell in row.strip("|").split("|")][1:] for row in rows[2:]]
    assert shown == [
        [f"{each.memory_fraction:.2f}" for each in engines],
        [f"{each.block_tokens}" for each in engines],
        [f"{each.large_max_num_seqs:,}" for each in engines],
        [f"{each.large_max_num_batched_tokens:,}" for each in engines],
        [f"{each.step_overhead_s * 1e3:.1f}" for each in engines],
    ]


def test_the_count_of_models_on_the_page_is_that_of_the_catalog():
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert f"For {len(Catalog.load().model_names)} models" in text
