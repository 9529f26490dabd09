"""The search benchmark: what is timed, apart from the timing.

`prepare_search` builds everything a search needs (catalog, workload, candidates) and returns the
search itself, a function without arguments that searches afresh each time it is called and returns
how many deployments it judged, rejected ones included. Preparation is not timed. The runner
refuses a search that judged fewer than `DEPLOYMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tonnage.fleet.search import Design, objective_of, search
from tonnage.pipeline import open_catalog
from tonnage.study.loader import load_study

DEPLOYMENTS = 10_000
STUDY = Path(__file__).resolve().parents[1] / "examples" / "support-chatbot.yaml"


def prepare_search() -> Callable[[], int]:
    """The demo study over the whole catalog, with int4 weights to choose too.

    That makes a little more than `DEPLOYMENTS`: GPU kind x TP x PP x dtypes x batch limits.
    """
    study = load_study(STUDY, overrides={"hardware.gpus": "all"})
    question = replace(study.question(open_catalog(study)), weight_dtypes=("bf16", "fp8", "int4"))
    policy = next(policy for policy in question.policies if policy.name == "recommended")
    design = Design(question=question, policy=policy, objective=objective_of(question)[0])

    def judge() -> int:
        return search(design).considered.total()

    return judge
