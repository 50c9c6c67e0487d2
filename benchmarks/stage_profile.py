"""Where each stage's CPU time goes: `python -m benchmarks.stage_profile`. ViT-H takes 4 GB and a minute.

Ours, float32, one thread, kept memory, weights drawn at random. For each stage:

- FLOP of its matrix products and convolutions (2 a multiplication). Not counted: softmax, norms, activations, sums,
  copies, and the look-ups of deformable attention.
- The arithmetic floor: those FLOP at the rate of oneDNN's best float32 product on this core, measured in the same run.
- CPU-seconds, the median of the rounds; then the shares of each kind of operator, of one more pass that times them one
  by one. An operator's time holds that of its call, some microseconds, which tells in the tiny model alone.

Writes `benchmarks/results/stage_profile.json` and the picture `docs/images/stage-time.svg`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import stage_picture, stage_works

RESULTS = Path("benchmarks/results/stage_profile.json")
PICTURE = Path("docs/images/stage-time.svg")
KINDS = (
    "linear layers",
    "convolutions",
    "attention products",
    "softmax",
    "deformable sampling",
    "norms",
    "activations",
    "sums and copies",
)
_BY_NAME = {
    "addmm": "linear layers",
    "_linear_pointwise": "linear layers",
    "convolution": "convolutions",
    "bmm": "attention products",
    "baddbmm": "attention products",
    "_softmax": "softmax",
    "embedding_bag": "deformable sampling",
    "_embedding_bag_forward_only": "deformable sampling",
    "native_layer_norm": "norms",
    "native_group_norm": "norms",
    "gelu": "activations",
    "relu": "activations",
    "relu_": "activations",
    "sigmoid": "activations",
}


class Operators(TorchDispatchMode):
    """CPU-seconds and FLOP of all operators, by kind."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.flop = 0
        self.sampling = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        begin = time.thread_time()
        made = func(*args, **kwargs)
        spent = time.thread_time() - begin
        self.seconds["deformable sampling" if self.sampling else self._kind(func, args)] += spent
        self.flop += _flop(func, args, kwargs, made)
        return made

    def _kind(self, func: Any, args: Any) -> str:
        name = func._overloadpacket.__name__
        if name == "mm" or (name == "_linear_pointwise" and args[2] is None):
            weights = [one for one in args[:2] if isinstance(one, torch.nn.Parameter) or _is_view_of_parameter(one)]
            return "linear layers" if weights else "attention products"
        return _BY_NAME.get(name, "sums and copies")


def _is_view_of_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor._base, torch.nn.Parameter)


def _flop(func: Any, args: Any, kwargs: Any, made: Any) -> int:
    packet = func._overloadpacket
    if packet is torch.ops.mkldnn._linear_pointwise:
        return 2 * int(args[0].numel()) * int(args[1].shape[0])
    return int(flop_registry[packet](*args, **kwargs, out_val=made)) if packet in flop_registry else 0


def peak() -> float:
    """FLOP a second of this core: the best of oneDNN's float32 products of a few large sizes."""
    from pipeline.models import onednn

    best = 0.0
    for rows, inner, columns in ((4096, 768, 3072), (4096, 1024, 1024), (2048, 2048, 2048)):
        x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
        for _ in range(12):
            begin = time.thread_time()
            onednn.linear(x, weight)
            best = max(best, 2 * rows * inner * columns / (time.thread_time() - begin))
    return best


def measured(run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """CPU-seconds of each round; of one more pass those of each kind of operator, and FLOP."""
    seconds = []
    for number in range(rounds + (rounds > 1)):  # the first warms up, where there are others
        begin = time.thread_time()
        run()
        if number or rounds == 1:
            seconds.append(time.thread_time() - begin)
    operators = Operators()
    with stage_works.marked_sampling(operators), operators:
        run()
    return {"seconds": seconds, "flop": operators.flop, "kinds": operators.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="*", choices=stage_works.SIZES, default=[], help="sizes to leave out")
    parser.add_argument("--draw", action="store_true", help="only draw the picture of the last results")
    arguments = parser.parse_args()
    if not arguments.draw:
        warnings.filterwarnings("ignore")
        stage_works.settle()
        best, stages = peak(), []
        with torch.inference_mode():
            for size, stage, seconds_long, run in stage_works.works(set(arguments.without)):
                found = measured(run, 1 if seconds_long else arguments.rounds)
                stages.append({"size": size, "stage": stage} | found)
                print(row(stages[-1], best), flush=True)
            host = {name: measured(run, 20)["seconds"] for name, run in stage_works.host().items()}
        machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
        results = {"machine": machine, "peak_flop_a_second": best, "stages": stages, "host_seconds": host}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(RESULTS.read_text())
    best = results["peak_flop_a_second"]
    print(f"\npeak {best / 1e9:.0f} GFLOP/s a core\n\n{header()}")
    print("\n".join(row(one, best) for one in results["stages"]))
    for name, times in results["host_seconds"].items():
        print(f"{name}: {1e3 * median(times):.2f} ms")
    PICTURE.write_text(stage_picture.svg(results["stages"], best, KINDS))


def header() -> str:
    columns = ["", "GFLOP", "floor, ms", "measured, ms", "ratio", *KINDS]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def row(one: dict[str, Any], best: float) -> str:
    seconds = median(one["seconds"])
    floor, total = one["flop"] / best, sum(one["kinds"].values())
    cells = [f"{one['size']}, {one['stage']}", f"{one['flop'] / 1e9:.3g}", f"{1e3 * floor:.3g}", f"{1e3 * seconds:.3g}"]
    cells += [f"{seconds / floor:.1f}", *(f"{100 * value / total:.0f} %" for value in one["kinds"].values())]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
