"""A study and a catalog -> the `Question`: every input with how it is known, every step shown.

Pure given the catalog. What the study leaves out is filled in here and nowhere else, and each such
figure is listed as assumed under the key that would state it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tonnage.engine import EngineProfile
from tonnage.evidence import Evidence
from tonnage.fleet import (
    ExistingFleet,
    Limits,
    Question,
    ScenarioName,
    ScenarioPolicy,
)
from tonnage.model import ModelSpec
from tonnage.study.candidates import find_candidates
from tonnage.study.conflicts import lacking, overlong, stretched, undivided
from tonnage.study.demand import TOLD, Ledger, RequestTokens, derive_load
from tonnage.study.document import (
    LOAD_FORMS,
    Call,
    Document,
    Key,
    TimePercentiles,
    format_key,
)
from tonnage.study.inputs import told_inputs
from tonnage.study.lengths import Reckoner, Reckoning
from tonnage.study.mistakes import Finding
from tonnage.study.names import Names, StudyCatalog
from tonnage.units import (
    WORDS_PER_TOKEN,
    format_fraction,
    format_number,
    format_time,
)
from tonnage.workload import (
    PERCENTILES,
    READING_WORDS_PER_MINUTE,
    Batch,
    Lengths,
    LlmCall,
    Load,
    Metric,
    Promise,
    TokenMix,
    Workload,
    reading_speed_tpot_s,
)

if TYPE_CHECKING:
    from tonnage.study.loader import Study

PROMPT_TOKENS = 1000.0
ANSWER_TOKENS = 250.0
ENGINE = "vLLM"
KV_BUDGET_FRACTION = 0.70
IDEAL_KV_BUDGET_FRACTION = 0.65
HEADROOM_FRACTION: Mapping[ScenarioName, float] = {"minimum": 0, "recommended": 0.20, "ideal": 0.30}
SPARE_UNITS: Mapping[ScenarioName, int] = {"minimum": 0, "recommended": 1, "ideal": 2}

Noun = TypeVar("Noun")


def build_question(study: Study, catalog: StudyCatalog) -> Question:
    """Everything the search needs. Raises InputErrors for every name the catalog does not know."""
    return _Builder(study=study, names=Names(catalog=catalog)).question()


@dataclass(slots=True, kw_only=True)
class _Builder:
    """One building of a question: the parts share a ledger and the complaints."""

    study: Study
    names: Names
    ledger: Ledger = field(default_factory=Ledger)
    notes: dict[Key, list[str]] = field(default_factory=dict)
    used_words: bool = False

    @property
    def document(self) -> Document:
        return self.study.document

    @property
    def words_per_token(self) -> float:
        return self.document.workload.words_per_token or WORDS_PER_TOKEN

    def question(self) -> Question:
        document = self.document
        models = self._models()
        candidates, prices = find_candidates(document.hardware, self.names, self.ledger)
        engine = self._engine()
        existing = self._existing()
        if self.names.findings or engine is None:
            raise self.study.places.errors(self.names.findings)
        specs = tuple(dict.fromkeys(models.values()))
        weight_dtypes, kv_dtypes = self._weight_dtypes(specs), self._kv_dtypes(specs)
        self._refuse(
            (
                *lacking(("engine", "weight_dtype"), weight_dtypes, candidates, for_kv=False),
                *lacking(("engine", "kv_dtype"), kv_dtypes, candidates, for_kv=True),
                *undivided(specs, document.hardware.tensor_parallel or ()),
                *stretched(self.study, candidates),
            )
        )
        workload = self._workload(models)
        policies = self._policies()
        one_arrangement = (1,) if self.study.step_model is not None else ()
        return Question(
            name=document.name or self._default_name(next(iter(specs))),
            workload=workload,
            models={spec.name: spec for spec in specs},
            candidates=candidates,
            engine=engine,
            policies=policies,
            objective=document.objective,
            tensor_parallel=document.hardware.tensor_parallel or (),
            pipeline_parallel=document.hardware.pipeline_parallel or one_arrangement,
            expert_parallel=document.hardware.expert_parallel or one_arrangement,
            weight_dtypes=weight_dtypes,
            kv_dtypes=kv_dtypes,
            max_batch_sizes=document.engine.max_batch_size or (),
            max_batched_tokens=document.engine.max_batched_tokens,
            runtime_overhead_bytes=document.memory.runtime_overhead,
            allow_tp_beyond_domain=document.hardware.allow_tp_beyond_domain or False,
            step_model=self.study.step_model,
            limits=Limits(max_usd_per_hour=document.limits.cost, max_gpus=document.limits.gpus),
            existing=existing,
            inputs=(
                *told_inputs(self.study, self.notes, self.words_per_token),
                *prices,
                *self.ledger.assumed,
            ),
        )

    def _refuse(self, findings: Iterable[Finding]) -> None:
        """Raise every finding so far, and these."""
        self.names.findings.extend(findings)
        if self.names.findings:
            raise self.study.places.errors(self.names.findings)

    def _default_name(self, model: ModelSpec) -> str:
        return Path(self.study.file).stem if self.study.file else model.name

    # ── names the catalog must know ─────────────────────────────────────────────────────────────

    def _models(self) -> dict[int, ModelSpec]:
        """The model of each call, by its place in the chain."""
        calls = self.document.workload.calls or (Call(),)
        found: dict[int, ModelSpec] = {}
        for index, call in enumerate(calls):
            name = call.model or self.document.model
            own = call.model is not None
            key: Key = ("workload", "calls", index, "model") if own else ("model",)
            spec = self.names.look_up(key, self._model, name) if name is not None else None
            if spec is not None:
                found[index] = spec
        return found

    def _model(self, name: str) -> ModelSpec:
        """A model by name, or by a path that starts from the study's folder."""
        path = self.study.folder / name
        local = path.is_file() or (path / "config.json").is_file()
        return self.names.catalog.model(str(path) if local else name)

    def _engine(self) -> EngineProfile | None:
        name = self.document.engine.name
        if name is None:
            self.ledger.assume(("engine", "name"), ENGINE)
        return self.names.look_up(("engine", "name"), self.names.catalog.engine, name or ENGINE)

    def _existing(self) -> ExistingFleet | None:
        existing = self.document.existing
        if existing is None:
            return None
        if existing.server is not None:
            server = self.names.look_up(
                ("existing", "server"), self.names.catalog.server, existing.server
            )
            if server is None:
                return None
            gpus = existing.count * server.gpus
            return ExistingFleet(
                gpu=server.gpu, server=server.name, units=existing.count, gpus=gpus
            )
        gpu = self.names.look_up(("existing", "gpu"), self.names.catalog.gpu, existing.gpu or "")
        if gpu is None:
            return None
        return ExistingFleet(gpu=gpu.name, server=None, units=existing.count, gpus=existing.count)

    # ── what must be served ─────────────────────────────────────────────────────────────────────

    def _workload(self, models: Mapping[int, ModelSpec]) -> Workload:
        workload = self.document.workload
        calls = self._calls(models)
        window = () if self._memory_only else (spec for _, spec in sorted(models.items()))
        self._refuse(overlong(calls, window, chain=bool(workload.calls)))
        load = derive_load(
            workload,
            self._request_tokens(calls),
            self.ledger,
            output_tokens_per_s=self.document.promises.throughput,
        )
        promises = self._promises(load)
        context = self._context(calls)
        if workload.words_per_token is None and self.used_words:
            self.ledger.assume(
                ("workload", "words_per_token"),
                f"{format_number(WORDS_PER_TOKEN)} words per token",
                value=WORDS_PER_TOKEN,
                note="English; other languages have fewer",
            )
        if workload.network is None and any(promise.metric != "tpot" for promise in promises):
            self.ledger.assume(("workload", "network"), "no network time")
        return Workload(
            calls=calls,
            load=load,
            promises=promises,
            sessions=workload.sessions,
            context_tokens=context,
            network_s=workload.network or 0.0,
            steps=tuple(self.ledger.steps),
        )

    def _calls(self, models: Mapping[int, ModelSpec]) -> tuple[LlmCall, ...]:
        workload = self.document.workload
        told = workload.calls or (Call(),)
        chain = workload.calls is not None
        built = []
        for index, call in enumerate(told):
            name = call.name or (f"call {index + 1}" if chain else "answer")
            place: Key = ("workload", "calls", index) if chain else ("workload",)
            prompt = self._prompt(place, call, name if chain else "")
            answer = self._answer(place, call, name if chain else "")
            built.append(
                LlmCall(
                    name=name,
                    model=models[index].name,
                    mix=TokenMix(
                        prompt=prompt.lengths,
                        output=answer.lengths,
                        cached_share=prompt.cached_share,
                    ),
                    repeats=call.repeats or 1,
                )
            )
        return tuple(built)

    def _prompt(self, place: Key, call: Call, title: str) -> Reckoning:
        workload = self.document.workload
        section = call.prompt or workload.prompt
        key = (*place, "prompt") if call.prompt else ("workload", "prompt")
        if section is None:
            context = workload.context
            if self._memory_only and context is not None:  # the session is the prompt
                return Reckoning(lengths=Lengths.constant(context.tokens(self.words_per_token)))
            return self._assumed_length("prompt", PROMPT_TOKENS)
        reckoning = self._reckoner.prompt(section)
        self._note_length(key, f"{title} prompt".strip(), reckoning)
        if reckoning.cached_formula:
            self.ledger.step(
                f"{title} cached prompt".strip(),
                f"{reckoning.cached_formula} = {format_fraction(reckoning.cached_share)} "
                "need no prefill",
                reckoning.cached_share,
                "",
            )
        return reckoning

    def _answer(self, place: Key, call: Call, title: str) -> Reckoning:
        workload = self.document.workload
        section = call.answer or workload.answer
        key = (*place, "answer") if call.answer else ("workload", "answer")
        if section is None:
            if self._memory_only:
                return Reckoning(lengths=Lengths.constant(0.0))
            return self._assumed_length("answer", ANSWER_TOKENS)
        reckoning = self._reckoner.answer(section)
        if section.reasoning is not None:
            self.notes.setdefault((*key, "reasoning"), []).append(
                "generated like the rest; TTFT counts the first generated token, not the first "
                "visible one"
            )
        self._note_length(key, f"{title} answer".strip(), reckoning)
        return reckoning

    @property
    def _reckoner(self) -> Reckoner:
        return Reckoner(words_per_token=self.words_per_token, texts=self.study.texts)

    @property
    def _memory_only(self) -> bool:
        if self.document.promises.throughput is not None:
            return False
        return not any(getattr(self.document.workload, form) is not None for form in LOAD_FORMS)

    def _note_length(self, key: Key, title: str, reckoning: Reckoning) -> None:
        self.used_words = self.used_words or reckoning.used_words
        known = self.notes.setdefault(key, [])
        known.extend(note for note in reckoning.notes if note not in known)
        if reckoning.formula and all(
            step.formula != reckoning.formula for step in self.ledger.steps
        ):
            self.ledger.step(
                title,
                reckoning.formula,
                reckoning.lengths.mean_tokens,
                "tokens",
                reckoning.evidence,
            )

    def _assumed_length(self, name: str, tokens: float) -> Reckoning:
        key = ("workload", name)
        if all(told.key != format_key(key) for told in self.ledger.assumed):
            text = f"{format_number(tokens)} tokens"
            self.ledger.assume(key, text, value=tokens, unit="tokens", note="every one alike")
        return Reckoning(lengths=Lengths.constant(tokens), evidence=Evidence.ASSUMED)

    def _request_tokens(self, calls: tuple[LlmCall, ...]) -> RequestTokens:
        assumed = any(
            told.key in {"workload.prompt", "workload.answer"} for told in self.ledger.assumed
        )
        return RequestTokens(
            prompt_tokens=sum(call.repeats * call.mix.prompt.mean_tokens for call in calls),
            output_tokens=sum(call.repeats * call.mix.output.mean_tokens for call in calls),
            evidence=Evidence.ASSUMED if assumed else TOLD,
        )

    def _context(self, calls: tuple[LlmCall, ...]) -> float | None:
        workload = self.document.workload
        context = None
        if workload.context is not None:
            context = workload.context.tokens(self.words_per_token)
            self.used_words = self.used_words or workload.context.unit == "words"
        elif workload.sessions is not None:
            prompt, output = calls[-1].mix.prompt.mean_tokens, calls[-1].mix.output.mean_tokens
            context = prompt + output
            self.ledger.step(
                "context of a session",
                f"{format_number(prompt)} prompt + {format_number(output)} answer = "
                f"{format_number(context)} tokens",
                context,
                "tokens",
            )
        if workload.sessions is not None and context is not None:
            total = workload.sessions * context
            self.ledger.step(
                "resident context",
                f"{format_number(workload.sessions)} sessions × {format_number(context)} tokens = "
                f"{format_number(total)} tokens in memory",
                total,
                "tokens",
            )
        return context

    # ── what is promised ────────────────────────────────────────────────────────────────────────

    def _promises(self, load: Load | None) -> tuple[Promise, ...]:
        if load is None or isinstance(load, Batch):
            return ()
        told = self.document.promises
        promises = [
            *_limits("ttft", told.ttft),
            *_limits(
                "ttft", told.wait, note="wait: the time before the answer begins, which is TTFT"
            ),
            *_limits("tpot", told.tpot),
            *self._speeds(),
            *_limits("e2e", told.e2e),
        ]
        metrics = {promise.metric for promise in promises}
        if told.mode == "sequential" or (told.mode is None and metrics == {"e2e"}):
            return tuple(promises)
        if "ttft" not in metrics:
            self.ledger.assume(
                ("promises", "ttft"), "no promise", note="the first token may take any time"
            )
        if "tpot" not in metrics:
            limit_s = reading_speed_tpot_s(self.words_per_token)
            note = f"human reading speed, {READING_WORDS_PER_MINUTE} words a minute"
            self.used_words = True
            self.ledger.assume(
                ("promises", "tpot", "p95"),
                format_time(limit_s),
                value=limit_s,
                unit="s",
                note=note,
            )
            promises.append(
                Promise(
                    metric="tpot",
                    percentile=95.0,
                    limit_s=limit_s,
                    evidence=Evidence.ASSUMED,
                    note=note,
                )
            )
        return tuple(promises)

    def _speeds(self) -> list[Promise]:
        speeds = self.document.promises.tokens_per_second
        return [
            Promise(
                metric="tpot",
                percentile=percentile,
                limit_s=1 / speed,
                evidence=TOLD,
                note=f"{format_number(speed)} tokens/s, as time per token",
            )
            for percentile in PERCENTILES
            if speeds is not None and (speed := getattr(speeds, f"p{percentile:.0f}")) is not None
        ]

    # ── how much is held back ───────────────────────────────────────────────────────────────────

    def _policies(self) -> tuple[ScenarioPolicy, ...]:
        scenarios = self.document.scenarios
        budget = self.document.memory.kv_budget_fraction
        base = KV_BUDGET_FRACTION if budget is None else budget
        if budget is None:
            self.ledger.assume(("memory", "kv_budget_fraction"), format_fraction(base), value=base)
        ideal = min(base, IDEAL_KV_BUDGET_FRACTION)
        minimum = self._policy("minimum", 0.0, 0, base)
        recommended = self._policy(
            "recommended", HEADROOM_FRACTION["recommended"], SPARE_UNITS["recommended"], base
        )
        if scenarios.ideal.kv_budget_fraction is None:
            self.ledger.assume(("scenarios", "ideal", "kv_budget_fraction"), format_fraction(ideal))
        return (
            minimum,
            recommended,
            self._policy(
                "ideal",
                max(recommended.headroom_fraction, HEADROOM_FRACTION["ideal"]),
                max(recommended.spare_units, SPARE_UNITS["ideal"]),
                ideal,
            ),
        )

    def _policy(
        self, name: ScenarioName, headroom: float, spare: int, kv_budget: float
    ) -> ScenarioPolicy:
        """What the study says of one scenario, over these defaults."""
        told = getattr(self.document.scenarios, name)
        if told.headroom is None:
            self.ledger.assume(
                ("scenarios", name, "headroom"),
                format_fraction(headroom),
                value=headroom if name == "recommended" else None,
            )
        if told.spare is None:
            self.ledger.assume(("scenarios", name, "spare"), format_number(spare))
        return ScenarioPolicy(
            name=name,
            headroom_fraction=headroom if told.headroom is None else told.headroom,
            spare_units=spare if told.spare is None else told.spare,
            kv_budget_fraction=kv_budget
            if told.kv_budget_fraction is None
            else told.kv_budget_fraction,
        )

    # ── number formats ──────────────────────────────────────────────────────────────────────────

    def _weight_dtypes(self, specs: tuple[ModelSpec, ...]) -> tuple[str, ...]:
        names = self.document.engine.weight_dtype
        if names is None and self.study.step_model is not None:
            names = ("native",)  # a step model was measured in one format
        if names is None:
            self.ledger.assume(("engine", "weight_dtype"), "the best of all that fit")
        return _resolved(names, tuple(spec.native_weight_dtype for spec in specs))

    def _kv_dtypes(self, specs: tuple[ModelSpec, ...]) -> tuple[str, ...]:
        names = self.document.engine.kv_dtype
        if names is None:
            self.ledger.assume(("engine", "kv_dtype"), "the best of all that fit")
        return _resolved(names, tuple(spec.native_dtype for spec in specs))


def _limits(metric: Metric, told: TimePercentiles | None, *, note: str = "") -> list[Promise]:
    return [
        Promise(metric=metric, percentile=percentile, limit_s=limit_s, evidence=TOLD, note=note)
        for percentile in PERCENTILES
        if told is not None and (limit_s := getattr(told, f"p{percentile:.0f}")) is not None
    ]


def _resolved(names: tuple[str, ...] | None, native: tuple[str, ...]) -> tuple[str, ...]:
    """The names, where "native" becomes what the models are published in; every name once."""
    resolved = [one for name in names or () for one in (native if name == "native" else (name,))]
    return tuple(dict.fromkeys(resolved))
