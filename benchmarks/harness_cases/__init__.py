"""One module per harness, all with the task of `overhead_cases.task`, for `benchmarks/harness_overhead.py`."""
