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
from tonnage.fleet import BatchDone, Scene, SimulationAnswer
from tonnage.queueing.simulation import (
    Attainment,
    Distribution,
    Estimate,
    Summary,
    Verdict,
)
from tonnage.queueing.simulation.statistics import BATCHES, LEAST_PER_BATCH
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
    NO_RATE,
    autoscaler_words,
    batch_words,
    engine_words,
    fleet_words,
    interval_words,
    outage_words,
    requests_words,
    sentence,
    share_words,
    unjudged_words,
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
        _promises(answer),
        _throughput(answer),
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
            f"{requests_words(summary.unfinished)} {_were(summary.unfinished)} never answered, as"
            " no replica is left; let one come back (--outage) or give the fleet more"
        )
    return "; ".join(reasons) or None


# ── the answer ──────────────────────────────────────────────────────────────────────────────────


def _headline(answer: SimulationAnswer) -> Headline:
    summary = answer.summary
    verdict = verdict_of(answer)
    carried = units.format_amount(summary.requests_per_s, "requests/s")
    unjudged = tuple(f"{unjudged_words(promise)}." for promise in summary.unjudged)
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
            facts=tuple(
                _mean_fact(name, each) for name, each in summary.distributions.items() if each
            ),
            notes=unjudged
            or ("Nothing is promised: --ttft-p95 and --tpot-p95 say what is good enough.",),
        )
    deciding = [each for each in summary.attainments if each.verdict == verdict]
    done = answer.done if answer.done is not None and answer.done.verdict == verdict else None
    facts = (*([_done_fact(done)] if done else []), *map(_reached_fact, deciding))
    notes = (*unjudged, *_together(summary))
    if verdict == "kept":
        return Headline(
            label="Kept",
            answer="every promise that can be judged" if unjudged else "every promise",
            facts=facts,
            notes=notes,
            tone="good",
        )
    if done is None:
        first, *others = deciding
        what = promise_words(first.promise)
        facts = (_reached_words(first), *map(_reached_fact, others))
    else:
        what = batch_words(done)
    return Headline(
        label=verdict.capitalize(),
        answer=what,
        facts=facts,
        notes=(*_remedies(verdict, deciding, done), *notes),
        tone=TONES[verdict],
    )


def _done_fact(done: BatchDone) -> str:
    """As "done in 6.65 h (6.64–6.65 h) of 8 h"."""
    if math.isinf(done.finish.value):
        return "never done"
    return f"done in {with_interval(done.finish)} of {units.format_time(done.batch.deadline_s)}"


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


def _remedies(
    verdict: Verdict, deciding: Sequence[Attainment], done: BatchDone | None
) -> Iterator[str]:
    """What a verdict other than kept means, and what to do."""
    if verdict == "unresolved":
        yield (
            "Too little of the batch is simulated to tell the rate at which the rest goes on:"
            " simulate more requests (--requests)."
            if done is not None and not done.steady
            else "What is reached could be on either side of the limit by the luck of the draw:"
            " simulate more requests (--requests), or add a replica to be clear of it."
        )
        return
    if done is not None and done.finish.value <= done.batch.deadline_s:
        yield "Some of its requests were never answered: that is when the others were."
    for each in deciding:
        name, limit = METRIC_NAMES[each.promise.metric], units.format_time(each.promise.limit_s)
        yield (
            f"{share_words(each.share.value)} of the requests had {name} within {limit}, where"
            f" {each.promise.percentile:g} % are promised."
        )


def _together(summary: Summary) -> tuple[str, ...]:
    if summary.goodput_share is None or not summary.attainments:
        return ()
    told = f"{share_words(summary.goodput_share.value)} of the requests kept every promise at once"
    if summary.goodput_requests_per_s is None:
        return (f"{told}.",)
    rate = units.format_amount(summary.goodput_requests_per_s, "requests/s")
    return (f"{told}: a goodput of {rate}.",)


def _warnings(answer: SimulationAnswer) -> Section | None:
    summary = answer.summary
    notices = []
    if summary.rejected:
        notices.append(
            Notice(
                severity="critical",
                cause=f"{requests_words(summary.rejected)} of"
                f" {units.format_number(summary.arrived)} {_were(summary.rejected)} rejected",
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
                cause=f"{requests_words(summary.unfinished)} {_were(summary.unfinished)} never"
                " answered",
                impact="No replica is left to serve them. They miss every promise.",
                action="Let one come back (--outage), or give the fleet more replicas.",
            )
        )
    if summary.lost:
        notices.append(
            Notice(
                severity="warning",
                cause=f"{requests_words(summary.lost)} {_were(summary.lost)} lost with a replica"
                " that stopped",
                impact="They miss every promise.",
                action="Without --lose-requests they are sent again at once.",
            )
        )
    return Section(id="warnings", title="Not served", blocks=tuple(notices)) if notices else None


