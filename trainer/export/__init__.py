"""The trained policy as files that run without the trainer: `python -m trainer.export RUN_DIR`."""
