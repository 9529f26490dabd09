"""A file, a set of flags, or both -> a `Study`: a document that holds, ready to be asked.

Everything that reads the disk happens here, once; what a study asks is then pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tonnage.engine import StepModel
from tonnage.errors import InputError, InputErrors
from tonnage.files import load_text
from tonnage.study.document import (
    LOAD_FORMS,
    PEAK_DERIVED_FORMS,
    PER_DAY_FORMS,
    Document,
    Key,
    format_key,
    parse_key,
    quantity_at,
    section_at,
    told_leaves,
)
from tonnage.study.lengths import Reckoner, TextCount, count_text
from tonnage.study.mistakes import Finding, Places, check_shape, touches, value_at
from tonnage.study.reader import parse_yaml
from tonnage.study.rules import (
    find_contradictions,
    find_empty,
    find_impossible,
    without_empty_sections,
)
from tonnage.study.step_model import load_step_model
from tonnage.tokenizer import load_tokenizer
from tonnage.units import WORDS_PER_TOKEN

if TYPE_CHECKING:
    from tonnage.fleet import Question
    from tonnage.study.names import StudyCatalog

# A flag that states the load anew takes the place of what the file says, and so on.
_ALTERNATIVES: tuple[tuple[Key, tuple[Key, ...]], ...] = (
    *(
        (("workload", form), tuple(("workload", other) for other in LOAD_FORMS if other != form))
        for form in LOAD_FORMS
    ),
    *(
        (("workload", form), (("workload", "peak"),))
        for form in LOAD_FORMS
        if form not in PEAK_DERIVED_FORMS
    ),
    *(
        (("workload", form), (("workload", "active_hours"),))
        for form in LOAD_FORMS
        if form not in PER_DAY_FORMS
    ),
    (("workload", "peak", "factor"), (("workload", "peak", "poisson_percentile"),)),
    (("workload", "peak", "poisson_percentile"), (("workload", "peak", "factor"),)),
    (("promises", "ttft"), (("promises", "wait"),)),
    (("promises", "wait"), (("promises", "ttft"),)),
    (("promises", "tpot"), (("promises", "tokens_per_second"),)),
    (("promises", "tokens_per_second"), (("promises", "tpot"),)),
    (("hardware", "gpus"), (("hardware", "servers"),)),
    (("hardware", "servers"), (("hardware", "gpus"),)),
)


@dataclass(frozen=True)
class Study:
    """One study: what was written, and what it means.

    `tree` holds the values as people wrote them, `document` the same read and checked. `lines`
    maps keys ("promises.ttft.p95") to lines of `file`. Built by `load_study` and
    `study_from_overrides`, which check everything that can be checked without a catalog.
    """

    tree: Mapping[str, Any] = field(repr=False)
    document: Document
    places: Places = field(repr=False)
    folder: Path
    texts: Mapping[str, TextCount] = field(default_factory=dict, repr=False)
    step_model: StepModel | None = None

    @property
    def file(self) -> str | None:
        """The file as it was named, None when there is none."""
        return self.places.file

    @cached_property
    def lines(self) -> Mapping[str, int]:
        """Key path -> line of the file."""
        return {format_key(key): line for key, line in self.places.lines.items()}

    @cached_property
    def overlays(self) -> tuple[Path, ...]:
        """Catalog files of the user's own (`hardware.catalog`), relative to the study."""
        return tuple(self.folder / name for name in self.document.hardware.catalog or ())

    def question(self, catalog: StudyCatalog) -> Question:
        """What the search needs. Raises InputErrors for names the catalog does not know."""
        from tonnage.study.build import build_question  # noqa: PLC0415 — a study may never be asked

        return build_question(self, catalog)

    def with_value(self, key: str, value: object) -> Study:
        """The same study with `key` set, whether or not it was stated.

        A bare number is in the SI unit of its key (seconds, bytes, tokens, a plain fraction), as
        in `StatedInput.value`. Raises InputErrors when the study does not hold with it.
        """
        return _checked(
            *_overridden(self.tree, self.places, {key: value}, numbers_are_si=True),
            folder=self.folder,
            counted=self,
        )

    def nearest_value(self, key: str, value: float) -> float:
        """`value` brought into the range `key` allows, in SI units; a share stays at most 1."""
        quantity = quantity_at(parse_key(key))
        if quantity is None:
            return value
        low = math.nextafter(quantity.minimum, math.inf) if quantity.above else quantity.minimum
        return min(max(value, low), quantity.maximum)

    def to_yaml(self) -> str:
        """The study as commented YAML; reading it gives the same document."""
        from tonnage.study.write import format_study  # noqa: PLC0415 — writing is rare

        return format_study(self.tree)


