"""The pipeline: S0 to S12 in order, with early exit, extra sampling and the SQL-only fallback.

It wires stages and decides nothing they could decide. Given the same question, catalogue,
configuration, model replies and port answers it returns the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.text2sql.pisql.budget import BudgetMeter
from services.text2sql.pisql.configuration import Configuration, Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import ModelUnavailableError
from services.text2sql.pisql.evidence import direct_results
from services.text2sql.pisql.objects import (
    Answer,
    Example,
    Match,
    PivotProgram,
    ProgramStyle,
    Question,
    Reference,
    SchemaView,
    SqlCandidate,
    Strategy,
    ValueHit,
    to_plain,
)
from services.text2sql.pisql.ports import Ports
from services.text2sql.pisql.readings import readings
from services.text2sql.pisql.results import results_equal
from services.text2sql.pisql.stages import (
    s0_admit,
    s2_values,
    s3_linking,
    s4_examples,
    s5_programs,
    s6_running,
    s7_reference,
    s8_candidates,
    s9_checking,
    s10_repair,
    s11_selection,
    s12_answer,
)
from services.text2sql.pisql.stages.s2_values import ValueIndex
from services.text2sql.pisql.stages.s5_programs import Briefing
from services.text2sql.pisql.stages.s8_candidates import Assignment


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of a database beforehand: its catalogue, its value index, approved pairs."""

    schema: SchemaView
    values: ValueIndex | None = None
    examples: Sequence[Example] = ()


