"""One of several processes that train together; started by :mod:`crossstage.training.launch`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import yaml

from crossstage.errors import CrossStageError
from crossstage.machine import end_with_parent
from crossstage.training.launch import LOST_PEER, UNANSWERED, USER_ERROR
from crossstage.training.options import TrainOptions
from crossstage.training.run import run_training
from crossstage.training.signals import Interrupted

_LATE = ("Timed out", "timed out", "timeout")
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Gloo", "gloo")


def main(options: str, folder: str, going_on: str, quiet: str, parent: str) -> int:
    """Train; the exit code tells how it ended."""
    end_with_parent(int(parent))
    try:
        chosen = TrainOptions.from_mapping(yaml.safe_load(options), "options")
        run_training(chosen, Path(folder), going_on=bool(int(going_on)), quiet=bool(int(quiet)))
    except Interrupted as error:
        return error.exit_code
    except CrossStageError as error:
        _note(str(error))
        return USER_ERROR
    except RuntimeError as error:
        if any(sign in str(error) for sign in _LATE):
            return UNANSWERED
        if any(sign in str(error) for sign in _LOST):
            return LOST_PEER
        traceback.print_exc()
        return 1
    return 0


def _note(message: str) -> None:
    """Leave a message for the agent, in its format."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        Path(path).write_text(json.dumps({"message": message, "timestamp": 0}))


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # a process group whose partner is gone would wait for it
