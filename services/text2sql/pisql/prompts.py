"""The prompt roles of section 5, in our own words, in a full and a short style.

A prompt is a pure function of what the stage knows. Everything taken from the data or from the user
stands between << >> delimiters, which the text of the data cannot contain (`schema_text.escaped`),
and the system message says that nothing inside them is an instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.text2sql.pisql import prompt_texts as texts
from services.text2sql.pisql import rendering, schema_text
from services.text2sql.pisql.chat import Message
from services.text2sql.pisql.configuration import DataForm, ModelProfile, PromptStyle
from services.text2sql.pisql.objects import (
    Example,
    Match,
    PivotProgram,
    ProgramStyle,
    Question,
    ResultTable,
    SchemaView,
    SqlCandidate,
    Strategy,
    ValueHit,
)
from services.text2sql.pisql.program_text import step_lines
from services.text2sql.pisql.sql_text import UnknownName


def _system(text: str) -> Message:
    return Message("system", f"{text}\n{texts.DATA_RULE}")


def _data(name: str, text: str) -> str:
    return f"{name}:\n<<\n{text}\n>>\n" if text else ""


def _question(question: Question) -> str:
    text = _data("Question", schema_text.escaped(question.text, 2_000))
    return text + _data("Hint", schema_text.escaped(question.evidence, 2_000))


def _schema(schema: SchemaView, profile: ModelProfile) -> str:
    if profile.style is PromptStyle.SHORT:
        return schema_text.one_line(schema)
    whole = schema_text.ddl(schema)
    room = profile.context_tokens * profile.characters_per_token / 2
    if len(whole) <= room:
        return whole
    return schema_text.compact(schema, samples=1)[: int(room)]


def _examples(examples: Iterable[Example]) -> str:
    lines = []
    for example in examples:
        mark = " (written for an older schema)" if example.stale else ""
        question = schema_text.escaped(example.question, 300)
        lines.append(f"Q: {question}{mark}\nSQL: {schema_text.escaped(example.sql, 1_000)}")
    return "\n".join(lines)


def keyword_finder(question: Question) -> tuple[Message, ...]:
    """Phrases of the question with their kind, as JSON."""
    return (
        _system(
            "You pick the phrases of a database question that must be looked up. Answer with a JSON list of "
            '{"phrase": text, "kind": "value" | "entity" | "metric" | "time"} and nothing else.'
        ),
        Message("user", _question(question)),
    )


def linker(
    question: Question, schema: SchemaView, hits: Iterable[ValueHit], profile: ModelProfile
) -> tuple[Message, ...]:
    """Tables and columns the question needs, and whether it can be answered, as JSON."""
    return (
        _system(
            "You choose the part of a database schema that a question needs. Answer with one JSON object: "
            '{"tables": [names], "columns": ["table.column"], "reasons": {"table": why}, '
            '"answerability": "answerable" | "ambiguous" | "unanswerable"}.'
        ),
        Message(
            "user",
            _data("Schema", _schema(schema, profile))
            + _data("Stored values that look alike", schema_text.values(hits))
            + _question(question),
        ),
    )


def refuser(question: Question, schema: SchemaView, profile: ModelProfile) -> tuple[Message, ...]:
    """Whether the schema can answer the question, and what to ask back, as JSON."""
    return (
        _system(
            "You decide whether a question can be answered from this schema alone. "
            "Answer with one JSON object: "
            '{"answerability": "answerable" | "ambiguous" | "unanswerable", "reason": text, '
            '"choices": [up to three precise readings, when ambiguous]}.'
        ),
        Message("user", _data("Schema", _schema(schema, profile)) + _question(question)),
    )


def programmer(
    question: Question,
    schema: SchemaView,
    hits: Sequence[ValueHit],
    examples: Sequence[Example],
    style: ProgramStyle,
    form: DataForm,
    profile: ModelProfile,
) -> tuple[Message, ...]:
    """A pivot program in one of the two styles."""
    if profile.style is PromptStyle.SHORT:
        return _short_programmer(question, schema, hits, style)
    data_form, extra = texts.FORMS[form]
    if style is ProgramStyle.COMMENT:
        manner = (
            "Lead every step with a comment that states its intent, the columns used, "
            "the literal values chosen "
            "and the shape of its result, so that the comments alone would let a colleague redo the work."
        )
        worked = texts.WORKED_COMMENT
    else:
        manner = (
            "Cut the work into small numbered blocks, one relational step each: load, filter, join, group, "
            "aggregate, sort, limit, project."
        )
        worked = texts.WORKED_CODE
    if form is DataForm.FRAMES:
        worked = texts.WORKED_FRAME
    return (
        _system(
            f"You answer database questions with a Python program.\n"
            f"{texts.CONTRACT.format(form=data_form, extra=extra)}\n"
            f"{manner}\n{texts.DIFFERENCES}\nAnswer with one ```python block."
        ),
        Message(
            "user",
            f"An example for another database (total of paid orders by country, largest first):\n"
            f"```python\n{worked}\n```\n"
            + _data("Schema", _schema(schema, profile))
            + _data("Stored values that look alike", schema_text.values(hits))
            + _data("Approved pairs of this house", _examples(examples))
            + _question(question),
        ),
    )


def _short_question(question: Question, schema: SchemaView, hits: Sequence[ValueHit]) -> str:
    seen = schema_text.values(hits[:6])
    asked = schema_text.escaped(question.text, 600)
    hint = schema_text.escaped(question.evidence, 300)
    return (
        f"Tables:\n{schema_text.one_line(schema)}\n"
        + (f"Values:\n{seen}\n" if seen else "")
        + (f"Hint: {hint}\n" if hint else "")
        + f"Question: {asked}"
    )


def _short_program_turns(
    question: Question, schema: SchemaView, hits: Sequence[ValueHit], style: ProgramStyle
) -> list[Message]:
    """Worked questions, each with its program and then its SQL, and the question itself.

    What translates a program goes on from here, so that an engine that keeps its last prompts reads only
    what is new.
    """
    turns = [Message("system", "Answer with a Python function over the tables, then with one SQL query.")]
    for shot in texts.SHORT_SHOTS:
        program = shot.comment_program if style is ProgramStyle.COMMENT else shot.code_program
        turns.append(Message("user", f"Tables:\n{shot.tables}\nQuestion: {shot.question}"))
        turns.append(Message("assistant", f"```python\n{program}\n```"))
        turns.append(Message("user", "SQL"))
        turns.append(Message("assistant", f"```sql\n{shot.sql}\n```"))
    turns.append(Message("user", _short_question(question, schema, hits)))
    return turns


def _short_programmer(
    question: Question, schema: SchemaView, hits: Sequence[ValueHit], style: ProgramStyle
) -> tuple[Message, ...]:
    return tuple(_short_program_turns(question, schema, hits, style))


def _short_program_fixer(
    program: str,
    findings: str,
    question: Question,
    schema: SchemaView,
    hits: Sequence[ValueHit],
    style: ProgramStyle,
) -> tuple[Message, ...]:
    turns = _short_program_turns(question, schema, hits, style)
    turns.append(Message("assistant", f"```python\n{rendering.opened(program)}\n```"))
    turns.append(Message("user", f"That is wrong: {schema_text.escaped(findings, 300)}\nWrite it again."))
    return tuple(turns)


def program_fixer(
    program: str,
    findings: str,
    question: Question,
    schema: SchemaView,
    hits: Sequence[ValueHit],
    style: ProgramStyle,
    form: DataForm,
    profile: ModelProfile,
) -> tuple[Message, ...]:
    """A program that breaks the contract or failed, with what went wrong."""
    if profile.style is PromptStyle.SHORT:
        return _short_program_fixer(program, findings, question, schema, hits, style)
    data_form, extra = texts.FORMS[form]
    contract = texts.CONTRACT.format(form=data_form, extra=extra)
    return (
        _system(
            f"You mend a Python program. Change only what is wrong.\n{contract}\n{texts.DIFFERENCES}\n"
            "Answer with one ```python block."
        ),
        Message(
            "user",
            _data("Schema", _schema(schema, profile))
            + _question(question)
            + f"Program:\n```python\n{program}\n```\n"
            + _data("What is wrong", schema_text.escaped(findings, 1_500)),
        ),
    )


def sql_writer(
    question: Question,
    schema: SchemaView,
    hits: Sequence[ValueHit],
    examples: Sequence[Example],
    strategy: Strategy,
    program: PivotProgram | None,
    profile: ModelProfile,
) -> tuple[Message, ...]:
    """One SQL statement by one strategy; `direct` sees no program."""
    if profile.style is PromptStyle.SHORT:
        return _short_sql_writer(question, schema, hits, examples, strategy, program)
    dialect = texts.DIALECTS.get(schema.dialect, schema.dialect)
    task = [f"You write one read-only {dialect} SELECT statement. Answer with one ```sql block."]
    guidance = ""
    if strategy is Strategy.DIRECT or program is None:
        task.append("Return exactly the columns the question asks for, in its order.")
    elif strategy is Strategy.FOLLOW_COMMENTS:
        task.append(
            "Follow the plan's steps; choose the SQL form freely. Return the plan's columns in its order."
        )
        guidance = _data(
            "Plan", "\n".join(schema_text.escaped(line, 600) for line in step_lines(program.steps))
        )
    else:
        task.append(
            "Translate the program block by block into clauses (or CTEs). "
            "Same rows, same columns, same order."
        )
        guidance = f"Program:\n```python\n{program.source}\n```\n"
    if strategy is Strategy.EFFICIENT:
        task.append(texts.EFFICIENT_RULES)
    known = ""
    if strategy is Strategy.DIRECT:
        known = _data("Stored values that look alike", schema_text.values(hits)) + _data(
            "Approved pairs of this house", _examples(examples)
        )
    return (
        _system("\n".join(task)),
        Message("user", _data("Schema", _schema(schema, profile)) + known + _question(question) + guidance),
    )


def _short_sql_writer(
    question: Question,
    schema: SchemaView,
    hits: Sequence[ValueHit],
    examples: Sequence[Example],
    strategy: Strategy,
    program: PivotProgram | None,
) -> tuple[Message, ...]:
    if program is not None and strategy in (Strategy.FOLLOW_CODE, Strategy.EFFICIENT):
        turns = _short_program_turns(question, schema, hits, program.style)
        turns.append(Message("assistant", f"```python\n{rendering.opened(program.source)}\n```"))
        turns.append(Message("user", "SQL" if strategy is Strategy.FOLLOW_CODE else "Fast SQL"))
        return tuple(turns)
    turns = [Message("system", "Answer with one SQL query.")]
    for shot in texts.SHORT_SHOTS:
        turns.append(Message("user", f"Tables:\n{shot.tables}\nQuestion: {shot.question}"))
        turns.append(Message("assistant", f"```sql\n{shot.sql}\n```"))
    user = _short_question(question, schema, hits)
    if program is not None and strategy is Strategy.FOLLOW_COMMENTS:
        user += "\nSteps:\n" + "\n".join(step_lines(program.steps))
    elif examples:
        pairs = "".join(f"Question: {item.question}\nSQL: {item.sql}\n" for item in examples[:2])
        user = pairs + user
    turns.append(Message("user", user))
    return tuple(turns)


def sql_error_fixer(
    candidate: SqlCandidate,
    unknown: Sequence[UnknownName],
    question: Question,
    schema: SchemaView,
    profile: ModelProfile,
) -> tuple[Message, ...]:
    """A statement the engine refused, with the engine's message and closest names."""
    dialect = texts.DIALECTS.get(schema.dialect, schema.dialect)
    hints = "\n".join(str(item) for item in unknown)
    return (
        _system(f"You mend one {dialect} SELECT statement. Answer with one ```sql block."),
        Message(
            "user",
            _data("Schema", _schema(schema, profile))
            + _question(question)
            + f"SQL:\n```sql\n{candidate.sql or candidate.raw_sql}\n```\n"
            + _data("The engine says", schema_text.escaped(candidate.error, 600))
            + _data("Names", hints),
        ),
    )


