"""What `tonnage simulate` is told beside the study -> SimulationOptions, or a clear no."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonnage.cli.asked import Asked
from tonnage.cli.capacity import parse_fleet
from tonnage.cli.flags import read_quantity
from tonnage.cli.simulate_flags import SCALING_INTERVAL_S
from tonnage.engine import StepModel
from tonnage.errors import UsageError
from tonnage.fleet import SimulationOptions
from tonnage.queueing.simulation import POLICIES, ROUTERS, Autoscaler, Outage
from tonnage.study.mistakes import did_you_mean
from tonnage.study.step_model import load_step_model
from tonnage.units import parse_bytes_per_s, parse_count, parse_time_s

ARRIVAL_KINDS = ("poisson", "constant", "gamma")
_OUTAGE = re.compile(r"\s*(?P<replica>\d+)\s*@(?P<down>[^-–]+)(?:[-–](?P<up>.+))?")
_RULE_HINT = 'For example --autoscale "least=1, outstanding=16".'
_NEEDS = (
    ("--router-lag", "--router kv-aware"),
    ("--kv-link", "--decode-replicas"),
    ("--lose-requests", "--outage"),
    ("--cv", "--arrivals gamma"),
)
_NOT_OF_A_TRACE = (
    *("--arrivals", "--cv", "--profile", "--requests", "--seeds"),
    *("--burst-start", "--benchmark"),
)


def options_of(
    asked: Asked,
    *,
    lose_requests: bool,
    prefix_cache: bool | None,
    burst_start: bool,
    benchmark: bool,
    compiled: bool | None,
) -> SimulationOptions:
    """Everything but the study. Raises UsageError, and InputErrors for a step model."""
    switches = {
        "--burst-start": burst_start,
        "--benchmark": benchmark,
        "--lose-requests": lose_requests,
    }
    _refuse_misplaced(asked, [name for name, given in switches.items() if given])
    fleet, trace, profile = asked.text("--fleet"), asked.text("--trace"), asked.text("--profile")
    arrivals: Any = asked.choice("--arrivals", ARRIVAL_KINDS) or "poisson"
    router: Any = asked.choice("--router", ROUTERS) or "round-robin"
    policy: Any = asked.choice("--policy", POLICIES)
    return SimulationOptions(
        fleet=None if fleet is None else parse_fleet(fleet),
        trace=None if trace is None else Path(trace),
        arrivals=arrivals,
        cv={"constant": 0.0, "poisson": 1.0}.get(arrivals, _or(asked.share("--cv"), 1.0)),
        rate_factor=_or(asked.quantity("--rate-factor", parse_count), 1.0),
        profile=None if profile is None else Path(profile),
        together=burst_start,
        benchmark=benchmark,
        requests=asked.count("--requests"),
        seed=asked.count("--seed", zero=True) or 0,
        seeds=asked.count("--seeds") or 1,
        step_model=_step_model(asked),
        kv_blocks=asked.count("--kv-blocks"),
        max_num_seqs=asked.count("--max-num-seqs"),
        max_num_batched_tokens=asked.count("--max-num-batched-tokens"),
        policy=policy,
        prefix_cache=prefix_cache,
        router=router,
        router_lag_s=_or(asked.time_s("--router-lag", zero=True), 0.0),
        outages=tuple(map(parse_outage, asked.texts("--outage"))),
        retry=not lose_requests,
        autoscaler=_autoscaler(asked),
        decode_replicas=asked.count("--decode-replicas") or 0,
        kv_link_bytes_per_s=asked.quantity("--kv-link", parse_bytes_per_s),
        compiled=compiled,
    )


def parse_outage(text: str) -> Outage:
    """What "0@600 s-900 s" says: replica 0 stops after 600 s and serves again after 900 s.

    Without an end (NaN) it is started anew at once; "never" is infinity. Raises UsageError.
    """
    found = _OUTAGE.fullmatch(text)
    if found is None:
        raise UsageError(
            f'--outage "{text}" cannot be read:',
            hint='write a replica, from 0 on, and when it stops: "0@600 s" or "0@10 min-never".',
        )
    down_s = read_quantity(found["down"], flag="--outage", parse=parse_time_s, zero=True)
    match (found["up"] or "").strip():
        case "":
            up_s = math.nan
        case "never":
            up_s = math.inf
        case up:
            up_s = read_quantity(up, flag="--outage", parse=parse_time_s)
    if up_s <= down_s:
        raise UsageError(f'--outage "{text}" ends before it begins.')
    return Outage(replica=int(found["replica"]), down_s=down_s, up_s=up_s)


def parse_autoscaler(text: str) -> Autoscaler:
    """What "least=1, outstanding=16, startup=3 min" says; no start-up (NaN) is computed.

    Raises UsageError.
    """
    told: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in Autoscaler.__annotations__ and f"{key}_s" not in Autoscaler.__annotations__:
            known = [name.removesuffix("_s") for name in Autoscaler.__annotations__]
            raise UsageError(f'--autoscale does not know "{key}".', hint=did_you_mean(key, known))
        if not equals or key in told:
            raise UsageError(f"--autoscale: {key} needs one value.", hint=_RULE_HINT)
        told[key] = value
    missing = [key for key in ("least", "outstanding") if key not in told]
    if missing:
        raise UsageError(f"--autoscale does not say {', '.join(missing)}.", hint=_RULE_HINT)
    least = _number(told["least"], "least", parse_count, zero=True)
    if least != int(least):
        raise UsageError(f"--autoscale: least must be a whole number, not {told['least']}.")
    interval, startup = told.get("interval"), told.get("startup")
    return Autoscaler(
        least=int(least),
        outstanding=_number(told["outstanding"], "outstanding", parse_count),
        interval_s=_number(interval, "interval", parse_time_s) if interval else SCALING_INTERVAL_S,
        startup_s=_number(startup, "startup", parse_time_s, zero=True) if startup else math.nan,
    )


def _number(text: str, key: str, parse: Any, *, zero: bool = False) -> float:  # noqa: ANN401
    return read_quantity(text, flag=f"--autoscale: {key}", parse=parse, zero=zero)


def _refuse_misplaced(asked: Asked, switches: Sequence[str]) -> None:
    for flag, needed in _NEEDS:
        name, _, value = needed.partition(" ")
        given = flag in asked or flag in switches
        if given and (name not in asked or (value and asked.text(name) != value)):
            raise UsageError(f"{flag} is for {needed}, which is not given.")
    if asked.text("--arrivals") == "gamma" and "--cv" not in asked:
        raise UsageError(
            "--arrivals gamma does not say how bursty:", hint="--cv 2, for example; 1 is Poisson."
        )
    of_the_study = [flag for flag in _NOT_OF_A_TRACE if flag in asked or flag in switches]
    if "--trace" in asked and of_the_study:
        raise UsageError(
            f"{of_the_study[0]} is for the study's load; --trace has requests and times of its own."
        )


def _step_model(asked: Asked) -> StepModel | None:
    file = asked.text("--step-model")
    return None if file is None else load_step_model(Path(file))


def _autoscaler(asked: Asked) -> Autoscaler | None:
    rule = asked.text("--autoscale")
    return None if rule is None else parse_autoscaler(rule)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
