"""`text2mask models`, `text2mask download`: what models there are, and the weights on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from deployments.cli.complaints import aside, console, readable_errors
from deployments.cli.service import Key, Server, connected
from pipeline.models.registry import CHECKPOINTS, EMBEDDED, EMBEDDED_NAME, find


def models(
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a list of objects.")] = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """List the models that have a name, and whether their weights are here; or what a service offers."""
    with readable_errors():
        if server is None:
            rows = list(_known())
            table = Table("name", "part", "weights", "licence")
            for row in rows:
                lacking = f"not here; text2mask download {row['name']}"
                table.add_row(row["name"], row["part"], row["weights"] or lacking, row["licence"])
        else:
            with connected(server, key) as client:
                rows = client.models()
            table = Table("name", "also called", "licences")
            for row in rows:
                parts = (row.get(part, {}).get("licence", "unknown") for part in ("detector", "segmenter"))
                table.add_row(row["name"], ", ".join(row.get("aliases", ())), ", ".join(dict.fromkeys(parts)))
        if as_json:
            print(json.dumps(rows, ensure_ascii=False))
        else:
            console.print(table)


def download(
    model: Annotated[str, typer.Argument(help="swint, swinb, vit_b, vit_l, vit_h, or a pair such as swint+vit_b.")],
) -> None:
    """Fetch official weights: with progress, resumed after a break, verified against the published hash."""
    with readable_errors():
        from pipeline.models.download import download as fetch

        for path in fetch(model, console=aside):
            console.print(str(path), soft_wrap=True, highlight=False)


def _known() -> Iterator[dict[str, Any]]:
    for kind, folder in EMBEDDED.items():
        yield {"name": EMBEDDED_NAME, "part": kind, "weights": str(folder), "licence": "Apache-2.0"}
    for known in CHECKPOINTS.values():
        path = find(known)
        where = None if path is None else str(path)
        yield {"name": known.name, "part": known.kind, "weights": where, "licence": known.licence}
