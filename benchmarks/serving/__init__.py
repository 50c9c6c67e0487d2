"""The service beside what else a user would pick: `python -m benchmarks.serving`. Linux only."""
