"""One module per framework, all with the same task; `benchmarks/overhead.py` runs and compares them."""
