"""How many replicas a stage needs, from how long its work waits: a policy for Serve's autoscaler.

Serve's own counts requests under way. A request of 40 classes then weighs as much as one of a single class, the target
has to be found anew for every model and GPU, and what a crowd of waiting requests asks for says nothing of how many
replicas would keep up. Here a replica counts work in the stage's unit of cost, and the seconds that it took
(`deployments.stage_load`); so what arrives and what waits are known in seconds of one replica.

Serve pickles this module by value and runs it in its controller: it imports the standard library alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

BUSY = 0.8
"""How busy replicas may be after one of them went: the rest is for what comes unevenly."""
DRAIN_S = 30.0
"""In how many seconds what has piled up is to be worked off; about what a replica needs to start."""


@dataclass(frozen=True, slots=True)
class Load:
    """Of a stage, all replicas together.

    Attributes:
        replicas: that reported.
        came, done: cost a second that arrived, and that was computed, over the window that Serve keeps.
        busy: replicas that were, on average.
        waiting: cost that waits now, with what has not reached a replica yet, as the others on average.
        seconds: of one replica for a unit of cost; 0 where nothing was computed.
        asked: whether anybody called at all, also for what needs no model.
    """

    replicas: int
    came: float
    done: float
    busy: float
    waiting: float
    seconds: float
    asked: bool

    @classmethod
    def of(cls, series: Mapping[str, Mapping[Any, Iterable[Any]]], queued: float) -> Load:
        """From what the replicas report, by name and replica: `StageLoad.report` over time.

        Args:
            queued: requests that wait at their callers, as all replicas are full.
        """
        times = [[point.timestamp for point in points] for points in series.get("came", {}).values()]
        # Of all replicas the same window, so that what came before one of them started is not counted for it.
        window = max((stamps[-1] - stamps[0] for stamps in times if stamps), default=0.0)

        def values(name: str) -> list[list[float]]:
            found = ([float(point.value) for point in points] for points in series.get(name, {}).values())
            return [one for one in found if one]

        def grown(name: str) -> float:
            return sum(one[-1] - one[0] for one in values(name))

        done, calls = grown("done"), grown("calls")
        busy = max(grown("model_s"), grown("cpu_s"))  # whichever is short: the model, or the CPUs beside it
        return cls(
            replicas=sum(map(bool, times)),
            came=grown("came") / window if window > 0 else 0.0,
            done=done / window if window > 0 else 0.0,
            busy=busy / window if window > 0 else 0.0,
            waiting=sum(one[-1] for one in values("waiting")) + (queued * grown("came") / calls if calls else 0.0),
            seconds=busy / done if done > 0 else 0.0,
            asked=calls > 0,
        )


class QueueTimePolicy:
    """More replicas when work waits for longer than `target_queue_s` before its model; fewer when they keep up.

    How many more follows from what arrives: as many replicas as it keeps busy, and what has piled up is worked off
    within `DRAIN_S`. Callers that ask again only when they are answered, and an ingress that turns others away, hide
    what else would come: then arrivals are as quick as answers, and the wait alone counts, up to twice the replicas at
    a time. While replicas start, what piles up meanwhile brings no more of them. Fewer: as many as would have been
    `BUSY` at the most, at the worst moment of the configuration's `downscale_delay_s`; none only if nobody asked.

    Serve calls it, and applies the delays and bounds of its own configuration. As long as replicas have not reported,
    nothing is known of them, and none is taken away.

    Args:
        target_queue_s: seconds of work that may wait before a replica.
    """

    def __init__(self, target_queue_s: float) -> None:
        self._target = target_queue_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number that is needed, and what to remember: seconds for a unit of cost, and the needs of late."""
        running, wanted = context.current_num_replicas, context.target_num_replicas
        state: dict[str, Any] = context.policy_state or {}
        load = Load.of(context.raw_metrics or {}, context.total_queued_requests)
        if running == 0 or load.replicas == 0:
            return wanted, state
        seconds = load.seconds or state.get("seconds", 0.0)
        needed = self._needed(load, seconds, running, wanted)
        if load.asked or load.waiting or context.total_num_requests > 0:
            needed = max(needed, 1.0)
        if load.replicas < running:
            needed = max(needed, wanted)
        needs = self._late(state.get("needs", {}), needed, context)
        remembered = {"seconds": seconds, "needs": needs}
        return (needed if needed > wanted else min(wanted, max(needs.values()))), remembered

    def _needed(self, load: Load, seconds: float, running: int, wanted: int) -> float:
        came, waiting = load.came * seconds, load.waiting * seconds  # replicas kept busy; replica-seconds
        if waiting <= running * self._target:
            return min(max(came, load.busy) / BUSY, wanted)
        if wanted > running:
            return max(came / BUSY, wanted)
        enough = max(came / BUSY, came + (waiting - running * self._target) / DRAIN_S, running)
        hidden = load.busy > 0.9 * running and 0.95 * load.done < load.came and came < 1.1 * running
        return max(enough, min(waiting / self._target, 2 * running)) if hidden else enough

    def _late(self, needs: Mapping[int, float], needed: float, context: AutoscalingContext) -> dict[int, float]:
        """The highest need of each of the last seconds, by the second."""
        config: Any = context.config
        now = int(context.current_time or 0.0)
        kept = {second: need for second, need in needs.items() if second >= now - config.downscale_delay_s}
        kept[now] = max(needed, kept.get(now, 0.0))
        return kept
