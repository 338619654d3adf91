"""Where an evaluation runs: databases with their catalogues and value indices, the sandbox, the ports.

Everything a question needs is built once per database and kept; the sandbox is shared by all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from services.text2sql.adapters import Database, GatedEngine, SandboxedPrograms
from services.text2sql.evaluation.datasets import Dataset, examples_for
from services.text2sql.introspection import catalogue, value_index
from services.text2sql.pisql.chat import ChatModel
from services.text2sql.pisql.pipeline import Knowledge
from services.text2sql.pisql.ports import Event, Ports, SqlEngine
from services.text2sql.pisql.stages.s1_catalogue import Semantics
from services.text2sql.runner import DatabaseTarget
from shared.sandbox import Sandbox


class Environment:
    """Databases of a data set, ready to be asked. Use as a context manager.

    `knowledge` gives catalogues that exist already; the others are read on first use.
    """

    def __init__(
        self,
        dataset: Dataset,
        sandbox: Sandbox | None = None,
        *,
        examples: bool = False,
        knowledge: Mapping[str, Knowledge] | None = None,
    ) -> None:
        self.dataset = dataset
        self._examples = examples
        self._own = sandbox is None
        self.sandbox = sandbox if sandbox is not None else Sandbox()
        self._knowledge: dict[str, Knowledge] = dict(knowledge or {})
        self._targets = {name: DatabaseTarget.from_url(url) for name, url in dataset.databases.items()}

    def __enter__(self) -> Environment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own:
            self.sandbox.close()

    def target(self, database: str) -> DatabaseTarget:
        """The target of a database."""
        return self._targets[database]

    def knowledge(self, database: str) -> Knowledge:
        """Catalogue, value index and (when switched on) examples of a database."""
        known = self._knowledge.get(database)
        if known is None:
            url = self.dataset.databases[database]
            semantics = self.dataset.semantics.get(database, Semantics())
            schema = catalogue(database, url, semantics)
            pairs = examples_for(self.dataset, database) if self._examples else ()
            known = Knowledge(schema, value_index(url, schema), pairs)
            self._knowledge[database] = known
        return known

    @contextmanager
    def open(self, database: str) -> Iterator[Database]:
        """A caller's database with every table granted."""
        known = [table.name for table in self.knowledge(database).schema.tables]
        with Database(self._targets[database], known, known=known) as opened:
            yield opened

    @contextmanager
    def ports(
        self,
        database: str,
        chat: ChatModel,
        *,
        emit: Callable[[Event], None] = lambda _event: None,
        wrap_engine: Callable[[SqlEngine], SqlEngine] = lambda engine: engine,
    ) -> Iterator[Ports]:
        """The ports of one question."""
        with self.open(database) as opened:
            yield Ports(
                chat=chat,
                programs=SandboxedPrograms(self.sandbox, opened),
                engine=wrap_engine(GatedEngine(opened)),
                emit=emit,
            )