_MISMATCH = {
    Match.SHAPE: "the number of columns differs",
    Match.ROWS: "the number of rows differs",
    Match.ORDER: "the rows are right but their order is not",
    Match.VALUES: "the rows differ in their values",
}


def sql_mismatch_fixer(
    candidate: SqlCandidate,
    reference: PivotProgram,
    wanted: ResultTable,
    question: Question,
    schema: SchemaView,
    hits: Sequence[ValueHit],
    profile: ModelProfile,
) -> tuple[Message, ...]:
    """A statement whose rows differ from the reference program's, with both result heads."""
    if profile.style is PromptStyle.SHORT:
        turns = _short_program_turns(question, schema, hits, reference.style)
        turns.append(Message("assistant", f"```python\n{rendering.opened(reference.source)}\n```"))
        turns.append(Message("user", "SQL"))
        turns.append(Message("assistant", f"```sql\n{candidate.sql}\n```"))
        differs = _MISMATCH.get(candidate.match, "the results differ")
        turns.append(Message("user", f"That is not what the function gives: {differs}. SQL"))
        return tuple(turns)
    dialect = texts.DIALECTS.get(schema.dialect, schema.dialect)
    return (
        _system(
            f"A {dialect} statement and a plan for the same question disagree. "
            "Say on the first line which step the "
            "SQL departs from, as `step n`, then answer with one ```sql block that follows the plan."
        ),
        Message(
            "user",
            _data("Schema", _schema(schema, profile))
            + _question(question)
            + _data("Plan", "\n".join(schema_text.escaped(line, 600) for line in step_lines(reference.steps)))
            + f"SQL:\n```sql\n{candidate.sql}\n```\n"
            + _data("Difference", _MISMATCH.get(candidate.match, "the results differ"))
            + _data("Result of the plan", schema_text.result_head(wanted))
            + _data("Result of the SQL", schema_text.result_head(candidate.result)),
        ),
    )


def explainer(
    question: Question, sql: str, steps: Sequence[str], columns: Sequence[str]
) -> tuple[Message, ...]:
    """A short plain explanation that may hold no number of its own."""
    return (
        _system(
            "Explain in at most three plain sentences how the answer was computed. "
            "Use no number that is not in the "
            "SQL or the steps."
        ),
        Message(
            "user",
            _question(question)
            + f"SQL:\n```sql\n{sql}\n```\n"
            + _data("Steps", "\n".join(schema_text.escaped(step, 600) for step in steps))
            + _data("Columns", ", ".join(schema_text.escaped(column, 60) for column in columns)),
        ),
    )


def retry(messages: Sequence[Message], reply: str, format_error: str) -> tuple[Message, ...]:
    """The same conversation with the reply and only its format error appended."""
    return (*messages, Message("assistant", reply[:4_000]), Message("user", format_error))
