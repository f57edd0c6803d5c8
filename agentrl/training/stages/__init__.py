"""The phases of a run, one file each; `base` has the contract. A stage knows its context, never the run."""
