"""Slurm: what is typed, the batch script, what Slurm answers, and what that means for a run."""

from orchestrator.backends.slurm.backend import SlurmBackend

__all__ = ["SlurmBackend"]
