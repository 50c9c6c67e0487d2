"""Coverage-guided fuzzing of the parsers: `python -m tests.fuzz.run [TARGET ...] --runs N --seconds S`.

Each target runs in a process of its own, forked from one that has everything imported and instrumented. libFuzzer
bounds the time of one input and the memory of the process, so a hang or growth is a finding as an exception is. Then a
sample of what was found to reach new branches is repeated up to 256 KiB, each within the same bounds: what takes more
than linear time shows there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

MAX_LENGTH = 4096
STRETCHED_LENGTH = 2**18
STRETCHED = 25
INSTRUMENTED = ["pipeline", "deployments", "python_multipart", "yaml", "tests.fuzz.planted"]

_FIXED = {"PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one target's run came to.

    Attributes:
        edges: of the code that were reached.
        seconds: of wall time.
        peak_mb: the process's memory at its highest.
        findings: files with inputs that failed, and how to repeat each.
    """

    target: str
    inputs: int
    edges: int
    seconds: float
    peak_mb: int
    findings: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="names in tests/fuzz/targets.py; all by default")
    parser.add_argument("--runs", type=int, default=4000, help="inputs of each target")
    parser.add_argument("--seconds", type=int, default=600, help="most time of each target")
    parser.add_argument("--input-seconds", type=int, default=10, help="most time of one input")
    parser.add_argument("--memory-mb", type=int, default=768, help="most memory of the process; it starts with 80")
    parser.add_argument("--seed", type=int, default=1, help="another one tries other inputs")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="corpus, logs, findings, report.json")
    parser.add_argument("--input", type=Path, help="only this input, without atheris: to repeat a finding")
    given = parser.parse_args()
    if given.input is not None:
        _target(given.targets[0])(given.input.read_bytes())
        return
    if "PYTHONHASHSEED" not in os.environ:  # the order of sets decides which branch comes first
        os.execve(sys.executable, [sys.executable, "-m", "tests.fuzz.run", *sys.argv[1:]], {**os.environ, **_FIXED})
    names = _instrumented(given.targets)
    outcomes = [_run(name, given) for name in names]
    (given.out / "report.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=2))
    print(table(outcomes))
    sys.exit(any(one.findings for one in outcomes))


def table(outcomes: list[Outcome]) -> str:
    """For people."""
    total = Outcome(
        f"{len(outcomes)} targets",
        sum(one.inputs for one in outcomes),
        sum(one.edges for one in outcomes),
        sum(one.seconds for one in outcomes),
        max(one.peak_mb for one in outcomes),
        sum((one.findings for one in outcomes), ()),
    )
    lines = [f"{'target':16}{'inputs':>9}{'edges':>8}{'seconds':>9}{'peak MB':>9}{'findings':>10}"]
    for one in (*outcomes, total):
        figures = f"{one.inputs:>9,}{one.edges:>8,}{one.seconds:>9.1f}{one.peak_mb:>9,}{len(one.findings):>10}"
        lines.append(f"{one.target:16}{figures}")
    return "\n".join([*lines, *(f"finding; repeat it with: {finding}" for finding in total.findings)])


def _target(name: str) -> Target:
    from tests.fuzz.planted import PLANTED
    from tests.fuzz.targets import TARGETS

    return (TARGETS | PLANTED)[name]


def _instrumented(names: list[str]) -> list[str]:
    """Import everything such that atheris sees its branches; the names of the targets to run."""
    import atheris

    with (
        redirect_stderr(StringIO()),  # it names every module
        atheris.instrument_imports(include=INSTRUMENTED),
    ):
        from tests.fuzz.planted import PLANTED
        from tests.fuzz.targets import TARGETS
    logging.disable()
    unknown = [name for name in names if name not in TARGETS | PLANTED]
    if unknown:
        sys.exit(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    return names or list(TARGETS)


def _run(name: str, given: argparse.Namespace) -> Outcome:
    from tests.fuzz.corpus import seeds

    for folder in ("corpus", "seeds"):
        (given.out / folder / name).mkdir(parents=True, exist_ok=True)
    (given.out / "findings").mkdir(exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (given.out / "seeds" / name / f"{number:02}").write_bytes(seed)
    log = given.out / f"{name}.log"
    log.unlink(missing_ok=True)
    before, start = _found(name, given.out), time.monotonic()
    peaks = [_apart(partial(step, name, given), log) for step in (_fuzz, _stretch)]
    seconds = time.monotonic() - start
    text = log.read_text(errors="replace")
    edges = [int(one) for one in re.findall(r"cov: (\d+)", text)]
    executed = re.findall(r"stat::number_of_executed_units: (\d+)|^#(\d+)\t", text, re.MULTILINE)
    inputs = max((int(a or b) for a, b in executed), default=0) + len(re.findall("^stretched", text, re.MULTILINE))
    new = sorted(_found(name, given.out) - before)
    found = tuple(f"python -m tests.fuzz.run {name} --input {file}" for file in new)
    if not found and any(status for status, _ in peaks):
        found = (f"cat {log}",)  # it broke off without an input to blame
    return Outcome(name, inputs, max(edges, default=0), seconds, max(peak for _, peak in peaks), found)


def _found(name: str, out: Path) -> set[Path]:
    return set((out / "findings").glob(f"{name}-*"))


def _apart(work: Callable[[], None], log: Path) -> tuple[int, int]:
    """`work` in a forked process that writes to `log`: its status, 0 where all is well, and its peak memory in MB."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        try:
            work()
        except SystemExit:
            raise  # of atheris, after an exception: libFuzzer writes the input down when the process ends
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_maxrss // 1024


def _fuzz(name: str, given: argparse.Namespace) -> None:
    import atheris

    from tests.fuzz.json_mutator import changed
    from tests.fuzz.targets import IS_JSON

    options = {
        "runs": given.runs,
        "max_total_time": given.seconds,
        "seed": given.seed,
        "timeout": given.input_seconds,
        "rss_limit_mb": given.memory_mb,
        "max_len": MAX_LENGTH,
        "print_final_stats": 1,
        "reload": 0,  # of the corpus goes by time
        "artifact_prefix": f"{given.out}/findings/{name}-",
    }
    arguments = [name, *(f"-{option}={value}" for option, value in options.items())]
    folders = [str(given.out / "corpus" / name), str(given.out / "seeds" / name)]

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return changed(data, max_size, seed, atheris.Mutate)

    more = {"custom_mutator": mutator} if name in IS_JSON else {}
    atheris.Setup([*arguments, *folders], _target(name), **more)
    atheris.Fuzz()


def _stretch(name: str, given: argparse.Namespace) -> None:
    files = sorted((given.out / "corpus" / name).iterdir()) or sorted((given.out / "seeds" / name).iterdir())
    current = given.out / "findings" / f"{name}-stretched"
    if current.exists():
        sys.exit(f"{current} of an earlier run is still there: mend what it shows, and remove it")
    resource.setrlimit(resource.RLIMIT_AS, (4096 * 2**20,) * 2)
    for file in files[:: max(1, len(files) // STRETCHED)]:
        data = file.read_bytes()
        data = (data * (STRETCHED_LENGTH // max(1, len(data)) + 1))[:STRETCHED_LENGTH]
        current.write_bytes(data)
        print(f"stretched {file.name}", flush=True)
        signal.alarm(given.input_seconds)  # ends the process
        _target(name)(data)
        signal.alarm(0)
    current.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
