"""`mmdatasets families`: the model families that there are plugins for."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from mmdatasets.plugins.families import FAMILIES, FamilyFacts

_DESCRIPTION = """\
Lists the model families: the plugin's name for get_mm_plugin (and its other names), the models, what they take, and
what plugin.packed_collator takes as attention for them. auto_plugin(processor) picks the plugin by the processor's
class; a class that no plugin is made for gets 'generic', which needs nothing but the processor's own hooks.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "families",
        help="list the model families, with what each takes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array, processor classes included")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command."""
    if args.json:
        console.file.write(json.dumps([asdict(family) for family in FAMILIES], indent=1) + "\n")
        return
    table = Table("plugin", "models", "takes", "packs", box=box.SIMPLE_HEAD, pad_edge=False)
    for family in FAMILIES:
        names = "\n".join([family.name, *(f"  {alias}" for alias in family.aliases)])
        table.add_row(names, family.models, _modalities(family), ", ".join(family.packs) or _unpacked(family))
    console.print(table, soft_wrap=False)


def _modalities(family: FamilyFacts) -> str:
    by_processor = "as the processor" if family.name == "generic" else "text"
    return ", ".join(family.modalities) or by_processor


def _unpacked(family: FamilyFacts) -> str:
    return "by the model" if family.name == "generic" else "no"
