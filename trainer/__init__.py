"""The Dreamer trainer: runs inside the container or a plain virtual environment, and knows nothing of who launched it."""
