"""register: `checkpoint` and its `report` -> a version in the MLflow model registry, and its aliases."""
