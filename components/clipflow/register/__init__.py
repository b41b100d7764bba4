"""register: `checkpoint` and its `report` -> a version in MLflow's model registry, and aliases."""
