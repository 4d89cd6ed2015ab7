"""`python -m trainer.export RUN_DIR`: write a run's policy as files that need neither the trainer nor torch."""

import argparse
import importlib.util
import logging
import os
import sys
from pathlib import Path

from trainer.export.errors import ExportError
from trainer.run_dir import RunDir
from trainer.wandb_run import WandB

NEEDED = ("torch", "onnx", "yaml")


def main() -> int:
    """Exit code 1 where nothing was exported; the reason is one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m trainer.export", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="by default RUN_DIR/export")
    parser.add_argument("--checkpoint", default="latest", metavar="NAME", help="latest, best or step_<n>")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _refuse(
            f"{sys.executable} has no {' and no '.join(missing)}, which it takes to export a policy: install the "
            "extras `trainer` and `export`, or name another interpreter under `python` in profiles.yaml"
        )
    from trainer.export.command import export

    output = arguments.output or arguments.run_dir / "export"
    try:
        metadata = export(RunDir(arguments.run_dir), arguments.checkpoint, output)
    except ExportError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename or output}: {error.strerror or error}")
    check = metadata["check"]
    print(output)
    print(f"{metadata['checkpoint']} of {metadata['task']}, {check['steps']} {check['observations']} observations:")
    for name, difference in check["max_difference"].items():
        print(f"  {name} differs from the trainer's policy by {difference:.1e} at most")
    if check["step_ms"] is None:
        print("  policy.onnx is neither checked nor timed: onnxruntime is not installed")
    else:
        print(f"  a step of runner.py takes {check['step_ms']:.3f} ms on one core")
    sys.stdout.flush()
    if not _sent_to_wandb(RunDir(arguments.run_dir), output, metadata["checkpoint"]):
        os._exit(0)
    return 0


def _sent_to_wandb(run_dir: RunDir, output: Path, checkpoint: str) -> bool:
    """Keep the policy as an artefact of the run at W&B, where the run uses it; whether that has ended."""
    import yaml

    from trainer.export.command import FILES

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
    if config["logger"]["wandb"]["mode"] == "disabled":
        return True
    run = WandB(run_dir, config)
    run.add_policy([output / name for name in FILES], checkpoint)
    return run.close()


def _refuse(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
