"""Many runs of one file: grids of settings and seeds, and arms with their controls."""
