"""What can go wrong in text2sql, as problems."""

from __future__ import annotations

from services.text2sql.pisql.errors import PiSqlError
from shared.problems import Conflict, NotFound, Problem, ServiceUnavailable, Unprocessable


class DatabaseNotFound(NotFound):
    code, title = "unknown_database", "There is no such database, or you may not use it"


class QuestionNotFound(NotFound):
    code, title = "unknown_question", "There is no such question"


class ExampleNotFound(NotFound):
    code, title = "unknown_example", "There is no such example"


class EvaluationNotFound(NotFound):
    code, title = "unknown_evaluation", "There is no such evaluation"


class NameTaken(Conflict):
    code, title = "name_taken", "A database of this name exists"


class NotReady(Conflict):
    code, title = "database_not_ready", "The database has not been read yet"


class NoRows(Conflict):
    code, title = "no_rows", "The question has no result rows"


class QuestionInvalid(Unprocessable):
    code, title = "question_invalid", "The question cannot be asked"


class SqlRefused(Unprocessable):
    code, title = "sql_rejected", "The SQL was refused"


class FileUnreadable(Unprocessable):
    code, title = "file_unreadable", "The file is not a readable table or database"


class DatabaseUnreachable(Unprocessable):
    code, title = "database_unreachable", "The database cannot be reached"


class SandboxMissing(ServiceUnavailable):
    code, title = "sandbox_unavailable", "No sandbox can be used on this machine"


def from_pisql(error: PiSqlError) -> Problem:
    """The problem for an error that leaves the pipeline."""
    problem = QuestionInvalid(str(error))
    problem.instance_code = str(error.code)
    return problem
