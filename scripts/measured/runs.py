"""What benchmarks printed, read back."""

import json
import sys


def read_run(path, key):
    """The JSON object of a run. Ends the program with a line where it is none or lacks `key`."""
    program = sys.argv[0].rsplit("/", 1)[-1]
    try:
        run = json.loads(path.read_text())
    except OSError as error:
        sys.exit(f"{program}: {path}: {error.strerror}")
    except ValueError as error:
        sys.exit(f"{program}: {path}: expected the JSON of a run, got {error}")
    if not isinstance(run, dict) or key not in run:
        sys.exit(f"{program}: {path}: expected the JSON of a run with '{key}'")
    return run
