"""A SimulationAnswer -> a Report: whether the fleet keeps its promises under this load, and why.

The verdict comes first. Every figure of luck stands with its 90 % interval, and what was left out
of the figures (warm-up, cool-down) is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

from tonnage import units
from tonnage.evidence import Evidence
from tonnage.fleet import Scene, SimulationAnswer
from tonnage.queueing.simulation import (
    Attainment,
    Distribution,
    Estimate,
    Summary,
    Verdict,
)
from tonnage.report import (
    Block,
    Cell,
    Column,
    Commands,
    Headline,
    Notice,
    Prose,
    Report,
    Section,
    Table,
    Tone,
)
from tonnage.report.figures import METRIC_NAMES, UNKNOWN, promise_words
from tonnage.report.reasons import LONG_COMMAND
from tonnage.report.simulation_json import (
    finished_on,
    intervals_from,
    notes_of,
    simulation_data,
    tokens_of,
    totals_of,
    verdict_of,
)
from tonnage.report.simulation_words import (
    autoscaler_words,
    engine_words,
    fleet_words,
    interval_words,
    outage_words,
    requests_words,
    sentence,
    share_words,
    with_interval,
)
from tonnage.workload import PERCENTILES, Promise

MANY = 8  # replicas or seeds: above this, the least, the middle and the most; each of them in JSON
SPREAD: tuple[tuple[str, Callable[[Iterable[float]], float]], ...] = (
    ("lowest", min),
    ("middle", median),
    ("highest", max),
)
MORE_REQUESTS = 4  # times as many halve an interval
TONES: dict[Verdict, Tone] = {"kept": "good", "missed": "bad", "unresolved": "strong"}


def report_simulation(answer: SimulationAnswer, *, command: str = "tonnage simulate") -> Report:
    """The report of `answer`; `command` is what was typed, to suggest the next one."""
    sections = (
        _warnings(answer),
        _latency(answer),
        _promises(answer.summary),
        _throughput(answer.summary),
        _limits(answer),
        _replicas(answer),
        _seeds(answer),
        _load(answer),
        _assumed(answer.scene),
        _inputs(answer.scene),
        _notes(answer),
        _next(answer, command),
    )
    return Report(
        title=f"{answer.scene.name} · {fleet_words(answer.scene)}",
        subtitle=(answer.scene.load, _counted_words(answer)),
        headline=_headline(answer),
        sections=tuple(section for section in sections if section is not None),
        data=simulation_data(answer),
    )


def refusal_of(answer: SimulationAnswer) -> str | None:
    """Why the load cannot be served, and what to do; None when it can."""
    summary = answer.summary
    reasons = []
    if not summary.stability.stable:
        growth = units.format_amount(summary.stability.growth_requests_per_s, "requests/s")
        reasons.append(
            f"the load is beyond what this fleet carries: {growth} more arrive than are answered;"
            " give it more replicas (--fleet) or less load (--rate-factor)"
        )
    if summary.rejected:
        reasons.append(
            f"{requests_words(summary.rejected)} can never be served, being larger than a replica"
            " can hold; give each more memory (GPUs, a smaller format, --kv-blocks) or shorter"
            " prompts"
        )
    if summary.unfinished:
        reasons.append(
            f"{requests_words(summary.unfinished)} were never answered, as no replica is left; let"
            " one come back (--outage) or give the fleet more"
        )
    return "; ".join(reasons) or None


# ── the answer ──────────────────────────────────────────────────────────────────────────────────


def _headline(answer: SimulationAnswer) -> Headline:
    summary = answer.summary
    verdict = verdict_of(summary)
    carried = units.format_amount(summary.requests_per_s, "requests/s")
    if not summary.stability.stable:
        growth = units.format_amount(summary.stability.growth_requests_per_s, "requests/s")
        return Headline(
            label="Beyond capacity",
            answer=f"{growth} more arrive than are answered",
            facts=(f"{carried} answered",),
            notes=(summary.stability.explanation,),
            tone="bad",
        )
    if verdict is None:
        return Headline(
            label="Simulated",
            answer=f"{carried} answered",
            facts=tuple(_mean_fact(name, each) for name, each in _distributions(summary) if each),
            notes=("Nothing is promised: --ttft-p95 and --tpot-p95 say what is good enough.",),
        )
    deciding = [each for each in summary.attainments if each.verdict == verdict]
    together = _together(summary)
    if verdict == "kept":
        return Headline(
            label="Kept",
            answer="every promise",
            facts=tuple(map(_reached_fact, deciding)),
            notes=together,
            tone="good",
        )
    first, *others = deciding
    return Headline(
        label=verdict.capitalize(),
        answer=promise_words(first.promise),
        facts=(_reached_words(first), *map(_reached_fact, others)),
        notes=(*_remedies(deciding), *together),
        tone=TONES[verdict],
    )


def _mean_fact(name: str, found: Distribution) -> str:
    return f"{METRIC_NAMES[name]} mean {units.format_time(found.mean.value)}"


def _reached_fact(each: Attainment) -> str:
    """As "TTFT p95 0.91 s (0.88–0.95 s) of 1.5 s"."""
    name = _named(each.promise)
    if each.reached is None:
        return f"{name} not reached"
    return f"{name} {with_interval(each.reached)} of {units.format_time(each.promise.limit_s)}"


def _named(promise: Promise) -> str:
    """As "TTFT p95"."""
    return f"{METRIC_NAMES[promise.metric]} p{promise.percentile:g}"


def _reached_words(each: Attainment) -> str:
    if each.reached is None:
        return "not reached: too many requests had no answer"
    return f"reached {with_interval(each.reached)}"


def _remedies(deciding: Sequence[Attainment]) -> Iterator[str]:
    """What a verdict other than kept means, and what to do."""
    if deciding[0].verdict == "unresolved":
        yield (
            "What is reached could be on either side of the limit by the luck of the draw: simulate"
            " more requests (--requests), or add a replica to be clear of it."
        )
        return
    for each in deciding:
        name, limit = METRIC_NAMES[each.promise.metric], units.format_time(each.promise.limit_s)
        yield (
            f"{share_words(each.share.value)} of the requests had {name} within {limit}, where"
            f" {each.promise.percentile:g} % are promised."
        )


def _together(summary: Summary) -> tuple[str, ...]:
    if summary.goodput_share is None or summary.goodput_requests_per_s is None:
        return ()
    rate = units.format_amount(summary.goodput_requests_per_s, "requests/s")
    share = share_words(summary.goodput_share.value)
    return (f"{share} of the requests kept every promise at once: a goodput of {rate}.",)


def _warnings(answer: SimulationAnswer) -> Section | None:
    summary = answer.summary
    notices = []
    if summary.rejected:
        notices.append(
            Notice(
                severity="critical",
                cause=f"{requests_words(summary.rejected)} of"
                f" {units.format_number(summary.arrived)} were rejected",
                impact="They are larger than an empty replica can hold (why is under “Good to"
                " know”), and miss every promise.",
                action="Give each replica more memory (GPUs, a smaller format, or --kv-blocks if"
                " you know better) or shorter prompts.",
            )
        )
    if summary.unfinished:
        notices.append(
            Notice(
                severity="critical",
                cause=f"{requests_words(summary.unfinished)} were never answered",
                impact="No replica is left to serve them. They miss every promise.",
                action="Let one come back (--outage), or give the fleet more replicas.",
            )
        )
    if summary.lost:
        notices.append(
            Notice(
                severity="warning",
                cause=f"{requests_words(summary.lost)} were lost with the replica they were on",
                impact="They miss every promise.",
                action="Without --lose-requests they are sent again at once.",
            )
        )
    return Section(id="warnings", title="Not served", blocks=tuple(notices)) if notices else None


# ── figures ─────────────────────────────────────────────────────────────────────────────────────


def _distributions(summary: Summary) -> tuple[tuple[str, Distribution | None], ...]:
    return (("ttft", summary.ttft), ("tpot", summary.tpot), ("e2e", summary.e2e))


def _latency(answer: SimulationAnswer) -> Section | None:
    summary = answer.summary
    rows = [
        (
            Cell(METRIC_NAMES[name]),
            *(
                _estimate_cell(estimate, units.format_time)
                for estimate in (found.mean, *map(found.percentiles.get, PERCENTILES))
            ),
        )
        for name, found in _distributions(summary)
        if found is not None
    ]
    if not rows:
        return None
    heads = ("mean", *(f"p{percentile:g}" for percentile in PERCENTILES))
    table = Table(
        columns=(Column(""), *(Column(head, "right") for head in heads)), rows=tuple(rows)
    )
    how = "batch means"
    if intervals_from(answer) == "seeds":
        how = f"from {len(answer.runs)} seeds"
    told = f"Below each figure its 90 % interval ({how}): how much of it is luck."
    known = any(each and each.mean.low is not None for _, each in _distributions(summary))
    alone = "No figure has an interval; why is under “Good to know”."
    return Section(
        id="latency",
        title="Latency",
        blocks=(table, Prose(told if known else alone, "quiet")),
    )


def _promises(summary: Summary) -> Section | None:
    if not summary.attainments:
        return None
    table = Table(
        columns=(
            Column("promise"),
            Column("reached", "right"),
            Column("kept by", "right"),
            Column("verdict"),
        ),
        rows=tuple(
            (
                Cell(promise_words(each.promise)),
                _estimate_cell(each.reached, units.format_time),
                _estimate_cell(each.share, share_words),
                Cell(each.verdict, TONES[each.verdict]),
            )
            for each in summary.attainments
        ),
    )
    told = "Each holds separately; a request that was rejected, lost or not finished misses all."
    return Section(id="promises", title="Promises", blocks=(table, Prose(told, "quiet")))


def _throughput(summary: Summary) -> Section:
    goodput = summary.goodput_requests_per_s
    rows: list[tuple[str, float | None, str]] = [
        ("arriving", summary.offered_requests_per_s, "requests/s"),
        ("answered", summary.requests_per_s, "requests/s"),
        ("with every promise kept", goodput, "requests/s"),
        ("output", summary.output_tokens_per_s, "tokens/s"),
    ]
    table = Table(
        columns=(Column("requests and tokens"), Column("a second", "right")),
        rows=tuple(
            (Cell(what), Cell(units.format_amount(value, unit), "", value))
            for what, value, unit in rows
            if value is not None
        ),
    )
    return Section(id="throughput", title="Throughput", blocks=(table,))


def _limits(answer: SimulationAnswer) -> Section:
    """How often each limit held a request back, and what loosens it."""
    engine, summary = answer.scene.fleet.engine, answer.summary
    blocks_word = "blocks" if engine.kv.block_units == 1 else "units"
    told = {
        "max_num_seqs": (
            f"{units.format_number(engine.max_num_seqs)} requests",
            "a larger one, or more replicas",
        ),
        "max_num_batched_tokens": (
            f"{units.format_number(engine.max_num_batched_tokens)} tokens",
            "a larger one (longer steps: TPOT), or more replicas",
        ),
        "kv": (
            f"{units.format_number(engine.kv.units)} {blocks_word}",
            "more memory each, a smaller KV format, or more replicas",
        ),
    }
    rows = tuple(
        (
            Cell({"kv": "KV cache"}.get(name, name)),
            Cell(told[name][0]),
            Cell(units.format_fraction(share), "strong" if share else "", share),
            Cell(told[name][1], "quiet"),
        )
        for name, share in summary.limits_hit.items()
        if name in told
    )
    table = Table(
        columns=(
            Column("limit"),
            Column("set to"),
            Column("steps it hit", "right"),
            Column("what loosens it", prose=True),
        ),
        rows=rows,
    )
    preempted = units.format_amount(summary.preemptions, "preemptions")
    cache = [
        f"KV cache at most {units.format_fraction(summary.kv_peak_fraction)} full, {preempted}."
    ]
    if summary.prefix_hit_share:
        share = units.format_fraction(summary.prefix_hit_share)
        cache.append(f"{share} of the prompt tokens were cached before and not computed again.")
    if not any(summary.limits_hit.values()):
        cache.append("No limit held a request back: steps are as long as the work in them.")
    return Section(id="limits", title="What limited it", blocks=(table, Prose(" ".join(cache))))


def _replicas(answer: SimulationAnswer) -> Section | None:
    totals = totals_of(answer)
    if len(totals) < 2:  # noqa: PLR2004 — one has no spread
        return None
    until_s = sum(run.until_s for run in answer.runs)
    finished = [finished_on(answer, number) for number in range(len(totals))]
    busy = [each.busy_s / until_s if until_s else 0.0 for each in totals]
    table = _one_by_one(
        "replica",
        [_replica_words(number, answer) for number in range(len(totals))],
        ("finished", finished, units.format_number),
        ("busy", busy, units.format_fraction),
        ("KV peak", [each.kv_peak_fraction for each in totals], units.format_fraction),
        ("preemptions", [each.preemptions for each in totals], units.format_number),
    )
    blocks: list[Block] = [table]
    if answer.scene.fleet.disaggregation is not None:
        blocks.append(Prose("Prompts and answers are computed by replicas of their own.", "quiet"))
    return Section(id="replicas", title="Replica by replica", blocks=tuple(blocks))


def _seeds(answer: SimulationAnswer) -> Section | None:
    """How far runs of different seeds are apart: in what is promised, or else in each metric."""
    if not answer.replications:
        return None
    summaries = [each.summary for each in answer.replications]
    promised = [
        (_named(one.promise), [_seconds(each.attainments[place].reached) for each in summaries])
        for place, one in enumerate(answer.summary.attainments)
    ]
    means = [
        (f"{METRIC_NAMES[name]} mean", [_seconds(found.mean if found else None) for found in every])
        for name, every in (
            ("ttft", [each.ttft for each in summaries]),
            ("tpot", [each.tpot for each in summaries]),
            ("e2e", [each.e2e for each in summaries]),
        )
    ]
    table = _one_by_one(
        "seed",
        [str(each.seed) for each in answer.replications],
        *((title, values, units.format_time) for title, values in promised or means),
        ("requests/s answered", [each.requests_per_s for each in summaries], units.format_number),
    )
    return Section(id="seeds", title="Seed by seed", blocks=(table,))


def _seconds(estimate: Estimate | None) -> float:
    """Infinite where too few were answered."""
    return math.inf if estimate is None else estimate.value


def _one_by_one(
    what: str,
    names: Sequence[str],
    *readings: tuple[str, Sequence[float], Callable[[float], str]],
) -> Table:
    """A row for each, or where they are many the lowest, middle and highest of each reading."""
    if len(names) <= MANY:
        rows = [
            (name, *(shown(values[number]) for _, values, shown in readings))
            for number, name in enumerate(names)
        ]
    else:
        rows = [
            (kind, *(shown(of(values)) for _, values, shown in readings)) for kind, of in SPREAD
        ]
    return Table(
        columns=(Column(what), *(Column(title, "right") for title, _, _ in readings)),
        rows=tuple(tuple(map(Cell, row)) for row in rows),
    )


def _replica_words(number: int, answer: SimulationAnswer) -> str:
    if answer.scene.fleet.disaggregation is None:
        return str(number)
    return f"{number} {'prompts' if number < answer.scene.fleet.replicas else 'answers'}"


# ── what was simulated ──────────────────────────────────────────────────────────────────────────


def _counted_words(answer: SimulationAnswer) -> str:
    """As "20,000 requests counted of 22,345, seed 0"."""
    summary = answer.summary
    counted = units.format_number(summary.counted)
    seeds = f"{len(answer.runs)} seeds, the first" if answer.replications else "seed"
    return f"{counted} of {requests_words(summary.arrived)} counted, {seeds} {answer.scene.seed}"


def _load(answer: SimulationAnswer) -> Section:
    scene, summary = answer.scene, answer.summary
    start_s, end_s = map(units.format_time, summary.window_s)
    counted = f"{units.format_number(summary.counted)}, sent between {start_s} and {end_s}"
    rows = [
        ("requests", f"{units.format_number(summary.arrived)} sent, {_fates(summary)}"),
        ("of these counted", counted),
    ]
    for name, tokens in (
        ("prompt", tokens_of(answer, "prompt")),
        ("answer", tokens_of(answer, "output")),
    ):
        if len(tokens):
            mean, most = (
                units.format_number(round(tokens.mean())),
                units.format_number(tokens.max()),
            )
            rows.append((name, f"{mean} tokens on average, at most {most}"))
    if scene.clients is not None:
        think = units.format_time(scene.clients.think_time_s)
        rows.append(("clients", f"{scene.clients.count}, thinking {think} between requests"))
    rows += _fleet_rows(scene)
    table = Table(
        columns=(Column("what"), Column("as simulated", prose=True)),
        rows=tuple((Cell(what), Cell(text)) for what, text in rows),
    )
    return Section(id="load", title="Load and fleet", blocks=(table,))


def _fates(summary: Summary) -> str:
    fates = {
        "answered": summary.finished,
        "rejected": summary.rejected,
        "lost": summary.lost,
        "not finished": summary.unfinished,
    }
    return ", ".join(f"{units.format_number(n)} {fate}" for fate, n in fates.items() if n)


def _fleet_rows(scene: Scene) -> list[tuple[str, str]]:
    fleet = scene.fleet
    rows = [("engine", engine_words(scene.deployment.engine.name, fleet.engine))]
    if fleet.replicas > 1:
        lag = f", {units.format_time(fleet.router_lag_s)} behind" if fleet.router_lag_s else ""
        rows.append(("router", f"{fleet.router}{lag}"))
    if fleet.disaggregation is not None:
        split = fleet.disaggregation
        token = units.format_time(split.token_s)
        rows.append(("KV cache handed over", f"{token} a token, after the first token"))
    rows += [("outage", outage_words(each, retry=fleet.retry)) for each in fleet.outages]
    if fleet.autoscaler is not None:
        rows.append(("autoscaler", autoscaler_words(fleet.autoscaler, fleet.replicas)))
    return rows


def _assumed(scene: Scene) -> Section | None:
    assumed = [each for each in scene.inputs if each.evidence is Evidence.ASSUMED]
    if not assumed:
        return None
    listed = " · ".join(f"{each.key} {each.text}" for each in assumed)
    told = Prose(f"Taken without being told: {listed}.", "quiet")
    return Section(id="assumed", title="Assumed", blocks=(told,))


def _inputs(scene: Scene) -> Section | None:
    if not scene.inputs:
        return None
    table = Table(
        columns=(
            Column("input"),
            Column("value", prose=True),
            Column("evidence"),
            Column("note", prose=True),
        ),
        rows=tuple(
            (Cell(each.key), Cell(each.text), Cell(each.evidence.label), Cell(each.note))
            for each in scene.inputs
        ),
    )
    return Section(id="inputs", title="Every input", blocks=(table,), detail=True)


def _notes(answer: SimulationAnswer) -> Section | None:
    blocks = tuple(Prose(sentence(note)) for note in notes_of(answer))
    return Section(id="notes", title="Good to know", blocks=blocks) if blocks else None


def _next(answer: SimulationAnswer, command: str) -> Section:
    again = command if len(command) <= LONG_COMMAND else "tonnage simulate (the same)"
    rows = []
    if verdict_of(answer.summary) == "unresolved" and "--trace" not in command:
        more = MORE_REQUESTS * answer.summary.counted
        rows.append((f"{again} --requests {more}", "narrower intervals, and so a verdict"))
    if answer.summary.stability.stable and answer.scene.fleet.replicas > 1:
        middle_s = sum(answer.summary.window_s) / 2
        rows.append(
            (f'{again} --outage "0@{middle_s:.0f} s"', "a replica stops midway and starts anew")
        )
    rows += [
        (f"{again} --plot simulation.svg", "its course and its distributions, drawn"),
        (f"{again} --records requests.csv", "what every request would have felt"),
        (f"{again} -o simulation.json", "the same answer for a program"),
    ]
    return Section(id="next", title="Next", blocks=(Commands(tuple(rows)),))


def _estimate_cell(estimate: Estimate | None, shown: Callable[[float | None], str]) -> Cell:
    """The figure, and under it its interval, in the same unit unless it says otherwise."""
    if estimate is None:
        return Cell(UNKNOWN)
    figure = shown(estimate.value)
    interval = interval_words(estimate, shown).removesuffix(f" {figure.rpartition(' ')[2]}")
    return Cell(f"{figure}\n{interval}" if interval else figure, "", estimate.value)
