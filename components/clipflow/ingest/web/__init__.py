"""Downloading images from hosts that nobody vouches for."""

from clipflow.ingest.web.downloads import fetch
from clipflow.ingest.web.params import Web

__all__ = ["Web", "fetch"]
