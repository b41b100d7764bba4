"""MLflow runs: parameters, metrics, tags and artifacts, under one lineage key.

Where: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the checkout (see checkout.py) with its files under
`artifacts/mlflow`. Experiment: `MLFLOW_EXPERIMENT_NAME`, else `clipflow`.

Training must outlive its tracker. `connect` refuses a server that is down before any work starts;
after that, what a run writes while the server is away is kept, in order, and sent once it is back.
On ranks other than 0 everything here does nothing.

    server.py      where MLflow is, how long a call may take, what an error says
    runs.py        writing to a run
    queries.py     what earlier runs and registered versions say
    reading.py     runs by id, name or version, and their curves
    versions.py    registered versions by name, and their checkpoints
    files.py       what runs and models keep there
    provenance.py  the lineage key
    git.py dvc_lock.py
                   where its links lead: commits, and DVC's hashes in them
"""

from clipflow.track.provenance import lineage
from clipflow.track.queries import (
    BENCHMARKS,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ROLLED_BACK,
    Champion,
    Finished,
    aliased,
    aliases,
    champion_history,
    end_of_pipeline,
    finished_runs,
    promote,
    registered,
)
from clipflow.track.runs import NO_RUN, Run, reopen, start
from clipflow.track.server import (
    client,
    connect,
    environment,
    look_up,
    once,
    place,
    refusals,
    uploading,
    uri,
)

__all__ = [
    "BENCHMARKS",
    "CHALLENGER",
    "CHAMPION",
    "NO_RUN",
    "PREVIOUS",
    "ROLLED_BACK",
    "Champion",
    "Finished",
    "Run",
    "aliased",
    "aliases",
    "champion_history",
    "client",
    "connect",
    "end_of_pipeline",
    "environment",
    "finished_runs",
    "lineage",
    "look_up",
    "once",
    "place",
    "promote",
    "refusals",
    "registered",
    "reopen",
    "start",
    "uploading",
    "uri",
]
