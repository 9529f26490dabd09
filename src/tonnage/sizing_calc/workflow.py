"""A configuration file of NeMo Agent Toolkit -> what a measurement needs to know of it.

Read are `eval.general`, the models and endpoints of `llms`, and whether there is a workflow;
strictly, and with the place of whatever is wrong. All else belongs to the toolkit and is only
hashed, so that measurements of two configurations are not taken for one. As there, `base` names a
file to inherit from, `${NAME}` and `${NAME:-default}` are environment variables, and a relative
path starts at the working directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tonnage.errors import InputError, InputErrors
from tonnage.files import load_text
from tonnage.spelling import nearest
from tonnage.study.document import Key, format_key
from tonnage.study.reader import Reading, parse_yaml

HASH_DIGITS = 16  # of SHA-256; enough to tell two files apart
FORMATS = ("json", "jsonl", "csv", "parquet")
MAPPING_HINT = "Put its keys on lines of their own below it, further in."

_GENERAL = ("eval", "general")
_DATASET = (*_GENERAL, "dataset")
_STRUCTURE = (*_DATASET, "structure")
_DATASET_KEYS = ("_type", "file_path", "id_key", "structure", "filter", "s3", "remote_file_path")
_STRUCTURE_KEYS = (
    *("disable", "question_key", "answer_key", "generated_answer_key"),
    *("trajectory_key", "expected_trajectory_key"),
)
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}\n]*))?\}")
# The toolkit puts variables in before it reads YAML, to which an unquoted ${…} may be a bracket.
# Here they are put in afterwards, and only where they are read; until then they are words to YAML.
_AS_WORD, _IN_WORD = "\ue000\\1=\\2\ue001", re.compile("\ue000(\\w+)=(.*?)\ue001")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFile:
    """What the file says. `fingerprint` is a hash of all of it."""

    dataset: Path
    id_key: str
    question_key: str
    output_dir: Path | None
    models: tuple[str, ...]
    llm_urls: tuple[str, ...]
    fingerprint: str


def load_workflow_file(path: Path, *, runs_here: bool) -> WorkflowFile:
    """Read `path`; a workflow that `runs_here` must be in it. Raises InputError with the place."""
    document = _Document(_load_layers(path))
    document.refuse_findings()
    if runs_here and document.find(("workflow",)) is None:
        document.refuse(
            ("workflow",),
            "is missing.",
            hint="Describe the workflow to measure, or name one that runs with --endpoint.",
        )
    _refuse_preprocessing(document)
    llms = [each for each in document.mapping(("llms",)).values() if isinstance(each, Mapping)]
    output_dir = document.text((*_GENERAL, "output", "dir")) or document.text(
        (*_GENERAL, "output_dir")
    )
    return WorkflowFile(
        dataset=_dataset(document),
        id_key=document.text((*_DATASET, "id_key")) or "id",
        question_key=document.text((*_STRUCTURE, "question_key")) or "question",
        output_dir=Path(output_dir) if output_dir else None,
        models=_texts(llms, "model_name", "model", "azure_deployment"),
        llm_urls=_texts(llms, "base_url", "azure_endpoint"),
        fingerprint=document.fingerprint(),
    )


def _dataset(document: _Document) -> Path:
    """The dataset's file, in a format that can be read here."""
    if not document.mapping(_DATASET):
        document.refuse(
            _DATASET,
            "is missing: the questions to send.",
            hint="Give it _type: json and file_path: questions.json.",
        )
    kind = document.text((*_DATASET, "_type"))
    if kind not in FORMATS:
        document.refuse(
            (*_DATASET, "_type"),
            "is missing." if kind is None else f'"{kind}" is not read here.',
            hint=f"One of {', '.join(FORMATS)} is.",
        )
    document.refuse_unknown(_DATASET, _DATASET_KEYS)
    document.refuse_unknown(_STRUCTURE, _STRUCTURE_KEYS)
    for key in ((*_DATASET, "filter"), (*_DATASET, "s3"), (*_DATASET, "remote_file_path")):
        if document.find(key):
            document.refuse(
                key, "is not supported.", hint="Save the rows to measure in a local file."
            )
    if document.find((*_STRUCTURE, "disable")):
        document.refuse(
            (*_STRUCTURE, "disable"),
            "is not supported: a row is asked by one of its keys.",
            hint="Leave it out, and name that key in question_key.",
        )
    file = document.text((*_DATASET, "file_path"))
    if not file:
        document.refuse((*_DATASET, "file_path"), "is missing.")
    if not Path(file).is_file():
        document.refuse(
            (*_DATASET, "file_path"),
            f"{file} is not a file in {Path.cwd()}."
            if not Path(file).is_absolute()
            else f"{file} is not a file.",
            hint="A relative path starts at the working directory.",
        )
    return Path(file)


