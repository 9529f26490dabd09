"""The JSON report: what the schema says, and never a number that JSON does not have."""

import dataclasses
import json
import math
from dataclasses import fields
from typing import Any, get_args

import jsonschema
import pytest

from tests.report.documents import checked
from tonnage.fleet import Plan
from tonnage.measurement import Point, Run
from tonnage.measurement.load import LlmCall, Record
from tonnage.measurement.load.search import Found, Probe
from tonnage.measurement.run import FORMAT as RUN_FORMAT
from tonnage.report.build import report_plan
from tonnage.report.capacity import report_capacity
from tonnage.report.json import SCHEMA_VERSION, DocumentName, render_json, schema
from tonnage.report.runs import report_run


def document(plan: Plan):
    return json.loads(render_json(report_plan(plan)), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", get_args(DocumentName))
def test_the_schema_is_a_schema(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize(
    ("name", "key", "version"),
    [
        ("plan", "schema_version", SCHEMA_VERSION),
        ("fits", "schema_version", SCHEMA_VERSION),
        ("run", "format", RUN_FORMAT),
    ],
)
def test_the_schema_is_that_of_the_version(name, key, version):
    properties: Any = schema(name)["properties"]
    assert properties[key]["const"] == version
    assert str(schema(name)["$id"]).endswith(f":{version.rpartition('/')[2]}")


@pytest.mark.parametrize(
    ("name", "definition", "noun", "further"),
    [
        ("run", None, Run, {"format", "search"}),
        ("run", "point", Point, set()),
        ("request", None, Record, set()),
        ("request", "call", LlmCall, set()),
    ],
)
def test_what_is_kept_has_no_field_without_a_place_in_the_schema(name, definition, noun, further):
    node: Any = schema(name)
    node = node["$defs"][definition] if definition else node
    assert node["properties"].keys() == {each.name for each in fields(noun)} | further


@pytest.mark.parametrize("kept", [8.0, None])
def test_what_a_search_found_stands_in_its_run(kept):
    probes = (Probe(load=8.0, verdict="kept"), Probe(load=16.0, verdict="broken", reason="late"))
    found = Found(kept=kept, broken=16.0, reason="late", finished=True, probes=probes)
    run = Run(name="a run", tool="tonnage", points=(Point(concurrency=8),))
    report = report_run(run, found=found, limits={"ttft_p95_s": 1.0})
    told = checked(json.loads(render_json(report), parse_constant=pytest.fail), "run")
    assert told["search"]["kept"] == kept
    assert [each["verdict"] for each in told["search"]["probes"]] == ["kept", "broken"]
    assert "search" not in checked(json.loads(render_json(report_run(run))), "run")


def test_every_plan_is_valid_and_has_no_key_that_is_undocumented(plan):
    checked(document(plan), "plan")


def test_every_input_is_explained_under_its_key(plan):
    found = document(plan)
    assert {each["key"] for each in found["inputs"]} <= set(found["parameter_dictionary"])


def test_an_alert_names_its_scenario_or_all():
    definitions: Any = schema()["$defs"]
    scenario = definitions["alert"]["properties"]["scenario"]
    assert scenario["enum"] == ["all", "minimum", "recommended", "ideal"]
    assert "empty" not in scenario["description"].lower()


def test_the_figures_are_the_plan_s(plans):
    found = document(plans["streaming"])
    recommended = found["plan"]["scenarios"]["recommended"]
    assert found["schema_version"] == "1.0"
    assert found["mode"] == "streaming"
    assert (recommended["gpus"], recommended["servers"]) == (24, 3)
    assert recommended["cost_usd_per_hour"] == pytest.approx(81.6)
    assert recommended["configuration"] == {
        "headroom_fraction": 0.2,
        "spare_units": 1,
        "spare_unit": "server",
        "kv_budget_fraction": 0.7,
    }
    assert found["plan"]["latency"]["ttft_p95_s"] == pytest.approx(0.9)
    assert found["plan"]["deployment"]["server"] == "HGX-H200"
    assert found["demand"]["requests_per_s_peak"] == 11
    assert found["demand"]["concurrency_peak"] == pytest.approx(8 * (11.4 + 0.35))
    assert found["evidence"]["kv_bytes_per_session"] == "modelled"
    assert [each["priced"] for each in found["rejections"]] == [True, True, False]


def test_memory_mode_has_no_latency_and_says_why(plans):
    found = document(plans["memory"])
    assert found["plan"]["latency"] is None
    assert "plan.latency" in found["explanations"]
    assert found["demand"]["concurrency_peak"] is None
    assert found["demand"]["sessions"] == 1000


def test_infeasible_has_nothing_to_buy(plans):
    found = document(plans["infeasible"])
    assert found["plan"]["deployment"] is None
    assert found["plan"]["latency"] is None
    assert found["plan"]["scenarios"] == {}
    assert found["infeasible"]["relaxations"][0]["verified"] is True


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_json_does_not_have_is_null_and_explained(plans, value):
    plan = plans["streaming"]
    recommended = plan.scenario("recommended")
    latency = dataclasses.replace(
        recommended.latency, percentiles={**recommended.latency.percentiles, "ttft_p99_s": value}
    )
    scenarios = tuple(
        dataclasses.replace(each, latency=latency) if each is recommended else each
        for each in plan.scenarios
    )
    found = document(dataclasses.replace(plan, scenarios=scenarios))
    assert found["plan"]["latency"]["ttft_p99_s"] is None
    assert "plan.latency.ttft_p99_s" in found["explanations"]


def test_every_explanation_points_at_a_null(plan):
    found = document(plan)
    for path in found["explanations"]:
        value = found
        for part in path.replace("[", ".").replace("]", "").split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert value is None


def test_a_capacity_is_json_too(capacity):
    found = json.loads(render_json(report_capacity(capacity)), parse_constant=pytest.fail)
    assert found["starts"] is capacity.starts
    assert found["requests_per_s"] == capacity.requests_per_s