def load_study(path: Path, *, overrides: Mapping[str, object] | None = None) -> Study:
    """Read a study and lay flags over it.

    `overrides` maps dotted keys ("promises.ttft.p95") to what a flag says. One that states the
    load, a promise or the hardware in another form replaces the file's form. Raises InputErrors
    with every mistake found, each with its line, or with its key alone when a flag made it.
    """
    path = Path(path)
    try:
        reading = parse_yaml(load_text(path), str(path))
    except InputErrors:
        raise
    except InputError as error:
        raise InputErrors([error]) from None
    places = Places(file=str(path), lines=reading.lines, overridden=frozenset())
    tree, places = _overridden(without_empty_sections(reading.tree), places, overrides or {})
    return _checked(tree, places, folder=path.parent, known=reading.findings)


def study_from_overrides(overrides: Mapping[str, object]) -> Study:
    """A study made of flags alone; relative paths in it start from the working directory."""
    places = Places(file=None, lines={}, overridden=frozenset())
    return _checked(*_overridden({}, places, overrides), folder=Path())


def study_from_mapping(mapping: Mapping[str, object]) -> Study:
    """A study from a mapping with the keys of the YAML document; it is read just as strictly."""
    import yaml  # noqa: PLC0415 — only the library is asked this way

    return study_from_text(yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True))


def study_from_text(text: str, *, file: str | None = None, folder: Path | None = None) -> Study:
    """A study from YAML text that is in memory; `file` names it in messages."""
    reading = parse_yaml(text, file)
    places = Places(file=file, lines=reading.lines, overridden=frozenset())
    return _checked(
        without_empty_sections(reading.tree),
        places,
        folder=folder or Path(),
        known=reading.findings,
    )


def _checked(
    tree: Mapping[str, Any],
    places: Places,
    *,
    folder: Path,
    counted: Study | None = None,
    known: Sequence[Finding] = (),
) -> Study:
    """The study of these values, or every mistake in them."""
    complained = {finding.key for finding in known}
    empty = [finding for finding in find_empty(tree) if finding.key not in complained]
    filled = _without_empty(tree)
    document, findings, left_out = check_shape(filled)
    findings = [*known, *empty, *findings, *find_contradictions(tree)]
    texts, text_findings = _load_texts(document, folder, counted)
    step_model, step_findings = _load_step_model(document, folder)
    reckoner = Reckoner(
        words_per_token=document.workload.words_per_token or WORDS_PER_TOKEN, texts=texts
    )
    if not text_findings:
        findings += [
            finding
            for finding in find_impossible(document, reckoner)
            if not touches(finding.key, left_out)
        ]
    findings += [*text_findings, *step_findings]
    if findings:
        raise places.errors(findings)
    return Study(
        tree=tree,
        document=document,
        places=places,
        folder=folder,
        texts=texts,
        step_model=step_model,
    )


