"""evaluate: `checkpoint` on `benchmarks` -> `report` with metrics and pictures."""
