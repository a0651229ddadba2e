"""One peer in a process of its own: prepares once, then has a repetition for each line on stdin.

    python worker.py MODULE:FUNCTION OPTIONS

Answers lines of JSON on stdout; what libraries print there goes to stderr.
"""

import importlib
import json
import os
import sys


def main() -> None:
    """Prepare, then repeat until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    module, _, function = sys.argv[1].partition(":")
    try:
        repetition = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
        say(ready=True)
        for _ in sys.stdin:
            try:
                say(seconds=repetition())
            except TimeoutError as error:
                say(seconds=error.args[0], gave_up=True)
    except ModuleNotFoundError as error:
        say(note=f"not installed: {error.name}")
    except Exception as error:
        say(note=f"fails: {type(error).__name__}: {str(error).partition(chr(10))[0][:150]}")


if __name__ == "__main__":
    main()
