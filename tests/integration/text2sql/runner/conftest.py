"""The same small database on every engine: `people` may be read, `secret` may not."""

import contextlib
import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.text2sql.runner import DatabaseTarget

SCHEMA = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name VARCHAR(50), city VARCHAR(50));
INSERT INTO people VALUES (1, 'Ada', 'London'), (2, 'Bob', 'Paris'), (3, 'Cleo', NULL);
CREATE TABLE secret (id INTEGER PRIMARY KEY, code VARCHAR(50));
INSERT INTO secret VALUES (1, 'CLASSIFIED-7');
"""
CANARY = "CANARY-OF-THE-FILE-SYSTEM"
SECRET = "CLASSIFIED-7"


@dataclass(frozen=True)
class Engine:
    """A target, and `state`: everything in the database that a statement could have changed."""

    target: DatabaseTarget
    state: Callable[[], object]
    hides_secret: bool

    @property
    def dialect(self) -> str:
        return self.target.dialect


def statements() -> list[str]:
    return [text.strip() for text in SCHEMA.split(";") if text.strip()]


@pytest.fixture(scope="module")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    file = tmp_path_factory.mktemp("sqlite") / "test database.sqlite"
    connection = sqlite3.connect(file)
    connection.executescript(SCHEMA)
    connection.close()
    target = DatabaseTarget.from_url(f"sqlite:///{file}")
    return Engine(target, lambda: (file.read_bytes(), _names(file.parent)), hides_secret=True)


@pytest.fixture(scope="module")
def duckdb_engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    import duckdb

    file = tmp_path_factory.mktemp("duckdb") / "test.duckdb"
    connection = duckdb.connect(str(file))
    for statement in statements():
        connection.execute(statement)
    connection.close()
    target = DatabaseTarget.from_url(f"duckdb:///{file}")
    return Engine(target, lambda: (file.read_bytes(), _names(file.parent)), hides_secret=False)


@pytest.fixture(scope="module")
def postgres_engine(postgres_server: str) -> Iterator[Engine]:
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        owner.execute("CREATE DATABASE runner")
    url = postgres_server.replace("/postgres?", "/runner?")
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(SCHEMA)
        owner.execute("CREATE SEQUENCE s")
        owner.execute("CREATE ROLE reader LOGIN")
        owner.execute("GRANT SELECT ON people TO reader")
        owner.execute("GRANT USAGE ON SEQUENCE s TO reader")

    def state() -> object:
        with psycopg.connect(url, autocommit=True) as owner:
            return [
                owner.execute(query).fetchall()
                for query in (
                    "SELECT * FROM people ORDER BY id",
                    "SELECT * FROM secret ORDER BY id",
                    "SELECT last_value, is_called FROM s",
                    "SELECT oid, relname, relkind FROM pg_class ORDER BY oid",
                    "SELECT oid, proname FROM pg_proc ORDER BY oid",
                    "SELECT rolname, rolsuper, rolconfig FROM pg_roles ORDER BY rolname",
                    "SELECT extname FROM pg_extension ORDER BY extname",
                    "SELECT datname FROM pg_database ORDER BY datname",
                    "SELECT count(*) FROM pg_largeobject_metadata",
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
                )
            ]

    target = DatabaseTarget.from_url(url.replace("postgres:@", "reader:@"))
    yield Engine(target, state, hides_secret=True)
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        owner.execute("DROP DATABASE runner WITH (FORCE)")
        owner.execute("DROP ROLE reader")


@pytest.fixture(scope="module")
def mysql_engine() -> Iterator[Engine]:
    """A private MariaDB server, where the package is installed."""
    server, install = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
    if server is None or install is None:
        pytest.skip("no MariaDB server is installed (Debian: mariadb-server)")
    folder = Path(tempfile.mkdtemp(prefix="mariadb-"))
    user = pwd.getpwuid(os.getuid()).pw_name
    if user == "root":
        user = "nobody"
        shutil.chown(folder, user)
    data, socket = folder / "data", folder / "socket"
    base = [f"--datadir={data}", f"--user={user}"]
    subprocess.run(
        [install, "--no-defaults", *base, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True,
        capture_output=True,
    )
    process = subprocess.Popen(
        [
            server,
            "--no-defaults",
            *base,
            f"--socket={socket}",
            "--skip-networking",
            f"--pid-file={folder}/pid",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        owner = _connect_mysql(str(socket), process)
        with owner.cursor() as cursor:
            cursor.execute("CREATE DATABASE runner")
            cursor.execute("USE runner")
            for statement in statements():
                cursor.execute(statement)
            cursor.execute("CREATE USER reader@localhost IDENTIFIED BY 'a p@ss'")
            cursor.execute("GRANT SELECT ON runner.people TO reader@localhost")
        owner.commit()

        def state() -> object:
            found = []
            with owner.cursor() as cursor:
                for query in (
                    "SELECT * FROM runner.people ORDER BY id",
                    "SELECT * FROM runner.secret ORDER BY id",
                    "SELECT table_schema, table_name FROM information_schema.tables ORDER BY 1, 2",
                    "SELECT user, host FROM mysql.user ORDER BY 1, 2",
                    "SELECT @@GLOBAL.general_log",
                ):
                    cursor.execute(query)
                    found.append(cursor.fetchall())
            owner.commit()
            return found

        url = f"mysql://reader:a%20p%40ss@localhost/runner?unix_socket={socket}"
        yield Engine(DatabaseTarget.from_url(url), state, hides_secret=True)
        owner.close()
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _connect_mysql(socket: str, process: "subprocess.Popen[bytes]") -> Any:
    import pymysql

    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(pymysql.MySQLError):
            return pymysql.connect(unix_socket=socket, user="root")
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail("the MariaDB server did not start")
        time.sleep(0.1)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mysql", "duckdb"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine in turn."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found
