"""One replica: a model on some GPUs, in an arrangement, under an engine's limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tonnage.engine import EngineProfile
from tonnage.hardware import GpuSpec, ServerSpec
from tonnage.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A replica of `model` on `tensor_parallel * pipeline_parallel` GPUs of one kind.

    Expert parallelism lies inside the tensor-parallel group: `expert_parallel` ranks hold whole
    experts, each sliced over the remaining `tensor_parallel / expert_parallel` GPUs, so it adds no
    GPUs. `max_batch_size` (sequences) and `max_batched_tokens` (per step) are the engine's limits.
    """

    model: ModelSpec
    gpu: GpuSpec
    engine: EngineProfile
    weight_dtype: str
    kv_dtype: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    max_batch_size: int
    max_batched_tokens: int

    @property
    def gpus(self) -> int:
        """GPUs of one replica; all of them stop when one does."""
        return self.tensor_parallel * self.pipeline_parallel

    def describe(self) -> str:
        """Short form for people: "TP4 PP2 fp8"."""
        parts = [f"TP{self.tensor_parallel}"]
        if self.pipeline_parallel > 1:
            parts.append(f"PP{self.pipeline_parallel}")
        if self.expert_parallel > 1:
            parts.append(f"EP{self.expert_parallel}")
        return " ".join([*parts, self.weight_dtype])

    def with_batch_limit(self, max_batch_size: int) -> Deployment:
        """The same replica with another limit on running sequences."""
        return replace(self, max_batch_size=max_batch_size)


def arrangement_conflict(
    deployment: Deployment, server: ServerSpec | None, *, allow_tp_beyond_domain: bool = False
) -> str | None:
    """Why this arrangement cannot be run, in words, or None when it can.

    TP must divide the query heads (KV heads are replicated when there are fewer), PP may not
    exceed the layers, EP must divide both TP and the experts; TP stays inside the fast-link domain
    (on a host bus without fast links: inside the server) unless allowed; the GPU must have the
    dtypes.
    """
    model, gpu = deployment.model, deployment.gpu
    tp, pp, ep = (
        deployment.tensor_parallel,
        deployment.pipeline_parallel,
        deployment.expert_parallel,
    )
    if model.heads % tp:
        return f"TP{tp} does not divide the {model.heads} attention heads"
    kv_heads = model.kv_heads
    if kv_heads % tp and tp % kv_heads:
        return f"TP{tp} fits neither into nor around the {kv_heads} KV heads"
    if pp > model.layers:
        return f"PP{pp} exceeds the {model.layers} layers"
    if ep > 1:
        experts = {g.experts.count for g in model.layer_groups if g.experts}
        if not experts:
            return f"EP{ep} needs experts, and {model.name} has none"
        if tp % ep or any(count % ep for count in experts):
            return f"EP{ep} must divide TP{tp} and the {min(experts)} experts"
    if gpu.lacks(deployment.weight_dtype):
        return f"{gpu.name} does not compute in {deployment.weight_dtype}"
    if gpu.lacks(deployment.kv_dtype, for_kv=True):
        return f"{gpu.name} does not read a KV cache in {deployment.kv_dtype}"
    if server is not None and not allow_tp_beyond_domain:
        domain = max(server.nvlink_domain_gpus, server.gpus if not gpu.interconnect.switched else 1)
        if tp > domain:
            return f"TP{tp} leaves the {domain}-GPU link domain of {server.title}"
    return None
