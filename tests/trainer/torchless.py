"""A process without torch that runs an exported policy, one runner for each robot, for whoever holds its pipe.

    python torchless.py FOLDER ROBOTS

Each line on stdin is JSON: {"first": [bool, …], "observation": {NAME: [[…], …]}}; each line on stdout the actions.
"""

from __future__ import annotations

import json
import sys


class NoTorch:
    """Finds torch, only to say that it is not there."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "trainer"):
            raise ModuleNotFoundError(f"No module named {name!r}")


def main(folder: str, robots: str) -> None:
    sys.meta_path.insert(0, NoTorch())
    sys.path.insert(0, folder)
    import numpy as np
    from runner import Runner

    policies = [Runner(folder, seed) for seed in range(int(robots))]
    for line in sys.stdin:
        row = json.loads(line)
        actions = []
        for number, (policy, first) in enumerate(zip(policies, row["first"], strict=True)):
            if first:
                policy.reset()
            actions.append(policy.act({name: np.array(rows[number]) for name, rows in row["observation"].items()}))
        print(json.dumps(np.stack(actions).tolist()), flush=True)
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
