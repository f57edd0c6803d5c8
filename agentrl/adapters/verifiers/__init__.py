"""verifiers 0.4 both ways: an environment of ours as its taskset, and its environments as one of ours."""
