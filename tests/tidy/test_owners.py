"""Only a table's owner writes it: every writing statement of the source is found and judged.

The grants of PostgreSQL say the same at run time; this says it on a laptop, and names the line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac_common.store import intent, nodes, outbox, placement

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"intent": intent, "nodes": nodes, "outbox": outbox, "placement": placement}
OWNER = {
    table.name: f"evac_{module.OWNER}"
    for module in (intent, nodes, placement)
    for table in module.TABLES
}
SHARED = {table.name for table in outbox.TABLES}
TABLES = OWNER.keys() | SHARED

VERBS = {"insert", "update", "delete"}
RAW = re.compile(
    r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|TRUNCATE(?:\s+TABLE)?)\s+(\w+)", re.IGNORECASE
)

# Where rows of outbox, event and audit are written: by everyone, through these.
SHARED_WRITERS = {"evac_common/store", "evac_common/relay"}
EXEMPT = "evac_common/store/migrations"  # makes the tables and their first rows
EXPIRES_EVENTS = ("evac_api", "event", "delete")


def judge(source: str, where: str) -> list[str]:
    """What is wrong with the writing statements of one file; `where` begins with its package."""
    if where.startswith(EXEMPT):
        return []
    package = where.split("/", maxsplit=1)[0]
    return [
        f"{where}:{line}: {complaint}"
        for line, verb, table in File(ast.parse(source)).statements()
        if (complaint := _complaint(package, where, verb, table))
    ]


def _complaint(package: str, where: str, verb: str, table: str | None) -> str | None:
    if table is None:
        return f"{verb} of something that cannot be told to be a table: write its name there"
    if table in SHARED:
        shared = any(where.startswith(prefix) for prefix in SHARED_WRITERS)
        allowed = shared or (package, table, verb) == EXPIRES_EVENTS
        return None if allowed else f"{verb} of {table}: use Transaction.emit, send or audit"
    owner = OWNER[table]
    return None if package == owner else f"{verb} of {table}, which belongs to {owner}"


class File:
    """The tables that a file knows, under which names, and what it does to them."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._tables: dict[str, str] = {}  # local name → table
        self._modules: dict[str, str] = {}  # local name → module of the store that declares tables
        self._verbs: dict[str, str] = {}  # local name → insert, update, delete
        self._packages: set[str] = set()  # local names of SQLAlchemy itself
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                self._import_from(node.module, node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "sqlalchemy":
                        self._packages.add(alias.asname or "sqlalchemy")
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                self._assign(node)

    def statements(self) -> Iterator[tuple[int, str, str | None]]:
        """Line, verb and table of every writing statement; None: the table cannot be told."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for match in RAW.finditer(node.value):
                    if match[1] in TABLES:
                        yield node.lineno, match[0].split()[0].lower(), match[1]
            elif isinstance(node, ast.Call):
                yield from self._call(node, node.func)

    def _call(self, call: ast.Call, function: ast.expr) -> Iterator[tuple[int, str, str | None]]:
        if isinstance(function, ast.Name) and function.id in self._verbs:
            verb = self._verbs[function.id]
        elif isinstance(function, ast.Attribute) and function.attr in VERBS:
            verb = function.attr
            if (table := self._table_of(function.value)) is not None:
                yield call.lineno, verb, table  # the table's own method
                return
            if not (isinstance(function.value, ast.Name) and function.value.id in self._packages):
                return  # of a dictionary, say
        else:
            return
        table = self._table_of(call.args[0]) if call.args else None
        if table is not None:
            yield call.lineno, verb, table
            return
        # A parameter: it may be any table that the file knows.
        known = self._known()
        for candidate in sorted(known):
            yield call.lineno, verb, candidate
        if not known:
            yield call.lineno, verb, None

    def _known(self) -> set[str]:
        attributes = {
            self._table_of(node) for node in ast.walk(self._tree) if isinstance(node, ast.Attribute)
        }
        return {table for table in attributes | set(self._tables.values()) if table is not None}

    def _table_of(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._tables.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = self._modules.get(node.value.id)
            return _table(module, node.attr) if module else None
        return None

    def _import_from(self, module: str, aliases: list[ast.alias]) -> None:
        declaring = module.removeprefix("evac_common.store.")
        for alias in aliases:
            local = alias.asname or alias.name
            if module == "evac_common.store" and alias.name in MODULES:
                self._modules[local] = alias.name
            elif declaring in MODULES and (table := _table(declaring, alias.name)):
                self._tables[local] = table
            elif module.split(".", maxsplit=1)[0] == "sqlalchemy" and alias.name in VERBS:
                self._verbs[local] = alias.name

    def _assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if isinstance(name, ast.Name) and (table := self._table_of(value)):
                    self._tables[name.id] = table


def _table(module: str, attribute: str) -> str | None:
    name = getattr(getattr(MODULES[module], attribute, None), "name", None)
    return name if name in TABLES else None


def sources() -> list[Path]:
    roots = (ROOT / "common", *sorted((ROOT / "services").iterdir()), ROOT / "lab")
    return [file for root in roots for file in sorted(root.glob("evac_*/**/*.py"))]


def test_tables_are_written_by_their_owners_only() -> None:
    complaints: list[str] = []
    for file in sources():
        where = file.relative_to(ROOT).as_posix()
        where = where[where.index("evac_") :]
        complaints += judge(file.read_text(), where)
    assert not complaints, "\n".join(complaints)


def test_the_search_finds_what_is_there() -> None:
    """An empty result must not come from looking past everything."""
    found = {
        table
        for file in sources()
        for _, _, table in File(ast.parse(file.read_text())).statements()
    }
    assert {"outbox", "event", "audit", "ownership", "node_state", "instance_spec"} <= found


BAD = {
    "a table by name": """
        from sqlalchemy import update
        from evac_common.store.nodes import node_state
        x = update(node_state).values(state="up")
    """,
    "a table of a module": """
        from sqlalchemy import insert
        from evac_common.store import nodes
        x = insert(nodes.proof_node).values(id="x")
    """,
    "under other names": """
        from sqlalchemy import delete as away
        from evac_common.store.nodes import node_state as mine
        x = away(mine)
    """,
    "a dialect's insert": """
        from sqlalchemy.dialects.postgresql import insert
        from evac_common.store.nodes import node_facts
        x = insert(node_facts)
    """,
    "through the package": """
        import sqlalchemy as sa
        from evac_common.store import nodes
        x = sa.update(nodes.cluster_flags)
    """,
    "the table's own method": """
        from evac_common.store import nodes
        x = nodes.node_state.delete()
    """,
    "raw": """
        from sqlalchemy import text
        x = text("update node_state set state = 'up'")
    """,
    "a table in a variable": """
        from sqlalchemy import insert
        def write(table): return insert(table)
    """,
    "a table in a variable, of several that it may be": """
        from sqlalchemy import insert
        from evac_common.store import nodes, placement
        _OWN = placement.ownership
        def write(table): return insert(table)
        write(nodes.node_state)
    """,
    "a table under a name of its own": """
        from sqlalchemy import insert
        from evac_common.store import nodes
        _STATE = nodes.node_state
        x = insert(_STATE)
    """,
    "the outbox, past the transaction": """
        from sqlalchemy import insert
        from evac_common.store.outbox import outbox
        x = insert(outbox)
    """,
    "events, by somebody who does not expire them": """
        from sqlalchemy import delete
        from evac_common.store import outbox
        x = delete(outbox.event)
    """,
}


@pytest.mark.parametrize("source", BAD.values(), ids=BAD.keys())
def test_it_can_fail(source: str) -> None:
    lines = source.strip("\n").splitlines()
    text = "\n".join(line.removeprefix(" " * 8) for line in lines)
    assert len(judge(text, "evac_scheduler/adapters/bad.py")) == 1


def test_it_lets_owners_write() -> None:
    source = "from sqlalchemy import update\nfrom evac_common.store import nodes\n"
    source += "x = update(nodes.node_state)\ny = {}.update(nodes.node_state)\n"
    assert judge(source, "evac_monitor/adapters/good.py") == []
    assert len(judge(source, "evac_lab/simulated/bad.py")) == 1
