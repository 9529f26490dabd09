"""A replica in equilibrium -> how long a call waits, and how fast its tokens come.

The closed form finds how many calls run and wait under a load; this turns it into distributions of
seconds: waits for a slot and for earlier prompts, and the spread of TPOT between calls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tonnage.queueing.closed_form import ClosedForm

# Five levels of TPOT: the standard normal at 5, 25, 50, 75 and 95 %, and the share of each.
_SPEED_LEVELS = np.array([-1.645, -0.674, 0.0, 0.674, 1.645])
_SPEED_WEIGHTS = np.array([0.1, 0.25, 0.3, 0.25, 0.1])
_MOST_PREFILL = 0.95  # share of the time spent on prompts beyond which TPOT is not resolved


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


class Equilibrium:
    """A replica in equilibrium: how many run, how long an arrival waits, how fast tokens come."""

    def __init__(
        self,
        *,
        curve: ClosedForm,
        calls_per_s: float,
        running: float,
        running_sd: float,
        waiting: float,
        slot_wait_probability: float,
        slot_wait_s: float,
        population: float,
    ) -> None:
        self.curve = curve
        self.calls_per_s = calls_per_s
        self.running = running
        self.running_sd = running_sd
        self.waiting = waiting
        self.slot_wait_probability = slot_wait_probability
        self.slot_wait_s = slot_wait_s
        self._tpot: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None
        self._tpot = None
        self._fastest_s = float(curve.decode_s[0]) * (1 - 1e-9)
        # three-point Gauss-Hermite mean over the number present
        away = math.sqrt(3) * running_sd
        self._mean_tpot_s = (
            self._speed(running - away) + 4 * self._speed(running) + self._speed(running + away)
        ) / 6
        self._fixed: dict[tuple[int, str], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._prefill_queue(population)

    @staticmethod
    def _at(values: NDArray[np.float64], running: float) -> float:
        """`values`, tabulated for 1, 2, … calls, between two of them."""
        last = len(values) - 1
        place = min(max(running - 1, 0.0), float(last))
        below = int(place)
        above = min(below + 1, last)
        low = float(values[below])
        return low + (place - below) * (float(values[above]) - low)

    def _prefill_queue(self, population: float) -> None:
        """Waiting for earlier prompts: M/G/1 over the steps that carry prompts.

        Each prompt keeps the engine busy for its own prefill time; the wait is
        lambda * E[T^2] / (2 (1 - rho)), met with probability rho, plus, when no prompt is being
        computed, half of the decode step that is under way.
        """
        curve = self.curve
        mean = second = occupied = first = squared = 0.0
        for weight, kind, nodes in zip(curve.mix_weights, curve.traffic, curve.nodes, strict=True):
            times = self.prompt_s(nodes.prompt, kind.mix.cached_share)
            mean += weight * float(nodes.prompt_weight @ times)
            second += weight * float(nodes.prompt_weight @ times**2)
            room = max(curve.table.max_batched_tokens - self.running, 1.0)
            full_step = float(curve.step(self.running, room, kind.mix.prompt.mean_tokens / 2))
            # several short prompts share a step: capacity counts tokens, not prompts
            squared += weight * float(nodes.prompt_weight @ nodes.prompt**2)
            first += weight * float(nodes.prompt_weight @ nodes.prompt)
            occupied += weight * min(
                kind.mix.prefill_tokens_mean / room * full_step,
                float(nodes.prompt_weight @ times),
            )
        occupancy = min(self.calls_per_s * occupied / curve.table.stages, 0.99)
        busy = min(self.calls_per_s * mean / curve.table.stages, 1.0)
        wait = self.calls_per_s * second / curve.table.stages / 2 / (1 - occupancy)
        wait = min(wait, max(population - 1, 0.0) / 2 * mean)
        # E[L^2]/E[L]^2 of the prompts: long ones delay the calls they meet by more
        self.prompt_dispersion = squared / first**2
        self.prefill_wait_probability = max(busy, 1e-12)
        self.prefill_wait_s = wait / self.prefill_wait_probability
        self.step_wait_s = (1 - busy) * self._at(curve.decode_s, max(self.running, 1.0)) / 2

    def prompt_s(
        self, prompt_tokens: NDArray[np.float64], cached_share: float
    ) -> NDArray[np.float64]:
        """Seconds from the start of a prompt's first chunk to its first token."""
        curve = self.curve
        others = max(self.running - 1, 0.0)
        return np.asarray(
            curve.table.prompt_s(
                prompt_tokens=prompt_tokens,
                cached_tokens=prompt_tokens * cached_share,
                sequences=others,
                kv_tokens=others * curve.context_tokens,
                windowed_kv_tokens=others * curve.windowed_tokens,
            )
        )

    def tpot_s(self, percentile: float) -> float | None:
        """TPOT below which `percentile` % of the calls of the last class stay.

        Over calls of two tokens and more; None when there are none, as one token has no TPOT.
        """
        if self._tpot_nodes() is None:
            return None
        target = percentile / 100
        low, high = self._fastest_s, 2 * self._mean_tpot_s
        while self.tpot_cdf(high) < target:
            low, high = high, high * 2
            if high > 1e9:  # noqa: PLR2004 — thirty years a token
                return math.inf
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.tpot_cdf(middle) < target else (low, middle)
        return high

    def tpot_cdf(self, seconds: float) -> float:
        """P(TPOT of the last class <= seconds), over its output lengths.

        A call of o tokens sees the mean step stretched by prompts, tau = D(n) / (1 - rho), with
        rho = arrivals * prefill(n). It differs between calls because the number present, averaged
        over the call's own stay, differs (autocorrelation exp(-t/mean stay)), and because Poisson
        many prompts meet it: a variance of arrivals * tau * E[prefill^2] / o, amplified by
        1/(1 - rho) as a delayed call is there for more prompts to meet. Lognormal above the
        fastest possible step, by its two moments.
        """
        nodes = self._tpot_nodes()
        if nodes is None:
            return 1.0
        if seconds <= self._fastest_s:
            return 0.0
        weights, mu, sigma = nodes
        z = (math.log(seconds - self._fastest_s) - mu) / sigma
        return float(weights @ np.array([_normal_cdf(float(each)) for each in z]))

    def _speeds(self, output: NDArray[np.float64]) -> NDArray[np.float64]:
        """Five levels of TPOT of calls of each length, keeping their mean: (lengths, 5)."""
        _, sigma = self._lognormal(output)
        levels = np.exp(sigma[:, None] * _SPEED_LEVELS[None, :])
        above = (self._mean_tpot_s - self._fastest_s) * levels / (levels @ _SPEED_WEIGHTS)[:, None]
        return np.asarray(self._fastest_s + above)

    def _tpot_nodes(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
        """Weight, mu and sigma of the lognormal TPOT of each output length that has one."""
        if self._tpot is None:
            nodes = self.curve.nodes[-1]
            several = nodes.output >= 2  # noqa: PLR2004 — TPOT needs a second token
            weight = nodes.output_weight[several]
            if not len(weight):
                return None
            self._tpot = (weight / weight.sum(), *self._lognormal(nodes.output[several]))
        return self._tpot

    def _lognormal(
        self, output: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mu and sigma of ln(TPOT - fastest step) of calls of each output length."""
        curve = self.curve
        output = np.maximum(output, 1.0)
        spread = self._speed(self.running + self.running_sd) - self._speed(self.running)
        stays = output / curve.output_tokens
        averaging = 2 / stays**2 * (stays - 1 + np.exp(-stays))
        delay = self._at(curve.prefill_s, self.running)
        rho = min(self.calls_per_s * delay, _MOST_PREFILL)
        met = self.calls_per_s * self._mean_tpot_s * delay**2 * self.prompt_dispersion
        # more arrivals than usual mean more calls present and more prompts met: both add up
        deviation = spread * np.sqrt(averaging) + np.sqrt(met / output) / (1 - rho)
        mean = max(self._mean_tpot_s - self._fastest_s, 1e-9)
        log_variance = np.log1p((deviation / mean) ** 2)
        sigma = np.sqrt(np.maximum(log_variance, 1e-12))
        return math.log(mean) - log_variance / 2, sigma

    def _speed(self, running: float) -> float:
        curve = self.curve
        n = min(max(running, 1.0), float(curve.max_running))
        prefill_share = min(self.calls_per_s * self._at(curve.prefill_s, n), 0.99)
        decode = self._at(curve.decode_s, n)
        # never slower than the pace at which n calls saturate the engine
        saturated = n / (self._at(curve.completions_per_s, n) * curve.output_tokens)
        return min(decode / (1 - prefill_share), max(saturated, decode))

    def fixed(self, index: int, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Every representative time without waiting, and its probability, for one class."""
        key = (index, metric)
        if key not in self._fixed:
            curve = self.curve
            nodes = curve.nodes[index]
            prompt = (
                self.prompt_s(nodes.prompt, curve.traffic[index].mix.cached_share)
                + self.step_wait_s
                + curve.table.request_overhead_s
            )
            if metric == "ttft":
                self._fixed[key] = (prompt, nodes.prompt_weight)
            else:
                decode = np.maximum(nodes.output - 1, 0.0)[:, None] * self._speeds(nodes.output)
                weights = nodes.output_weight[:, None] * _SPEED_WEIGHTS[None, :]
                self._fixed[key] = (
                    (prompt[:, None] + decode.ravel()[None, :]).ravel(),
                    (nodes.prompt_weight[:, None] * weights.ravel()[None, :]).ravel(),
                )
        return self._fixed[key]

    def wait_cdf(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(slot wait + prefill wait <= seconds): two independent waits, each often none.

        Each is exponential with probability p and zero otherwise; their sum is a mixture of both
        exponentials and their hypoexponential sum.
        """
        p, a = self.slot_wait_probability, self.slot_wait_s
        q, b = self.prefill_wait_probability, self.prefill_wait_s
        t = np.maximum(seconds, 0.0)
        tail_a = np.exp(-t / a) if a > 0 else np.zeros_like(t)
        tail_b = np.exp(-t / b) if b > 0 else np.zeros_like(t)
        if a > 0 and b > 0:
            if abs(a - b) < 1e-6 * max(a, b):
                both = (1 + t / a) * tail_a
            else:
                both = (a * tail_a - b * tail_b) / (a - b)
        else:
            both = np.maximum(tail_a, tail_b)
        tail = p * (1 - q) * tail_a + (1 - p) * q * tail_b + p * q * both
        return np.where(seconds < 0, 0.0, 1 - tail)