# ── figures ─────────────────────────────────────────────────────────────────────────────────────


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
        for name, found in summary.distributions.items()
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
    known = any(each and each.mean.low is not None for each in summary.distributions.values())
    alone = "No figure has an interval; why is under “Good to know”."
    return Section(
        id="latency",
        title="Latency",
        blocks=(table, Prose(told if known else alone, "quiet")),
    )


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _promises(answer: SimulationAnswer) -> Section | None:
    summary, done = answer.summary, answer.done
    rows = [
        (
            Cell(promise_words(each.promise)),
            _estimate_cell(each.reached, units.format_time),
            _estimate_cell(each.share, share_words),
            Cell(each.verdict, TONES[each.verdict]),
        )
        for each in summary.attainments
    ]
    rows += [
        (Cell(promise_words(each)), Cell(UNKNOWN), Cell(UNKNOWN), Cell("not judged"))
        for each in summary.unjudged
    ]
    told = []
    if rows:
        told.append(
            "Each holds separately; a request that was rejected, lost or not finished misses all."
        )
    if done is not None:
        never = math.isinf(done.finish.value)
        finish = Cell("never") if never else _estimate_cell(done.finish, units.format_time)
        verdict = Cell(done.verdict, TONES[done.verdict])
        rows.append((Cell(batch_words(done)), finish, Cell(UNKNOWN), verdict))
        told.append(_rest_words(done, simulated=len(answer.simulated.records)))
    if not rows:
        return None
    table = Table(
        columns=(
            Column("promise"),
            Column("reached", "right"),
            Column("kept by", "right"),
            Column("verdict"),
        ),
        rows=tuple(rows),
    )
    prose = Prose(" ".join(told), "quiet")
    return Section(id="promises", title="Promises", blocks=(table, prose))


def _rest_words(done: BatchDone, *, simulated: int) -> str:
    """What the time of a batch rests on."""
    if simulated >= done.batch.requests:
        return "The batch is done with its last answer."
    return (
        f"The batch is done with its last answer; what comes after the {requests_words(simulated)}"
        " that are simulated goes on at their rate."
    )


def _throughput(answer: SimulationAnswer) -> Section:
    summary = answer.summary
    rows: list[tuple[str, float | None, str]] = [
        ("answered", summary.requests_per_s, "requests/s"),
        ("output", summary.output_tokens_per_s, "tokens/s"),
    ]
    if summary.attainments:
        kept = ("with every promise kept", summary.goodput_requests_per_s, "requests/s")
        rows.insert(1, kept)
    if answer.done is None:  # a batch does not arrive at a rate
        rows.insert(0, ("arriving", summary.offered_requests_per_s, "requests/s"))
    table = Table(
        columns=(Column("requests and tokens"), Column("a second", "right")),
        rows=tuple(
            (
                Cell(what),
                Cell(UNKNOWN if value is None else units.format_amount(value, unit), "", value),
            )
            for what, value, unit in rows
        ),
    )
    if summary.requests_per_s is not None:
        return Section(id="throughput", title="Throughput", blocks=(table,))
    why = Prose(f"{sentence(NO_RATE)} Simulate more of them (--requests).", "quiet")
    return Section(id="throughput", title="Throughput", blocks=(table, why))


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
        (_named(one.promise), [_seconds(_reached(each, one.promise)) for each in summaries])
        for one in answer.summary.attainments
    ]
    if answer.done is not None:
        finishes = [
            _seconds(each.done.finish if each.done else None) for each in answer.replications
        ]
        promised.append(("done in", finishes))
    means = [
        (f"{METRIC_NAMES[name]} mean", [_seconds(found.mean if found else None) for found in every])
        for name, every in (
            ("ttft", [each.ttft for each in summaries]),
            ("tpot", [each.tpot for each in summaries]),
            ("e2e", [each.e2e for each in summaries]),
        )
    ]
    rates = [each.requests_per_s for each in summaries if each.requests_per_s is not None]
    table = _one_by_one(
        "seed",
        [str(each.seed) for each in answer.replications],
        *((title, values, units.format_time) for title, values in promised or means),
        *(
            [("requests/s answered", rates, units.format_number)]
            if len(rates) == len(summaries)
            else []
        ),
    )
    return Section(id="seeds", title="Seed by seed", blocks=(table,))


def _reached(summary: Summary, promise: Promise) -> Estimate | None:
    return next((each.reached for each in summary.attainments if each.promise == promise), None)


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
    when = f"sent between {start_s} and {end_s}"
    if answer.done is not None:
        when = "all sent at the start"
    counted = f"{units.format_number(summary.counted)}, {when}"
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
    if verdict_of(answer) == "unresolved" and "--trace" not in command:
        more = max(MORE_REQUESTS * answer.summary.counted, BATCHES * LEAST_PER_BATCH)
        rows.append((f"{again} --requests {more}", "narrower intervals, and so a verdict"))
    if answer.summary.stability.stable and answer.scene.fleet.replicas > 1:
        begin_s, end_s = answer.summary.window_s
        middle_s = (begin_s + max(end_s, answer.simulated.until_s if answer.done else end_s)) / 2
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
    interval = interval_words(estimate, shown, unit_told=True)
    return Cell(f"{figure}\n{interval}" if interval else figure, "", estimate.value)
