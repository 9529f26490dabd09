"""A TargetSpec -> its Target, with only the parts imported that this kind needs."""

from __future__ import annotations

from tonnage.measurement.load import Target, TargetSpec


def target_of(spec: TargetSpec) -> Target:
    """The target that `spec` tells of, not yet opened.

    Raises UsageError for what is wrong in it, MissingExtraError for what is not installed.
    """
    # ruff: noqa: PLC0415 — each kind has its own optional parts
    if spec.command and spec.kind != "command":
        from tonnage.measurement.targets.agent import AgentTarget

        return AgentTarget(spec, _target_of(spec))
    return _target_of(spec)


def _target_of(spec: TargetSpec) -> Target:
    match spec.kind:
        case "chat" | "completions":
            from tonnage.measurement.targets.openai import OpenAiTarget

            return OpenAiTarget(spec)
        case "nat":
            from tonnage.measurement.targets.nat import NatTarget

            return NatTarget(spec)
        case "json":
            from tonnage.measurement.targets.workflow import JsonTarget

            return JsonTarget(spec)
        case "function":
            from tonnage.measurement.targets.function import FunctionTarget

            return FunctionTarget(spec)
        case "nemo":
            from tonnage.measurement.targets.nemo import NemoTarget

            return NemoTarget(spec)
        case "command":
            from tonnage.measurement.targets.command import CommandTarget

            return CommandTarget(spec)
