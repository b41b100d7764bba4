"""ingest: a source of captioned images -> `pairs` to train on and `benchmarks` held out."""
