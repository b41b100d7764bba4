"""The container image in which every component runs, read when a pipeline is compiled.

A production compile sets `CLIPFLOW_IMAGE` to an image pinned by digest (`.../clipflow@sha256:...`):
a run then names exactly the code that made its artifacts. The default is what a laptop builds and
loads into its own cluster.
"""

import os

IMAGE = os.environ.get("CLIPFLOW_IMAGE", "clipflow:dev")
