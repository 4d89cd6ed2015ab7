"""How the registry keeps what a backend needs to start a run: as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.backends.base import Launch, LaunchRequest, SweepPlace, Upload
from orchestrator.retry import RetryPolicy


def launch_text(launch: Launch) -> str:
    """A launch as the registry keeps it; secrets stand in it by name only."""
    request = launch.request
    return json.dumps(
        {
            "run_id": request.run_id,
            "run_dir": str(request.run_dir),
            "script": str(request.script),
            "attempt": request.attempt,
            "secrets": request.secrets,
            "time_limit": request.time_limit,
            "commands": launch.commands,
            "environment": dict(launch.environment),
            "container": launch.container,
            "engine": launch.engine,
            "place": None if request.place is None else asdict(request.place),
            "retry": asdict(request.retry),
            "gpus": request.gpus,
            "uploads": [[str(upload.source), str(upload.target), upload.complete] for upload in request.uploads],
        }
    )


def parse_launch(text: str) -> Launch:
    """The launch that `launch_text` has written."""
    raw = json.loads(text)
    request = LaunchRequest(
        run_id=raw["run_id"],
        run_dir=Path(raw["run_dir"]),
        script=Path(raw["script"]),
        attempt=raw["attempt"],
        secrets=tuple(raw["secrets"]),
        time_limit=raw["time_limit"],
        place=SweepPlace(**raw["place"]) if raw.get("place") else None,
        uploads=tuple(
            Upload(Path(source), Path(target), complete) for source, target, complete in raw.get("uploads", [])
        ),
        retry=_parse_retry(raw.get("retry", {})),
        gpus=raw.get("gpus", 0),
    )
    commands = tuple(tuple(argv) for argv in raw["commands"])
    return Launch(request, commands, raw["environment"], raw.get("container"), raw.get("engine"))


def _parse_retry(raw: Mapping[str, Any]) -> RetryPolicy:
    return RetryPolicy(raw.get("max", 0), tuple(raw.get("on", ())), raw.get("backoff", {}))
