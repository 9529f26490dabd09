"""A MeasuredPlan -> a Report: the answer, the levels it was read off, why not the other runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tonnage import units
from tonnage.evidence import Evidence
from tonnage.fleet.measured import MeasuredCopy, MeasuredOption, MeasuredPlan, MeasuredScenario
from tonnage.measurement import Point
from tonnage.measurement.curve import fault, in_flight, keeps, percentile_s
from tonnage.report import (
    Block,
    Cell,
    Column,
    Commands,
    Headline,
    Prose,
    Report,
    Section,
    Table,
    Tone,
)
from tonnage.report.answer import asked, infeasible_section, title
from tonnage.report.detail import derivations_section, inputs_section
from tonnage.report.figures import (
    METRIC_NAMES,
    UNKNOWN,
    all_alerts,
    format_figure,
    kept,
    latency_s,
    plural,
)
from tonnage.report.grounds import assumed_section, demand_section
from tonnage.report.json import Json, latency_data, plan_data, rationale_data, with_explanations
from tonnage.report.reasons import LONG_COMMAND, alerts_section, rejected_section
from tonnage.workload import Batch, ClosedLoad, Promise

_NO_MODEL = "sized from a measurement: what a model takes was seen, not computed"


def report_measured(
    plan: MeasuredPlan, *, command: str = "tonnage size --measured RUN", drawn: Path | None = None
) -> Report:
    """The report of `plan`; `drawn` is where its plot was written, None when it was not."""
    common = plan.plan
    sections = (
        infeasible_section(common),
        _scenarios(plan),
        _levels(plan, drawn),
        _carries(plan),
        _side_by_side(plan),
        rejected_section(common),
        assumed_section(common),
        demand_section(common),
        alerts_section(all_alerts(common)),
        _next(plan, command, drawn),
        inputs_section(common),
        derivations_section(_leading(plan).rationale if plan.scenarios else ()),
    )
    return Report(
        title=title(common),
        subtitle=asked(common),
        headline=_headline(plan),
        sections=tuple(section for section in sections if section is not None),
        data=measured_data(plan),
    )


# ── the answer ──────────────────────────────────────────────────────────────────────────────────


def _headline(plan: MeasuredPlan) -> Headline:
    chosen = plan.chosen
    if chosen is None:
        assert plan.plan.infeasible is not None  # noqa: S101 — one or the other
        return Headline(label="No answer", answer=plan.plan.infeasible.reason, tone="bad")
    scenario = _leading(plan)
    bought = scenario.purchase
    facts = [
        "no price known"
        if bought.usd_per_hour is None
        else format_figure(bought.usd_per_hour, "usd/h")
    ]
    facts += [
        f"{promise_name(promise)} {units.format_time(value)}"
        for promise in chosen.promises
        if (value := latency_s(scenario.latency, promise.metric, promise.percentile)) is not None
    ]
    facts.append(_survival(scenario))
    copy = chosen.copy
    gpu = f"{copy.gpus} × {copy.gpu}" if copy.gpu else plural(copy.gpus, "GPU")
    made = (
        f"{plural(scenario.copies, 'copy', 'copies')} of {gpu}, each as in {copy.run.name} at"
        f" {level_name(chosen.best)}: {_carried(plan, chosen)}"
    )
    return Headline(
        label=scenario.name.capitalize(),
        answer=_fleet(copy, scenario),
        facts=tuple(facts),
        notes=(
            f"{made} · chosen by {plan.plan.objective}: {plan.plan.objective_reason}",
            f"Evidence: {Evidence.MEASURED.label}{_lengths(chosen.best)}",
        ),
    )


def _lengths(point: Point) -> str:
    """As ", with prompts of 2,800 and answers of 350 tokens"; "" where no length was measured."""
    parts = [
        f"{what} of {units.format_number(round(tokens))}"
        for what, tokens in (
            ("prompts", point.input_tokens_mean),
            ("answers", point.output_tokens_mean),
        )
        if tokens is not None
    ]
    return f", with {' and '.join(parts)} tokens" if parts else ""


def _leading(plan: MeasuredPlan) -> MeasuredScenario:
    """The recommended scenario, or the first of those that are asked for instead."""
    return plan.scenario("recommended") if _has_recommended(plan) else plan.scenarios[0]


def _has_recommended(plan: MeasuredPlan) -> bool:
    return any(scenario.name == "recommended" for scenario in plan.scenarios)


def _fleet(copy: MeasuredCopy, scenario: MeasuredScenario) -> str:
    """As "14 × DGX-H100 (112 GPUs)"; copies where GPUs are not bought in servers."""
    bought = scenario.purchase
    if copy.candidate is not None and copy.candidate.whole_servers and copy.candidate.server:
        return f"{bought.servers} × {copy.candidate.server.name} ({plural(bought.gpus, 'GPU')})"
    if copy.candidate is not None:
        return f"{bought.gpus} × {copy.candidate.gpu.name}"
    return f"{plural(scenario.copies, 'copy', 'copies')} ({plural(bought.gpus, 'GPU')})"


def _survival(scenario: MeasuredScenario) -> str:
    if scenario.survives_servers:
        return f"survives {plural(scenario.survives_servers, 'server')}"
    if scenario.survives_copies:
        return f"survives {plural(scenario.survives_copies, 'copy', 'copies')}"
    return "survives no failure"


def _carried(plan: MeasuredPlan, option: MeasuredOption) -> str:
    """What one copy carries, in the unit of the load."""
    closed = isinstance(plan.plan.question.workload.load, ClosedLoad)
    return units.format_amount(option.carries, "clients" if closed else "requests/s")


# ── the scenarios ───────────────────────────────────────────────────────────────────────────────


def _scenarios(plan: MeasuredPlan) -> Section | None:
    chosen = plan.chosen
    if chosen is None:
        return None
    copy = chosen.copy
    servers = copy.candidate is not None and copy.candidate.whole_servers
    promises = _by_slack(chosen)
    timed = not isinstance(plan.plan.question.workload.load, Batch) and promises
    lost = f"with 1 {'server' if servers else 'copy'} lost"
    columns: list[tuple[str, list[Cell]]] = [
        ("GPUs", [_count(each.purchase.gpus) for each in plan.scenarios]),
        ("copies", [_count(each.copies) for each in plan.scenarios]),
        ("for the load", [_count(each.copies_for_load) for each in plan.scenarios]),
    ]
    if servers:
        columns.insert(0, ("servers", [_count(s.purchase.servers) for s in plan.scenarios]))
    if timed:
        columns += [
            (promise_name(promise), [_time(each, promise) for each in plan.scenarios])
            for promise in promises
        ]
        columns.append((lost, [_lost_cell(each, promises[0]) for each in plan.scenarios]))
    columns += [
        ("survives", [Cell(_survival(s).removeprefix("survives ")) for s in plan.scenarios]),
        ("usd/h", [_usd(each.purchase.usd_per_hour) for each in plan.scenarios]),
        (
            "usd/M output tokens",
            [_usd(each.usd_per_million_output_tokens) for each in plan.scenarios],
        ),
        ("power", [_watts(each.purchase.power_watts) for each in plan.scenarios]),
    ]
    known = [pair for pair in columns if any(cell.text != UNKNOWN for cell in pair[1])]
    names = [
        Cell(each.name, "strong" if each.name == "recommended" else "") for each in plan.scenarios
    ]
    table = Table(
        columns=(Column("scenario"), *(Column(heading, "right") for heading, _ in known)),
        rows=tuple(zip(names, *(cells for _, cells in known), strict=True)),
        turns=True,
    )
    blocks: list[Block] = [table]
    told = {s.latency.regime for s in plan.scenarios if s.latency and s.latency.regime}
    if timed and told:
        blocks.append(Prose(f"Each copy: {'; '.join(sorted(told))}.", "quiet"))
    return Section(id="scenarios", title="Scenarios side by side", blocks=tuple(blocks))


def _count(value: int | None, tone: Tone = "") -> Cell:
    return Cell(units.format_number(value), tone, value)


def _usd(value: float | None, tone: Tone = "") -> Cell:
    return Cell(units.format_usd(value), tone, value)


def _watts(value: float | None) -> Cell:
    return Cell(units.format_watts(value), "", value)


def _time(scenario: MeasuredScenario, promise: Promise) -> Cell:
    value = latency_s(scenario.latency, promise.metric, promise.percentile)
    return Cell(units.format_time(value), "", value)


def _lost_cell(scenario: MeasuredScenario, promise: Promise) -> Cell:
    """The promised percentile with one failure unit less; ✗ where it breaks or nobody knows."""
    figures = scenario.latency_one_lost
    value = latency_s(figures, promise.metric, promise.percentile)
    if value is None:
        return Cell("none left" if figures is None else "not measured", "bad")
    broken = kept(promise, figures) is False
    return Cell(units.format_time(value) + (" ✗" if broken else ""), "bad" if broken else "", value)


def promise_name(promise: Promise) -> str:
    """In the manner of "TTFT p95"."""
    return f"{METRIC_NAMES[promise.metric]} p{promise.percentile:g}"


def limiting_promise(plan: MeasuredPlan) -> Promise | None:
    """The promise that decides: least slack at the chosen level, else the first one made."""
    if plan.chosen is not None:
        return plan.chosen.limiting
    return next(iter(plan.plan.question.workload.promises), None)


def _by_slack(option: MeasuredOption) -> tuple[Promise, ...]:
    """The promises that were checked, the one with the least slack first."""
    first = option.limiting
    return (*([first] if first else []), *(each for each in option.promises if each is not first))


# ── what was measured ───────────────────────────────────────────────────────────────────────────


def level_name(point: Point) -> str:
    """The level in words: "concurrency 32", "3 requests/s"."""
    if point.concurrency is not None:
        return f"concurrency {point.concurrency}"
    return units.format_amount(
        point.request_rate_target_per_s or point.requests_per_s, "requests/s"
    )


def _levels(plan: MeasuredPlan, drawn: Path | None) -> Section:
    """A table for each run: every level, what it kept, and which one is copied."""
    blocks: list[Block] = [
        _level_table(plan, copy) for copy in {copy.file: copy for copy in plan.copies}.values()
    ]
    blocks.append(
        Prose(
            f"Drawn in {drawn}."
            if drawn is not None
            else "--plot FILE.png draws throughput against latency.",
            "quiet",
        )
    )
    return Section(id="levels", title="What was measured", blocks=tuple(blocks))


def _level_table(plan: MeasuredPlan, copy: MeasuredCopy) -> Table:
    promises = _promises_of(plan, copy)
    option = next((each for each in plan.options if each.copy.file == copy.file), None)
    tool = f"{copy.run.tool} {copy.run.tool_version or ''}".strip()
    open_loop = any(point.concurrency is None for point in copy.run.points)
    server = copy.candidate.server if copy.candidate else None
    rows = []
    for point in copy.run.points:
        best = option is not None and point is option.best
        tone: Tone = "strong" if best else "quiet" if fault(point) else ""
        rate = point.requests_per_s
        offered = level_name(point) if open_loop else units.format_number(point.concurrency)
        rows.append(
            (
                Cell(offered, tone),
                _figure(rate, tone),
                _figure(None if rate is None else rate * copy.per_server, tone),
                *(
                    [_level_time(point, promise, tone) for promise in promises]
                    or [Cell(units.format_time(point.e2e_p95_s), tone, point.e2e_p95_s)]
                ),
                _figure(point.output_tokens_per_s, tone),
                Cell("← best" if best else _remark(point, copy), tone or "quiet"),
            )
        )
    return Table(
        title=f"{copy.name}, by {tool}:",
        columns=(
            Column("level" if open_loop else "in flight", "right"),
            Column("requests/s", "right"),
            Column("per server" if server else f"per {copy.server_gpus} GPUs", "right"),
            *([Column(promise_name(each), "right") for each in promises]
              or [Column("E2E p95", "right")]),
            Column("tokens/s", "right"),
            Column("", prose=True),
        ),
        rows=tuple(rows),
    )  # fmt: skip


def _promises_of(plan: MeasuredPlan, copy: MeasuredCopy) -> tuple[Promise, ...]:
    """The promises that can be read off this run."""
    return tuple(
        promise
        for promise in plan.plan.question.workload.promises
        if any(
            percentile_s(point, promise.metric, promise.percentile) is not None
            for point in copy.curve.points
        )
    )


def _level_time(point: Point, promise: Promise, tone: Tone) -> Cell:
    """The promised percentile; ✗ where it is over the limit."""
    value = percentile_s(point, promise.metric, promise.percentile)
    broken = value is not None and not keeps(point, promise)
    shown = units.format_time(value)
    return Cell(f"{shown} ✗", tone or "bad", value) if broken else Cell(shown, tone, value)


def _figure(value: float | None, tone: Tone) -> Cell:
    return Cell(UNKNOWN if value is None else units.format_number(value), tone, value)


def _remark(point: Point, copy: MeasuredCopy) -> str:
    """What is wrong with a level, or that more load brought no more answers; "" for none."""
    why = fault(point)
    if why or point.requests_per_s is None or any(point is each for each in copy.curve.front):
        return why
    return "no more than a lighter level"


# ── what a server carries, runs side by side ────────────────────────────────────────────────────


def _carries(plan: MeasuredPlan) -> Section | None:
    """The best level in terms of one server; in users of a day when the study says how to count."""
    chosen = plan.chosen
    if chosen is None or chosen.requests_per_s_per_server is None:
        return None
    copy = chosen.copy
    server = copy.candidate.server if copy.candidate else None
    name = server.name if server else plural(copy.server_gpus, "GPU")
    day = units.format_time(plan.active_s_per_day) if plan.active_s_per_day else "a day"
    each = units.format_number(plan.requests_per_user_per_day)
    tokens = chosen.best.output_tokens_per_s
    flying = in_flight(chosen.best)
    rows: list[tuple[str, float | None, str, str]] = [
        ("peak rate", chosen.requests_per_s_per_server, "requests/s",
         "the most that kept every promise"),
        ("of one GPU", chosen.requests_per_s_per_gpu, "requests/s", "to compare hardware by"),
        ("output", None if tokens is None else tokens * copy.per_server, "tokens/s",
         "at the peak rate"),
        ("concurrency", None if flying is None else flying * copy.per_server, "",
         "requests in flight at the peak rate"),
        ("requests of a day", plan.daily_requests, "", f"that peak rate kept up for {day}"),
        ("users of a day", plan.daily_users, "", f"at {each} requests per person and day"),
    ]  # fmt: skip
    table = Table(
        columns=(Column("what"), Column("at most", "right"), Column("which is", prose=True)),
        rows=tuple(
            (Cell(what), Cell(format_figure(value, unit), "strong", value), Cell(which, "quiet"))
            for what, value, unit, which in rows
            if value is not None
        ),
    )
    return Section(id="carries", title=f"What one {name} carries" if server else
                   f"What {name} carry", blocks=(table,))  # fmt: skip


def _side_by_side(plan: MeasuredPlan) -> Section | None:
    """The runs that keep the promises, when there are several."""
    if len(plan.options) < 2:  # noqa: PLR2004 — one is not beside another
        return None
    table = Table(
        columns=(
            Column("run"),
            Column("best level", "right"),
            Column("requests/s", "right"),
            Column("per GPU", "right"),
            Column("per server", "right"),
            Column("servers", "right"),
            Column("GPUs", "right"),
            Column("usd/h", "right"),
        ),
        rows=tuple(
            (
                Cell(each.copy.name, tone),
                Cell(level_name(each.best), tone),
                _figure(each.best.requests_per_s, tone),
                _figure(each.requests_per_s_per_gpu, tone),
                _figure(each.requests_per_s_per_server, tone),
                _count(each.purchase.servers, tone),
                _count(each.purchase.gpus, tone),
                _usd(each.purchase.usd_per_hour, tone),
            )
            for each, tone in _toned(plan.options)
        ),
        turns=True,
    )
    return Section(id="runs", title="Runs side by side, recommended scenario", blocks=(table,))


def _toned(options: Sequence[MeasuredOption]) -> list[tuple[MeasuredOption, Tone]]:
    return [(each, "strong" if position == 0 else "") for position, each in enumerate(options)]


def _next(plan: MeasuredPlan, command: str, drawn: Path | None) -> Section:
    again = command if len(command) <= LONG_COMMAND else "tonnage size (the same)"
    rows = [] if drawn else [(f"{again} --plot curve.png", "throughput against latency")]
    rows.append((f"{again} -o plan.json", "the same answer for a program"))
    if plan.chosen is not None:
        rows.append((f"{again} -o plan.md", "with every input and its derivation"))
    return Section(id="next", title="Next", blocks=(Commands(tuple(rows)),))


# ── for programs ────────────────────────────────────────────────────────────────────────────────


def measured_data(plan: MeasuredPlan) -> Json:
    """The keys of any plan, those that need a model null, and `measured` on top."""
    data = plan_data(plan.plan)
    recommended = plan.scenario("recommended") if _has_recommended(plan) else None
    latency = latency_data(recommended.latency) if recommended else None
    common = data["plan"]
    assert isinstance(common, dict)  # noqa: S101 — plan_data makes it one
    explanations = data.pop("explanations")
    assert isinstance(explanations, dict)  # noqa: S101 — as above
    words = data["evidence"]
    assert isinstance(words, dict)  # noqa: S101 — as above
    if recommended is not None:
        words |= {each.figure: each.evidence.label for each in recommended.rationale}
    data |= {
        "model": None,
        "models": [],
        "plan": common
        | {
            "scenarios": {each.name: _scenario_data(each, plan) for each in plan.scenarios},
            "latency": latency,
        },
        "measured": _measured(plan),
    }
    return with_explanations(
        data, dict.fromkeys(("model", "memory", "plan.deployment"), _NO_MODEL) | explanations
    )


def _scenario_data(scenario: MeasuredScenario, plan: MeasuredPlan) -> Json:
    chosen = plan.chosen
    assert chosen is not None  # noqa: S101 — there is a scenario
    bought, policy = scenario.purchase, scenario.policy
    servers = chosen.copy.candidate is not None and chosen.copy.candidate.whole_servers
    return {
        "configuration": {
            "headroom_fraction": policy.headroom_fraction,
            "spare_units": policy.spare_units,
            "spare_unit": "server" if servers else "replica",
            "kv_budget_fraction": policy.kv_budget_fraction,
        },
        "replicas": scenario.copies,
        "gpus": bought.gpus,
        "servers": bought.servers,
        "servers_for_load": bought.servers_for_load,
        "servers_with_headroom": bought.servers_with_headroom,
        "cost_usd_per_hour": bought.usd_per_hour,
        "usd_per_million_output_tokens": scenario.usd_per_million_output_tokens,
        "power_watts": bought.power_watts,
        "rack_units": bought.rack_units,
        "requests_per_s_per_server": chosen.requests_per_s_per_server,
        "requests_per_s_per_gpu": chosen.requests_per_s_per_gpu,
        "survives": {"replicas": scenario.survives_copies, "servers": scenario.survives_servers},
        "latency": latency_data(scenario.latency),
        "memory": None,
        "pools": [],
        "rationale": rationale_data(scenario.rationale),
        "alerts": [],
    }


def _measured(plan: MeasuredPlan) -> Json:
    return {
        "chosen": plan.chosen.copy.file if plan.chosen else None,
        "daily_requests_per_server": plan.daily_requests,
        "daily_users_per_server": plan.daily_users,
        "runs": [_run_data(plan, copy) for copy in plan.copies],
    }


def _run_data(plan: MeasuredPlan, copy: MeasuredCopy) -> Json:
    option = next((each for each in plan.options if each.copy is copy), None)
    server = copy.candidate.server if copy.candidate else None
    promises = _promises_of(plan, copy)
    return {
        "file": copy.file,
        "name": copy.run.name,
        "tool": copy.run.tool,
        "model": copy.run.model,
        "gpu": copy.gpu,
        "gpus": copy.gpus,
        "server": server.name if server else None,
        "replicas_per_server": copy.per_server,
        "carries": option.carries if option else None,
        "requests_per_s": option.best.requests_per_s if option else None,
        "requests_per_s_per_gpu": option.requests_per_s_per_gpu if option else None,
        "requests_per_s_per_server": option.requests_per_s_per_server if option else None,
        "gpus_recommended": option.purchase.gpus if option else None,
        "servers_recommended": option.purchase.servers if option else None,
        "levels": [
            {
                "concurrency": point.concurrency,
                "request_rate_target_per_s": point.request_rate_target_per_s,
                "requests_per_s": point.requests_per_s,
                "latencies": {
                    f"{each.metric}_p{each.percentile:g}_s": percentile_s(
                        point, each.metric, each.percentile
                    )
                    for each in promises
                },
                "sound": not fault(point),
                "reason": _remark(point, copy),
                "chosen": option is not None and point is option.best,
            }
            for point in copy.run.points
        ],
    }
