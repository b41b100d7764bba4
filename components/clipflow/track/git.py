"""What Git knows of commits, in the repository of the working directory."""

from __future__ import annotations

import subprocess


def git(*args: str) -> str | None:
    """What a git command prints; None if it fails, or there is no git or no repository."""
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def has_commit(sha: str) -> bool:
    """Whether the commit is in this repository."""
    return git("rev-parse", "--quiet", "--verify", f"{sha}^{{commit}}") is not None


def commit_with(text: str, file: str) -> str | None:
    """The commit of any branch that brought the text into the file; None if there is none."""
    found = git("log", "--all", "--reverse", "--format=%H", f"-S{text}", "--", file)
    return found.splitlines()[0] if found else None
