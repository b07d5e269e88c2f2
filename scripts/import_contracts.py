"""Which outside modules may a package import? A contract for import-linter: the named ones; a new one is a question.

(`forbidden`, its own contract, names what is not allowed; whatever nobody thought of is allowed by it.)
"""

from __future__ import annotations

import re
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyTheseContract(Contract):  # type: ignore[misc]  # their fields are descriptors
    """`modules` and what is below them import nothing from outside the house but `allowed` (top-level names)."""

    type_name = "only_these"

    modules = fields.ListField(subfield=fields.StringField())
    allowed = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        house = {re.split(r"\W", root)[0] for root in self.session_options["root_packages"]}
        named: list[Any] = list(self.modules)
        unknown = [module for module in named if module not in graph.modules]
        strange: list[str] = []
        for importer in sorted(graph.modules):
            if not any(importer == module or importer.startswith(f"{module}.") for module in named):
                continue
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                top = imported.partition(".")[0]
                if top not in house and top not in self.allowed:
                    where = graph.get_import_details(importer=importer, imported=imported)
                    lines = ", ".join(str(detail["line_number"]) for detail in where)
                    strange.append(f"{importer} imports {imported} (line {lines})")
        return ContractCheck(kept=not strange and not unknown, metadata={"strange": strange, "unknown": unknown})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for module in check.metadata["unknown"]:
            output.print_error(f"{module} is named by this contract and is not there")
        for line in check.metadata["strange"]:
            output.print_error(line)
