"""Stages that scale by themselves: `python -m benchmarks.autoscaling.live`, `python -m benchmarks.autoscaling.step`."""
