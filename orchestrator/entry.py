"""Where every command line begins.

`runs` and `status` are typed again and again, while runs have all cores busy. They are answered from here: loading the
library that reads command lines would double what they take.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from orchestrator.errors import LongshoreError, SpecError
from orchestrator.sharing import for_the_group
from orchestrator.surroundings import home, say

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 1, 2, 3 or 130.

    Args:
        argv: Arguments without the program's name; by default those of the process.
    """
    gc.set_threshold(100_000)  # starting up allocates much and frees nothing: looking for cycles costs a tenth of it
    try:
        with for_the_group(home()):
            code = _answer(list(sys.argv[1:] if argv is None else argv) or ["--help"])
        sys.stdout.flush()
    except SpecError as error:
        say(str(error))
        return error.exit_code
    except LongshoreError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough, as in `runs | head`; what is still buffered must not raise at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say(f"error: {error.filename or 'system'}: {error.strerror or error}")
        return 1
    return code


def _answer(arguments: Sequence[str]) -> int:
    """Exit code of one command, which is known by its first word."""
    words = [word for word in arguments if word != "--json"]
    as_json = len(words) < len(arguments)
    match words:
        case ["runs"] if arguments[0] == "runs":
            from orchestrator.listing import show_all

            return show_all(as_json=as_json)
        case ["status", run] if arguments[0] == "status" and not run.startswith("-"):
            from orchestrator.listing import show_standing

            return show_standing(run, as_json=as_json)
        case _:
            from orchestrator.cli import run_command

            return run_command(arguments)