def _without_empty(tree: Any) -> Any:  # noqa: ANN401 — any YAML value
    if isinstance(tree, Mapping):
        return {key: _without_empty(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, list | tuple):
        return [_without_empty(value) for value in tree if value is not None]
    return tree


def _overridden(
    tree: Mapping[str, Any],
    places: Places,
    overrides: Mapping[str, object],
    *,
    numbers_are_si: bool = False,
) -> tuple[dict[str, Any], Places]:
    """The tree with `overrides` laid over it, and which keys they set."""
    changed: dict[str, Any] = deepcopy(dict(tree))
    keys = {parse_key(name): value for name, value in overrides.items()}
    for key, alternatives in _ALTERNATIVES:
        if any(given[: len(key)] == key for given in keys):
            for other in alternatives:
                if not any(given[: len(other)] == other for given in keys):
                    _remove(changed, other)
    for key, value in keys.items():
        quantity = quantity_at(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if numbers_are_si and number and quantity is not None:
            value = quantity.write(float(value))  # type: ignore[arg-type]  # noqa: PLW2901
        _put(changed, key, _plain(value))
    lines = {key: line for key, line in places.lines.items() if not _lies_within(key, keys)}
    single = frozenset(
        key for key, value in keys.items() if isinstance(value, list | tuple) and len(value) == 1
    )
    return changed, Places(
        file=places.file,
        lines=lines,
        overridden=places.overridden | frozenset(keys),
        single=(places.single - frozenset(keys)) | single,
    )


def _lies_within(key: Key, parents: Mapping[Key, object]) -> bool:
    return any(key[: len(parent)] == parent for parent in parents)


def _put(tree: dict[str, Any], key: Key, value: object) -> None:
    """Set `value` at `key`, making the sections on the way and expanding their shorthand.

    An item just past the end of a list is appended; one further on is an InputErrors.
    """
    current: Any = tree
    for index, part in enumerate(key):
        if isinstance(current, list):
            if not (isinstance(part, int) and part <= len(current)):
                raise InputErrors([InputError("does not exist.", key=format_key(key[: index + 1]))])
            if part == len(current):
                current.append(None)
        if index == len(key) - 1:
            current[part] = value
            return
        inner = value_at(current, (part,))
        if not isinstance(inner, dict | list):
            section = section_at(key[: index + 1])
            shorthand = section.shorthand if section else None
            if isinstance(key[index + 1], int):
                inner = [] if inner is None else [inner]
            else:
                inner = {shorthand: inner} if inner is not None and shorthand else {}
            current[part] = inner
        current = inner


def _remove(tree: dict[str, Any], key: Key) -> None:
    current: Any = tree
    for part in key[:-1]:
        current = current.get(part) if isinstance(current, dict) else None
    if isinstance(current, dict):
        current.pop(key[-1], None)


def _plain(value: object) -> object:
    """What a program passes -> what YAML could have said."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _load_texts(
    document: Document, folder: Path, known: Study | None
) -> tuple[dict[str, TextCount], list[Finding]]:
    """Count every text a length names, once."""
    named = {
        value: key
        for key, value in told_leaves(document.workload, ("workload",))
        if key[-1] == "file"
    }
    tokenizer_name = document.workload.tokenizer
    if not named:
        return {}, []
    if known is not None and known.document.workload.tokenizer == tokenizer_name:
        texts = {name: known.texts[name] for name in named if name in known.texts}
    else:
        texts = {}
    missing = [name for name in named if name not in texts]
    findings: list[Finding] = []
    tokenizer = None
    if tokenizer_name is not None and missing:
        try:
            tokenizer = load_tokenizer(folder / tokenizer_name)
        except InputError as error:
            return {}, [_about_file(("workload", "tokenizer"), error)]
    for name in missing:
        try:
            texts[name] = count_text(folder / name, tokenizer)
        except InputError as error:
            findings.append(_about_file(named[name], error))
    return texts, findings


def _about_file(key: Key, error: InputError) -> Finding:
    return Finding(key, f"names {error.file}, which {error.message}", error.hint)


def _load_step_model(document: Document, folder: Path) -> tuple[StepModel | None, list[Finding]]:
    """The user's own step times: four numbers in a JSON file."""
    name = document.engine.step_model
    if name is None:
        return None, []
    key: Key = ("engine", "step_model")
    try:
        return load_step_model(folder / name, name=name), []
    except InputErrors as errors:
        return None, [
            Finding(key, f"names {name}, where {error.key} {error.message}", error.hint)
            if error.key
            else _about_file(key, error)
            for error in errors.errors
        ]
