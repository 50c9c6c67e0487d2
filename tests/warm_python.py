"""Runs Python programs in copies of one process that has the heavy modules loaded: importing torch takes seconds.

`python tests/warm_python.py` reads one JSON object a line, `{"folder", "code", "output"}`, runs the code there as
`python -c` would, and answers with the exit status on a line.
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> None:
    import pipeline.langsam
    import pipeline.text_to_mask
    import pipeline.tiny.scenes  # noqa: F401  # all for what they load

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run(job["folder"], job["code"], job["output"]))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(folder: str, code: str, output: str) -> int:
    """In the copy: as a program of its own, with a `__main__` of its own."""
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, standard in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(number, standard)
    sys.argv = ["-c"]
    sys.path[0] = ""
    try:
        exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()
