"""The Markdown report: well-formed tables, nothing read as markup by accident."""

import re

from tonnage.report import Cell, Column, Headline, Report, Section, Table
from tonnage.report.build import report_plan
from tonnage.report.capacity import report_capacity
from tonnage.report.markdown import render_markdown


def tables(text):
    """Runs of lines that begin with a bar."""
    for run in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield run.splitlines()


def cells(line):
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


def assert_well_formed(text):
    found = list(tables(text))
    assert found
    for table in found:
        counts = {len(cells(line)) for line in table}
        assert len(counts) == 1, table
        assert all(re.fullmatch(r" ---:? ", cell) for cell in cells(table[1]))


def test_every_table_is_well_formed(plan):
    assert_well_formed(render_markdown(report_plan(plan)))


def test_every_table_of_a_capacity_is_well_formed(capacities):
    assert_well_formed(render_markdown(report_capacity(capacities["carries"])))


def test_it_holds_the_inputs_the_derivations_and_the_dictionary(plans):
    text = render_markdown(report_plan(plans["streaming"]))
    for heading in ("Every input", "How each figure came about", "What the parameters mean"):
        assert f"## {heading}" in text


def test_markup_in_names_is_escaped():
    table = Table(columns=(Column("a|b"),), rows=((Cell("*x* | <b>\nnew"),),))
    report = Report(
        title="# not a heading",
        subtitle=("[link](x)",),
        headline=Headline(label="", answer=""),
        sections=(Section(id="s", title="s", blocks=(table,)),),
    )
    text = render_markdown(report)
    assert_well_formed(text)
    assert text.startswith("# \\# not a heading")
    assert "\\*x\\* \\| \\<b\\><br>new" in text
