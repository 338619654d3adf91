"""The error codes of Pi-SQL and the exceptions that ports raise.

Codes travel on answers and warnings; exceptions stop at the stage that called the port. Only what
makes a question unanswerable before any work is done (S0) leaves the pipeline as an exception.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Every code an answer, a warning or a refusal may carry."""

    UNKNOWN_DATABASE = "unknown_database"
    ACCESS_DENIED = "access_denied"
    QUESTION_INVALID = "question_invalid"
    UNANSWERABLE = "unanswerable"
    AMBIGUOUS = "ambiguous"
    SCHEMA_TOO_LARGE = "schema_too_large"
    LLM_UNAVAILABLE = "llm_unavailable"
    LLM_BAD_OUTPUT = "llm_bad_output"
    PROGRAM_ERROR = "program_error"
    PROGRAM_TIMEOUT = "program_timeout"
    PROGRAM_DENIED = "program_denied"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    SQL_REJECTED = "sql_rejected"
    SQL_ERROR = "sql_error"
    SQL_TIMEOUT = "sql_timeout"
    RESULT_TOO_LARGE = "result_too_large"
    NO_MATCH = "no_match"
    BUDGET_EXHAUSTED = "budget_exhausted"


class PiSqlError(Exception):
    """Base of what the pipeline and its ports raise; `code` tells which rule was broken."""

    code: ErrorCode = ErrorCode.QUESTION_INVALID


class QuestionInvalidError(PiSqlError):
    """The question is empty or too long."""

    code = ErrorCode.QUESTION_INVALID


class UnknownDatabaseError(PiSqlError):
    """No such database, or it has no table the caller may see."""

    code = ErrorCode.UNKNOWN_DATABASE


class AccessDeniedError(PiSqlError):
    """The caller may not ask this database."""

    code = ErrorCode.ACCESS_DENIED


class ModelUnavailableError(PiSqlError):
    """The chat model could not be reached, or refused for lack of budget."""

    code = ErrorCode.LLM_UNAVAILABLE


class ReplyMissingError(ModelUnavailableError):
    """A replay was asked for a reply that was never recorded."""


class BadOutputError(PiSqlError):
    """A reply does not keep its output contract; the message is what a retry quotes."""

    code = ErrorCode.LLM_BAD_OUTPUT


class SandboxUnavailableError(PiSqlError):
    """No sandbox can be used: programs must not run at all."""

    code = ErrorCode.SANDBOX_UNAVAILABLE


class SqlRejectedError(PiSqlError):
    """The safety gate refused the statement."""

    code = ErrorCode.SQL_REJECTED


class SqlFailedError(PiSqlError):
    """The engine refused or failed to run the statement; the message is the engine's."""

    code = ErrorCode.SQL_ERROR


class SqlTimeoutError(SqlFailedError):
    """The statement passed its deadline."""

    code = ErrorCode.SQL_TIMEOUT


class TableTooBigError(PiSqlError):
    """A table, after narrowing, is too large to be handed to a program."""

    code = ErrorCode.RESULT_TOO_LARGE
