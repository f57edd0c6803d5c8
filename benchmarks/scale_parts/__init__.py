"""Parts of `benchmarks/scale_simulation.py`: the simulation, and the runs that it is calibrated with and checked by."""
