"""Trying a container with the real Isaac Sim: what to look at, and the report to send back."""
