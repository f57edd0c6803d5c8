"""The programs that `benchmarks/yardsticks.py` runs, each in a process and an environment of its own."""
