"""How many replicas the policy wants: against arithmetic, on a stage that is only simulated, in Serve's own context."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments import autoscaling
from deployments.app import LOOK_BACK_S, METRICS_INTERVAL_S, autoscaling_config
from deployments.autoscaling import BUSY, QueueTimePolicy
from deployments.stage_settings import Autoscaling, DetectorSettings, StageAutoscaling

TARGET_S = 1.0
START_S = 10.0
DOWN_S = 20.0
STEP_S = 0.2


class Point:
    def __init__(self, timestamp: float, value: float) -> None:
        self.timestamp, self.value = timestamp, value


class Replica:
    """Works through `queue`, in the stage's unit of cost, at `rate` a second."""

    def __init__(self, rate: float, ready: float) -> None:
        self.rate, self.ready = rate, ready
        self.queue = self.came = self.done = self.busy = 0.0
        self.calls = 0
        self.points: dict[str, deque[Point]] = {}

    def work(self, seconds: float) -> None:
        did = min(self.queue, self.rate * seconds)
        self.queue -= did
        self.done += did
        self.busy += did / self.rate

    def report(self, now: float) -> None:
        values = {
            "calls": float(self.calls),
            "came": self.came,
            "done": self.done,
            "waiting": max(0.0, self.queue - self.rate * STEP_S),
            "model_s": self.busy,
            "cpu_s": self.busy / 3,
        }
        for name, value in values.items():
            points = self.points.setdefault(name, deque())
            points.append(Point(now, value))
            while points[0].timestamp < now - LOOK_BACK_S:
                points.popleft()