class _Run:
    """One question on its way through the stages."""

    def __init__(self, knowledge: Knowledge, configuration: Configuration, ports: Ports) -> None:
        self._knowledge = knowledge
        self._settings = configuration
        self._ports = ports
        self._context = StageContext(configuration, ports, BudgetMeter(configuration.budget, ports.clock))
        self._programs: list[PivotProgram] = []
        self._candidates: list[SqlCandidate] = []
        self._done: set[tuple[str, str]] = set()

    async def answer(self, question: Question) -> Answer:
        context, schema = self._context, self._knowledge.schema
        question = s0_admit.admit(question, schema, self._settings)
        context.question_id = question.id
        context.emit("admitted", question=question.text, tables=len(schema.tables))
        with context.timed("values"):
            hits = await self._values(question)
        context.emit("values", hits=to_plain(hits))
        with context.timed("admit"):
            refusal = await s0_admit.refusal(question, schema, hits, context)
        if refusal is not None:
            context.emit("refused", code=refusal.code, reason=refusal.reason)
            return s12_answer.refused(question, schema, refusal, context)
        with context.timed("linking"):
            view = await s3_linking.link(question, schema, hits, context)
        context.emit(
            "linked",
            pruned=view.pruned,
            tables=[table.name for table in view.tables],
            reasons=dict(view.reasons),
        )
        with context.timed("examples"):
            examples = s4_examples.retrieve(
                question, view, self._knowledge.examples, hits, self._settings.examples
            )
        self._warn_of_stale(examples)
        found = readings(view, hits, question.text) if self._is_held() else ()
        return await self._solve(Briefing(question, view, hits, examples, found))

    def _is_held(self) -> bool:
        """Whether any writer is held to a grammar."""
        writers = (Role.PROGRAMMER, Role.PROGRAM_FIXER, Role.SQL_WRITER, Role.SQL_FIXER)
        return any(map(self._settings.is_held, writers))

    def _warn_of_stale(self, examples: Sequence[Example]) -> None:
        if any(example.stale for example in examples):
            self._context.notice("stale_example", "an example was approved for an older schema")

    async def _values(self, question: Question) -> tuple[ValueHit, ...]:
        if not self._settings.values.enabled:
            return ()
        index = self._knowledge.values
        if index is None:
            self._context.notice("no_value_index", "values are not indexed yet; samples are used")
            return ()
        phrases = await s2_values.keywords(question, self._context)
        where = (phrases, index, self._knowledge.schema, self._settings.values)
        if self._ports.similarity is not None:
            try:
                return await s2_values.retrieve_by_meaning(*where, self._ports.similarity)
            except ModelUnavailableError as error:
                self._context.notice("no_embeddings", f"values are compared by spelling only: {error}")
        return s2_values.retrieve(*where)

    async def _solve(self, briefing: Briefing) -> Answer:
        if self._settings.exits_early() and await self._early(briefing):
            reference, doubted = s7_reference.choose(self._programs), False
        else:
            await self._sample(briefing)
            reference = await self._refer(briefing)
            await self._write(
                s8_candidates.plan(self._programs, reference, self._settings), briefing, reference
            )
            reference, doubted = await self._mend(briefing, await self._revote(briefing, reference))
        contested = None
        if reference is not None and self._settings.is_held(Role.PROGRAMMER):
            with self._context.timed("checking"):
                contested = await s9_checking.is_contested(briefing.readings, reference, self._context)
        with self._context.timed("selection"):
            choice, self._candidates = await s11_selection.select(
                self._candidates,
                reference,
                self._programs,
                self._context,
                doubted=doubted,
                contested=contested,
            )
        self._context.emit(
            "selected",
            candidate=choice.candidate.id if choice.candidate else "",
            verdict=choice.verdict,
            times_ms={item.id: item.best_ms for item in self._candidates if item.best_ms is not None},
        )
        answer = await s12_answer.build(
            briefing.question,
            briefing.schema,
            reference,
            self._programs,
            self._candidates,
            choice,
            self._context,
        )
        self._context.emit("answered", verdict=answer.verdict, sql=answer.sql)
        return answer

    async def _program_round(
        self, briefing: Briefing, wanted: Sequence[tuple[ProgramStyle, int]], share: Share
    ) -> None:
        with self._context.timed("programs"):
            written = await s5_programs.write_round(briefing, wanted, self._context, share)
        for program in written:
            self._context.emit(
                "program",
                id=program.id,
                style=program.style,
                source=program.source,
                steps=to_plain(program.steps),
            )
        with self._context.timed("sandbox"):
            ran = await s6_running.run_all(written, self._context)
        with self._context.timed("repair"):
            ran = await s10_repair.repair_programs(ran, briefing, self._context)
        for program in ran:
            self._context.emit(
                "sandbox",
                id=program.id,
                status=program.status,
                rows=program.result.row_count if program.result else None,
                wall_ms=program.wall_ms,
                error=to_plain(program.error),
            )
        self._programs.extend(ran)

    async def _early(self, briefing: Briefing) -> bool:
        """One program a style; when they agree and each one's SQL gives their result, stop sampling."""
        await self._program_round(briefing, [(style, 0) for style in self._settings.styles], Share.PROGRAMS)
        reference = s7_reference.choose(self._programs)
        agreed = (
            reference is not None
            and len(reference.members) == len(self._settings.styles) >= 2
            and not any(program.repairs for program in self._programs)
        )
        if reference is None or not agreed or not self._settings.reference_check:
            return False
        followers = [Assignment(Strategy.FOLLOW_CODE, program) for program in self._programs]
        await self._write(followers, briefing, reference)
        voters = sum(item.votes for item in self._candidates if item.match is Match.MATCH)
        if voters < len(followers):
            return False
        if Strategy.EFFICIENT in self._settings.writers():
            await self._write([Assignment(Strategy.EFFICIENT, reference.program)], briefing, reference)
        self._context.emit("early_exit", support=reference.support)
        return True

    async def _sample(self, briefing: Briefing) -> None:
        have = {(program.style, program.sample) for program in self._programs}
        wanted = [
            (style, sample)
            for sample in range(self._settings.samples())
            for style in self._settings.styles
            if (style, sample) not in have and not (self._settings.exits_early() and sample == 0)
        ]
        if wanted:
            await self._program_round(briefing, wanted, Share.PROGRAMS)

    async def _refer(self, briefing: Briefing) -> Reference | None:
        """The reference, after extra rounds while its support is low and the repairs' share lasts."""
        reference = s7_reference.choose(self._programs)
        rounds = 0 if self._settings.is_held(Role.PROGRAMMER) else self._settings.extra_rounds
        for extra in range(rounds):
            if reference is not None and reference.support >= self._settings.least_support:
                break
            if not self._programs or not self._settings.execute_programs or self._ports.programs is None:
                break
            sample = self._settings.samples_per_style + extra
            left = self._context.meter.calls_left(Share.REPAIRS)
            wanted = [(style, sample) for style in self._settings.styles][:left]
            if not wanted:
                break
            await self._program_round(briefing, wanted, Share.REPAIRS)
            reference = s7_reference.choose(self._programs)
        if not self._settings.reference_check:
            return reference
        if reference is not None:
            self._emit_reference(reference)
        return reference

    def _emit_reference(self, reference: Reference) -> None:
        self._context.emit(
            "reference",
            program=reference.program.id,
            support=reference.support,
            members=reference.members,
            rows=reference.result.row_count,
        )

    async def _write(
        self, plan: Sequence[Assignment], briefing: Briefing, reference: Reference | None
    ) -> None:
        """Write, gate, run and check the assignments that were not written yet."""
        fresh = [item for item in plan if item.key not in self._done or not item.program]
        room = self._context.meter.calls_left(Share.SQL)
        fresh = fresh[:room]
        self._done |= {item.key for item in fresh}
        first = len(self._candidates) + 1 + sum(len(c.also_from) for c in self._candidates)
        with self._context.timed("sql"):
            written = await s8_candidates.write_round(briefing, fresh, first, self._context)
            known = {item.id for item in self._candidates}
            merged = s8_candidates.without_duplicates([*self._candidates, *written], briefing.schema)
        with self._context.timed("checking"):
            self._candidates = [
                item if item.id in known else await self._checked(item, briefing, reference)
                for item in merged
            ]

    async def _checked(
        self, candidate: SqlCandidate, briefing: Briefing, reference: Reference | None
    ) -> SqlCandidate:
        ran = await s9_checking.execute(candidate, briefing.schema, self._context)
        checked = await s9_checking.check(ran, reference, briefing.schema, self._context)
        self._emit_candidate(checked)
        return checked

    def _emit_candidate(self, candidate: SqlCandidate) -> None:
        s9_checking.report(candidate, self._context)
        self._context.emit(
            "candidate",
            id=candidate.id,
            strategy=candidate.strategy,
            program=candidate.program_id,
            sql=candidate.sql or candidate.raw_sql,
            match=candidate.match,
            error=candidate.error,
            elapsed_ms=candidate.elapsed_ms,
            repairs=len(candidate.repairs),
        )

    async def _revote(self, briefing: Briefing, reference: Reference | None) -> Reference | None:
        """The reference once SQL that follows no program has voted.

        Not of a model held to a grammar: its own choices would only outvote what the words say.
        """
        if reference is None or not self._settings.reference_check or self._settings.is_held(Role.SQL_WRITER):
            return reference
        again = s7_reference.choose(self._programs, direct_results(self._candidates))
        if again is None or results_equal(again.result, reference.result):
            return reference
        await self._refer_to(again, briefing)
        return again

    async def _refer_to(self, reference: Reference, briefing: Briefing) -> None:
        """Check all candidates against another reference than before."""
        self._emit_reference(reference)
        self._candidates = [
            await s9_checking.check(item, reference, briefing.schema, self._context)
            for item in self._candidates
        ]
        for item in self._candidates:
            self._emit_candidate(item)

    async def _mend(self, briefing: Briefing, reference: Reference | None) -> tuple[Reference | None, bool]:
        """Counter-check the reference, then repair candidates against what stands."""
        doubted = False
        with self._context.timed("repair"):
            if reference is not None and self._settings.reference_check:
                mended, doubted = await s10_repair.counter_check(
                    self._candidates, reference, self._programs, briefing, self._context
                )
                if mended is not None:
                    self._programs = [mended if item.id == mended.id else item for item in self._programs]
                    previous, reference = reference, await self._revote(briefing, reference)
                    doubted = reference is previous
                    if not doubted:
                        self._context.notice(
                            "reference_replaced", "the reference program was mended after SQL outvoted it"
                        )
            before = {item.id: item for item in self._candidates}
            self._candidates = await s10_repair.repair_all(
                self._candidates, briefing, reference, self._programs, self._context, doubted=doubted
            )
            for item in self._candidates:
                if item != before.get(item.id):
                    self._emit_candidate(item)
        if reference is not None:
            s10_repair.note_unmatched(self._candidates, self._context)
        if doubted:
            self._context.notice(
                "reference_doubted",
                "most SQL gives other rows than the reference program, which stood by its own",
            )
        return reference, doubted


async def answer(
    question: Question, knowledge: Knowledge, configuration: Configuration, ports: Ports
) -> Answer:
    """Answer one question.

    Raises `QuestionInvalidError` and `UnknownDatabaseError`; everything later ends in a verdict.
    """
    return await _Run(knowledge, configuration, ports).answer(question)
