"""The scenarios side by side and, for a chain, their pools."""

from __future__ import annotations

from tonnage import units
from tonnage.fleet import (
    Plan,
    PoolPlan,
    Scenario,
)
from tonnage.report import (
    Block,
    Cell,
    Column,
    Prose,
    Section,
    Table,
    Tone,
)
from tonnage.report.figures import (
    METRIC_NAMES,
    METRICS,
    arrangement,
    latency_s,
    plural,
    server_of,
)


def scenarios_section(plan: Plan) -> Section | None:
    """Minimum, recommended and ideal in one table."""
    timed = any(scenario.latency is not None for scenario in plan.scenarios)
    metrics = shown_metrics(plan)
    unit_lost = "server" if server_of(plan) is not None else "replica"
    columns = [Column("scenario")]
    if unit_lost == "server":
        columns.append(Column("servers", "right"))
    columns += [Column("GPUs", "right"), Column("replicas", "right")]
    if timed:
        columns += [Column(f"{METRIC_NAMES[metric]} p95", "right") for metric in metrics]
        columns += [Column("with 1 lost", "right"), Column("with 2 lost", "right")]
    columns += [
        Column("survives", "right"),
        Column("usd/h", "right"),
        *([Column("usd/M output tokens", "right")] if timed else []),
        Column("power", "right"),
        Column("rack units", "right"),
    ]
    rows = tuple(
        _scenario_row(plan, scenario, unit_lost=unit_lost, timed=timed)
        for scenario in plan.scenarios
    )
    blocks: list[Block] = [Table(columns=tuple(columns), rows=rows, turns=True)]
    if timed and len(plan.scenarios[0].pools) == 1:
        told = f"With {unit_lost}s lost: the {METRIC_NAMES[metrics[0]]} p95 that is left;"
        told += " ✗ where a promise breaks."
        if any(scenario.proof is not None for scenario in plan.scenarios):
            told = f"Simulated. {told[:-1]}, ? where that is unresolved."
        blocks.append(Prose(told, "quiet"))
    return Section(id="scenarios", title="Scenarios side by side", blocks=tuple(blocks))


def shown_metrics(plan: Plan) -> tuple[str, ...]:
    """TTFT and TPOT when answers are streamed, else the whole answer."""
    return (
        ("e2e",) if plan.question.workload.mode in {"sequential", "offline"} else ("ttft", "tpot")
    )


def _scenario_row(
    plan: Plan, scenario: Scenario, *, unit_lost: str, timed: bool
) -> tuple[Cell, ...]:
    tone: Tone = "strong" if scenario.name == "recommended" else ""
    cells = [Cell(scenario.name, tone)]
    if unit_lost == "server":
        cells.append(Cell(units.format_number(scenario.servers), tone, scenario.servers))
    cells.append(Cell(units.format_number(scenario.gpus), tone, scenario.gpus))
    several = len(scenario.pools) > 1
    cells.append(Cell(str(scenario.replicas) if several else arrangement(scenario.pools[0])))
    if timed:
        for metric in shown_metrics(plan):
            value = latency_s(scenario.latency, metric)
            cells.append(Cell(units.format_time(value), "", value))
        cells += [_lost(plan, scenario, lost, unit_lost) for lost in (1, 2)]
    cells.append(Cell(_survives(scenario)))
    cells.append(Cell(units.format_usd(scenario.usd_per_hour), tone, scenario.usd_per_hour))
    if timed:
        per_million = scenario.usd_per_million_output_tokens
        cells.append(Cell(units.format_usd(per_million), "", per_million))
    cells.append(Cell(units.format_watts(scenario.power_watts), "", scenario.power_watts))
    cells.append(Cell(units.format_number(scenario.rack_units), "", scenario.rack_units))
    return tuple(cells)


def _survives(scenario: Scenario) -> str:
    if scenario.survives_servers:
        return plural(scenario.survives_servers, "server")
    return (
        plural(scenario.survives_replicas, "replica") if scenario.survives_replicas else "nothing"
    )


def _lost(plan: Plan, scenario: Scenario, lost: int, unit_lost: str) -> Cell:
    """What is left of the first shown metric with `lost` units gone."""
    survived = scenario.survives_servers if unit_lost == "server" else scenario.survives_replicas
    holds = (survived or 0) >= lost
    if len(scenario.pools) > 1:
        return Cell("kept" if holds else "✗", "" if holds else "bad")
    pool = scenario.pools[0]
    figures = pool.latency_one_lost if lost == 1 else pool.latency_two_lost
    if scenario.proof is not None and (trial := scenario.proof.lost[lost - 1]) is not None:
        holds = trial.verdict == "kept"
        if trial.verdict == "unresolved":
            value = latency_s(figures, shown_metrics(plan)[0])
            return Cell(f"{units.format_time(value)} ?", "strong", value)
    if figures is None:
        return Cell("kept" if holds else "none left ✗", "" if holds else "bad")
    value = latency_s(figures, shown_metrics(plan)[0])
    text = "overload" if value is None else units.format_time(value)
    return Cell(text if holds else f"{text} ✗", "" if holds else "bad", value)


def pools_section(plan: Plan) -> Section | None:
    """One table per pool when a chain of calls uses several models."""
    if len(plan.scenario("recommended").pools) < 2:  # noqa: PLR2004 — several
        return None
    names = [pool.model for pool in plan.scenario("recommended").pools]
    tables = tuple(_pool_table(plan, name, position) for position, name in enumerate(names))
    return Section(id="pools", title="The pools of the chain", blocks=tables)


def _pool_table(plan: Plan, name: str, position: int) -> Table:
    pools: list[tuple[str, PoolPlan]] = [
        (scenario.name, scenario.pools[position]) for scenario in plan.scenarios
    ]
    return Table(
        title=name,
        turns=True,
        columns=(
            Column("scenario"),
            Column("replicas", "right"),
            Column("for the load", "right"),
            Column("GPUs", "right"),
            *(Column(f"{METRIC_NAMES[metric]} p95", "right") for metric in METRICS),
            Column("utilisation", "right"),
        ),
        rows=tuple(
            (
                Cell(scenario, "strong" if scenario == "recommended" else ""),
                Cell(arrangement(pool)),
                Cell(units.format_number(pool.replicas_for_load)),
                Cell(units.format_number(pool.replicas * pool.deployment.gpus)),
                *(Cell(units.format_time(latency_s(pool.latency, metric))) for metric in METRICS),
                Cell(units.format_fraction(pool.latency.utilisation if pool.latency else None)),
            )
            for scenario, pool in pools
        ),
    )