class Simulated:
    """A stage whose replicas need `START_S` to start, under Serve's rules for delays and bounds.

    Args:
        rate: cost a second of one replica.
    """

    def __init__(self, rate: float, replicas: int = 1, least: int = 1, most: int = 20) -> None:
        self.rate, self.least, self.most, self.now = rate, least, most, 0.0
        self.replicas = [Replica(rate, 0.0) for _ in range(replicas)]
        self.policy = QueueTimePolicy(TARGET_S)
        self.state: dict[str, Any] = {}
        self.since: tuple[int, float] | None = None
        self.held: list[int] = []
        self._next_report = 0.0

    def running(self) -> list[Replica]:
        return [one for one in self.replicas if one.ready <= self.now]

    def waiting(self) -> float:
        """Seconds before a replica, on average."""
        return sum(one.queue for one in self.replicas) / self.rate / max(1, len(self.running()))

    def go(self, seconds: float, comes: Callable[[Simulated], float], calls: int = 0) -> None:
        """`comes` is the cost a second that arrives now."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += STEP_S
            running = self.running()
            came = comes(self) * STEP_S
            for one in running:
                one.calls += calls
            if running:
                shortest = min(running, key=lambda one: one.queue)
                shortest.calls += came > 0
                shortest.came += came
                shortest.queue += came
            for one in running:
                one.work(STEP_S)
            if self.now >= self._next_report:
                self._next_report = self.now + METRICS_INTERVAL_S
                for one in running:
                    one.report(self.now)
            self._decide()
            self.held.append(len(self.replicas))

    def _decide(self) -> None:
        wanted = len(self.replicas)
        needed, self.state = self.policy(self._context(wanted))
        bounded = max(self.least, min(self.most, -int(-needed // 1)))
        sign = (bounded > wanted) - (bounded < wanted)
        if self.since is None or self.since[0] != sign:
            self.since = (sign, self.now)
        if sign > 0 and self.now - self.since[1] >= 3:
            self.replicas += [Replica(self.rate, self.now + START_S) for _ in range(bounded - wanted)]
        elif sign < 0 and self.now - self.since[1] >= DOWN_S:
            kept = bounded if wanted == 1 else max(1, bounded)
            self.replicas, gone = self.replicas[:kept], self.replicas[kept:]
            assert all(one.queue < self.rate * STEP_S for one in gone), "it would have to finish that first"
        else:
            return
        self.since = None

    def _context(self, wanted: int) -> AutoscalingContext:
        series: dict[str, dict[Any, list[Point]]] = {}
        for number, one in enumerate(self.running()):
            for name, points in one.points.items():
                series.setdefault(name, {})[number] = list(points)
        return AutoscalingContext(
            deployment_id=None,  # type: ignore[arg-type]
            deployment_name="stage",
            app_name="",
            current_num_replicas=len(self.running()),
            target_num_replicas=wanted,
            running_replicas=[],
            total_num_requests=0.0,
            total_queued_requests=0.0,
            aggregated_metrics=None,
            raw_metrics=series,  # type: ignore[arg-type]
            capacity_adjusted_min_replicas=self.least,
            capacity_adjusted_max_replicas=self.most,
            policy_state=self.state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=self.now,
            config=AutoscalingConfig(downscale_delay_s=DOWN_S),
        )


def steady(cost: float) -> Callable[[Simulated], float]:
    return lambda stage: cost


def test_a_crowd_of_five_times_gets_what_it_keeps_busy_and_not_twice_that() -> None:
    stage = Simulated(rate=4)
    stage.go(60, steady(2.4))
    assert set(stage.held) == {1}
    stage.held.clear()
    stage.go(100, steady(12))  # keeps three replicas busy, so four with room
    assert stage.waiting() < TARGET_S
    assert max(stage.held) <= 6
    assert [b - a for a, b in zip(stage.held, stage.held[1:], strict=False) if b < a] == []  # no going back
    stage.go(100, steady(2.4))
    assert len(stage.replicas) == 1
    stage.held.clear()
    stage.go(120, steady(2.4))
    assert set(stage.held) == {1}


@pytest.mark.parametrize("cost", [0.5, 3.1, 7.9, 11.0])
def test_a_steady_load_is_answered_and_the_number_stays(cost: float) -> None:
    stage = Simulated(rate=1)
    stage.go(400, steady(cost))
    stage.held.clear()
    stage.go(200, steady(cost))
    assert len(set(stage.held)) == 1
    assert cost < stage.held[-1] <= cost / BUSY + 1
    assert stage.waiting() < TARGET_S


def test_callers_that_wait_for_answers_hide_what_they_would_ask() -> None:
    """A hundred of them: with one replica they ask exactly as often as it answers."""
    stage = Simulated(rate=10)

    def hundred(stage: Simulated) -> float:
        return (100 - sum(one.queue for one in stage.replicas)) / STEP_S

    stage.go(120, hundred)
    assert stage.waiting() <= 1.2 * TARGET_S
    assert len(stage.replicas) >= 8


def test_what_piles_up_while_replicas_start_brings_no_more() -> None:
    stage = Simulated(rate=1)
    stage.go(20, steady(0.5))
    stage.go(START_S + 5, steady(4))
    assert stage.waiting() > 10 * TARGET_S
    assert len(stage.replicas) <= 6


def test_heavier_requests_count_by_what_they_cost() -> None:
    """As many as before that cost five times as much: nothing of requests is told."""
    stage = Simulated(rate=6)
    stage.go(30, steady(4))
    stage.go(90, steady(20))
    assert 4 <= len(stage.replicas) <= 6


def test_none_where_nobody_asks_and_one_for_what_needs_no_model() -> None:
    stage = Simulated(rate=1, replicas=3, least=0)
    stage.go(60, steady(0), calls=1)
    assert len(stage.replicas) == 1
    stage.go(60, steady(0))
    assert stage.replicas == []


def test_replicas_that_tell_nothing_are_kept() -> None:
    """Nothing is known of them: they have just started, or what they tell is lost."""
    stage = Simulated(rate=1, replicas=4)
    assert stage.policy(stage._context(4))[0] == 4
    stage.go(60, steady(0.5))
    assert len(stage.replicas) == 1
    stage.replicas += [Replica(1, 0.0) for _ in range(3)]  # of four, one has told how little there is to do
    assert stage.policy(stage._context(4))[0] == 4
    stage.replicas = []
    assert stage.policy(stage._context(2))[0] == 2  # of none that run, the wanted ones


def test_fewer_are_enough_only_where_they_were_at_the_worst_moment() -> None:
    stage = Simulated(rate=1, replicas=4)
    stage.go(200, lambda stage: 2.3 if stage.now % 20 < 3 else 0.4)  # over ten seconds 1.0 at the most, and 0.4
    assert len(stage.replicas) == 2


def test_a_pass_longer_than_the_window_keeps_its_replica() -> None:
    stage = Simulated(rate=1, replicas=3)
    stage.go(30, steady(2.4))
    for one in stage.replicas:
        for name in ("came", "done", "waiting"):
            for point in one.points[name]:
                point.value = 0.0
        for point in one.points["model_s"]:  # in the middle of one for all the time
            point.value = point.timestamp
    assert stage.policy(stage._context(3))[0] == 3


def test_the_policy_travels_without_the_package() -> None:
    """Serve's controller may have an environment of its own."""
    cloudpickle.register_pickle_by_value(autoscaling)
    try:
        pickled = cloudpickle.dumps(QueueTimePolicy)
    finally:
        cloudpickle.unregister_pickle_by_value(autoscaling)
    assert b"deployments.stage" not in pickled
    assert cloudpickle.loads(pickled)(TARGET_S)(Simulated(1)._context(1))[0] <= 1


def test_serve_takes_the_settings() -> None:
    config = autoscaling_config(StageAutoscaling(min_replicas=0, max_replicas=5, target_queue_s=0.25))
    serve = AutoscalingConfig.model_validate(config)
    assert serve.policy.policy_function == "deployments.autoscaling:QueueTimePolicy"
    assert serve.policy.policy_kwargs == {"target_queue_s": 0.25}
    assert (serve.min_replicas, serve.max_replicas, serve.upscale_delay_s) == (0, 5, 3)
    assert (serve.look_back_period_s, serve.metrics_interval_s) == (LOOK_BACK_S, METRICS_INTERVAL_S)

    counted = StageAutoscaling(policy="ongoing_requests", target_ongoing_requests=7, downscale_delay_s=33)
    serve = AutoscalingConfig.model_validate(autoscaling_config(counted))
    assert serve.policy.is_default_policy_function()
    assert (serve.target_ongoing_requests, serve.downscale_delay_s) == (7, 33)

    assert AutoscalingConfig.model_validate(autoscaling_config(Autoscaling())).policy.is_default_policy_function()


def test_a_stage_goes_by_its_queue_unless_told() -> None:
    settings = DetectorSettings.model_validate({"autoscaling": {"max_replicas": 2}})
    assert settings.autoscaling is not None
    assert settings.autoscaling.policy == "queue_time"