def _refuse_preprocessing(document: _Document) -> None:
    key = (*_GENERAL, "output", "custom_pre_eval_process_function")
    if document.find(key):
        document.refuse(
            key,
            "is not supported: it changes the questions.",
            hint="Save the changed questions as the dataset.",
        )


def _texts(llms: list[Mapping[str, Any]], *names: str) -> tuple[str, ...]:
    """The values of the first of `names` that each has; each value once."""
    found = (
        next((llm[name] for name in names if isinstance(llm.get(name), str)), None) for llm in llms
    )
    return tuple(sorted({_expanded(each) for each in found if each}))


def _expanded(text: str) -> str:
    """`text` with environment variables in their places; nothing for one that is not set."""
    return _IN_WORD.sub(lambda found: os.environ.get(found[1]) or found[2], text)


# ── the document and those it inherits from ─────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Layer:
    file: str
    reading: Reading


def _load_layers(path: Path) -> list[_Layer]:
    """The file, its base, the base of that; nearest first."""
    layers: list[_Layer] = []
    seen: set[Path] = set()
    while True:
        file = str(path)
        reading = parse_yaml(_VARIABLE.sub(_AS_WORD, load_text(path)), file)
        layers.append(_Layer(file, reading))
        seen.add(path.resolve())
        base = reading.tree.get("base")
        if base is None:
            return layers
        line = reading.lines[("base",)]
        if not isinstance(base, str):
            raise InputError("must name a file.", file=file, line=line, key="base")
        path = path.resolve().parent / _expanded(base)
        if path.resolve() in seen:
            raise InputError("goes in a circle.", file=file, line=line, key="base")
        if not path.is_file():
            raise InputError(f"{path} is not a file.", file=file, line=line, key="base")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        inside = merged.get(key)
        if isinstance(inside, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(inside, value)
        else:
            merged[key] = value
    return merged


class _Document:
    """Layers read as one mapping."""

    def __init__(self, layers: list[_Layer]) -> None:
        self.layers = layers
        self.tree: dict[str, Any] = {}
        for layer in reversed(layers):
            self.tree = _merged(self.tree, layer.reading.tree)
        self.tree.pop("base", None)

    def fingerprint(self) -> str:
        """A hash of what the file means: comments and the order of keys are not in it."""
        return hashed(json.dumps(self.tree, sort_keys=True, default=str).encode())

    def find(self, key: Key) -> Any:  # noqa: ANN401 — whatever stands there
        """The value at `key`, None without one."""
        value: Any = self.tree
        for depth, part in enumerate(key):
            if value is None:
                return None
            if not isinstance(value, Mapping):
                self.refuse(key[:depth], "must be a mapping.", hint=MAPPING_HINT)
            value = value.get(part)
        return value

    def mapping(self, key: Key) -> Mapping[str, Any]:
        """The mapping at `key`, empty without one."""
        value = self.find(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.refuse(key, "must be a mapping.", hint=MAPPING_HINT)
        return value

    def text(self, key: Key) -> str | None:
        """The text at `key`, with environment variables in their places; None without one."""
        value = self.find(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.refuse(key, "must be a text.", hint="Put it in quotes.")
        for name, default in _IN_WORD.findall(value):
            if not default and not os.environ.get(name):
                self.refuse(
                    key,
                    f"needs the environment variable {name}, which is not set.",
                    hint=f"Set it, or give it a default: ${{{name}:-…}}.",
                )
        return _expanded(value)

    def refuse_unknown(self, key: Key, known: tuple[str, ...]) -> None:
        """Raise for a key that the toolkit does not have there."""
        for name in self.mapping(key):
            if name not in known:
                close = nearest(name, known)
                self.refuse(
                    (*key, name), "is not a key here.", hint=f"Is it {close[0]}?" if close else ""
                )

    def refuse_findings(self) -> None:
        """Raise for keys that stand twice and the like, where they are read."""
        errors = [
            InputError(
                finding.message,
                file=layer.file,
                line=finding.line,
                key=format_key(finding.key),
            )
            for layer in self.layers
            for finding in layer.reading.findings
            if finding.key[:1] in {("eval",), ("llms",), ("base",)}
        ]
        if errors:
            raise InputErrors(errors)

    def refuse(self, key: Key, message: str, hint: str = "") -> NoReturn:
        """Raise InputError at `key`, or at the nearest section around it that is there."""
        for depth in range(len(key), 0, -1):
            for layer in self.layers:
                line = layer.reading.lines.get(key[:depth])
                if line is not None:
                    raise InputError(
                        message, hint=hint, file=layer.file, line=line, key=format_key(key)
                    )
        raise InputError(message, hint=hint, file=self.layers[0].file, key=format_key(key))


def hashed(content: bytes) -> str:
    """A short name of `content` by which two can be told apart."""
    return hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
