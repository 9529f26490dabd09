"""The text report: fits its width, hides nothing, and says first what to do."""

import dataclasses
import re
from dataclasses import replace

import pytest

from tonnage.catalog.profiles import engine
from tonnage.measurement import Point, Run
from tonnage.report import Cell, Column, Headline, Report, Section, Table, reasons
from tonnage.report.build import report_plan
from tonnage.report.capacity import report_capacity
from tonnage.report.inventory import report_things
from tonnage.report.runs import report_run
from tonnage.report.text import render_text
from tonnage.workload import OpenLoad

WIDTHS = (60, 80, 100, 160)
COMMAND = "tonnage size s.yaml"


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_longer_than_the_page(plan, width):
    lines = render_text(report_plan(plan, command=COMMAND), width=width).splitlines()
    commands = [line for line in lines if line.lstrip().startswith("tonnage ")]
    assert [line for line in lines if len(line) > width and line not in commands] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_of_a_capacity_is_longer_than_the_page(capacity, width):
    lines = render_text(report_capacity(capacity, command="tonnage c"), width=width).splitlines()
    commands = [line for line in lines if line.lstrip().startswith("tonnage ")]
    assert [line for line in lines if len(line) > width and line not in commands] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut(plan, width):
    """Wrapping breaks at spaces only, so every word of every figure and heading is whole."""
    report = report_plan(plan, command=COMMAND)
    text = render_text(report, width=width)
    assert "…" not in text
    shown = set(text.split())
    assert [word for word in figures_and_headings(report) if word not in shown] == []


def figures_and_headings(report):
    """The words of what may not be broken: the headline, headings, and cells with a number."""
    yield from report.headline.answer.split()
    for fact in report.headline.facts:
        yield from fact.split()
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Table) and not section.detail:
                for column in block.columns:
                    yield from column.title.split()
                for row in block.rows:
                    for cell in row:
                        if cell.value is not None:
                            yield from cell.text.split()


def test_the_answer_comes_before_its_reasons(plans):
    text = render_text(report_plan(plans["streaming"]), width=160)
    order = ["Recommended", "Assumed", "From what you told", "Scenarios", "Memory", "Latency"]
    order += ["What binds", "Why not the others", "Alerts", "Next"]
    places = [text.index(heading) for heading in order]
    assert places == sorted(places)
    answer = next(line for line in text.splitlines() if "Recommended" in line)
    for fact in ("3 × HGX-H200 (24 GPUs)", "81.60 usd/h", "TTFT p95 900 ms", "TPOT p95 38 ms"):
        assert fact in answer
    assert "survives 1 server" in answer


def test_a_broken_promise_is_marked(plans):
    text = render_text(report_plan(plans["streaming"]), width=160)
    minimum = next(line for line in text.splitlines() if line.strip().startswith("minimum"))
    assert "4.8 s ✗" in minimum
    assert "none left ✗" in minimum


def test_memory_mode_has_no_latency(plans):
    text = render_text(report_plan(plans["memory"]), width=160)
    assert "TTFT" not in text.split("Why not the others")[0]
    assert "1,000 resident sessions of 131,072 tokens" in text


def test_an_honest_no_says_what_would_work(plans):
    text = render_text(report_plan(plans["infeasible"]), width=100)
    assert "nothing in the catalog keeps TPOT p95 ≤ 5 ms" in text
    assert "Closest: B200 TP8 nvfp4 at 8.1 ms" in text
    assert "at most 31 B active" in text
    assert "Scenarios" not in text


def test_a_chain_has_a_table_per_pool(plans):
    text = render_text(report_plan(plans["chain"]), width=160)
    assert "The pools of the chain" in text
    assert text.count("for the load") == 2


def test_an_existing_fleet_is_told_where_it_stands(plans):
    text = render_text(report_plan(plans["existing"]), width=100)
    assert "You are here: minimum" in text
    assert "add 1 server" in text


def test_colour_only_when_asked(plans):
    report = report_plan(plans["streaming"])
    assert "\x1b[" not in render_text(report)
    assert "\x1b[" in render_text(report, colour=True)


def test_many_rejections_are_told_once_per_gpu(plans):
    plan = plans["streaming"]
    many = tuple(
        dataclasses.replace(plan.rejections[0], option=f"L40S TP{i}", tensor_parallel=i)
        for i in range(1, 31)
    )
    text = render_text(report_plan(dataclasses.replace(plan, rejections=many)), width=100)
    assert "L40S TP1" in text
    assert "L40S TP2" not in text
    assert "29 more are in the JSON report" in text


def test_a_table_that_may_not_turn_folds_rather_than_cuts():
    table = Table(
        columns=(Column("name"), *(Column(f"figure {i}", "right") for i in range(8))),
        rows=((Cell("x" * 50), *(Cell("123,456,789") for _ in range(8))),),
    )
    report = Report(
        title="t",
        subtitle=(),
        headline=Headline(label="", answer=""),
        sections=(Section(id="s", title="s", blocks=(table,)),),
    )
    text = render_text(report, width=80)
    assert text.count("x") == 50
    assert len(re.findall(r"\d", text)) == 8 * 9 + 8


def test_one_request_a_second_is_one(plans):
    plan = plans["streaming"]
    one = OpenLoad(requests_per_s_mean=1, requests_per_s_peak=1)
    asked = replace(plan.question, workload=replace(plan.question.workload, load=one))
    assert "Load: 1 request/s\n" in render_text(report_plan(replace(plan, question=asked)))


@pytest.mark.parametrize(
    ("used", "available", "told"),
    [
        (2.6, 6.1, "2.6 of 6.1 requests/s"),
        (1, 6.1, "1 of 6.1 requests/s"),
        (0.5, 1, "0.5 of 1 request/s"),
    ],
)
def test_a_shared_unit_is_told_once(plans, used, available, told):
    constraint = replace(
        plans["streaming"].constraints[0], used=used, available=available, unit="requests/s"
    )
    assert reasons._used_words(constraint) == told


def test_engines_show_their_limits_on_small_and_large_gpus():
    report = report_things("engines", [engine("vLLM")])
    text = render_text(report, width=140)
    for shown in ("256 / 2,048", "1,024 / 8,192", "70 GiB"):
        assert shown in text


def test_levels_of_a_run_are_shown_in_the_order_of_their_load():
    run = Run(
        name="a run",
        tool="tonnage",
        points=tuple(Point(concurrency=level, requests=level) for level in (1, 8, 3)),
    )
    shown = render_text(report_run(run), width=80)
    rows = [line.split()[0] for line in shown.splitlines() if line.strip()[:1].isdigit()]
    assert rows == ["1", "3", "8"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("levels", [1, 5, 21])
def test_a_table_of_many_levels_is_told_in_parts_and_breaks_no_word(width, levels):
    run = Run(
        name="a run",
        tool="tonnage",
        points=tuple(
            Point(concurrency=2**n, requests=10**5, requests_per_s=1234.5 + n, ttft_p95_s=0.1234)
            for n in range(levels)
        ),
    )
    shown = render_text(report_run(run), width=width)
    assert max(map(len, shown.splitlines())) <= width
    words = shown.split()
    assert words.count("requests/s") == levels
    assert shown.count("123 ms") == levels
    for point in run.points:
        assert f"{point.concurrency:,}" in words
