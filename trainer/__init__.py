"""The Dreamer trainer: runs inside the container or a plain virtual environment; knows nothing of who launched it."""
