"""Everything of Pi-SQL that can be set: budgets, profiles, model profiles, ablation switches.

Defaults are the paper specification's. `Configuration.for_profile` gives the three named profiles;
an ablation is a configuration that differs from a profile in one switch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from services.text2sql.pisql.objects import ProgramStyle, Strategy

NEVER = 2.0
"""A share that nothing reaches: switches the counter-check off."""


class Profile(StrEnum):
    """Named amounts of effort."""

    DIRECT = "direct"
    FAST = "fast"
    STANDARD = "standard"
    THOROUGH = "thorough"


class Role(StrEnum):
    """The prompt roles of section 5; each may use its own model alias."""

    KEYWORDS = "keywords"
    LINKER = "linker"
    PROGRAMMER = "programmer"
    PROGRAM_FIXER = "program_fixer"
    SQL_WRITER = "sql_writer"
    SQL_FIXER = "sql_fixer"
    EXPLAINER = "explainer"
    REFUSER = "refuser"


class Share(StrEnum):
    """The parts a question's call budget is divided into."""

    ADMIT = "admit"
    LINK = "link"
    PROGRAMS = "programs"
    SQL = "sql"
    REPAIRS = "repairs"


class PromptStyle(StrEnum):
    """`FULL` for capable models; `SHORT` for small ones with little context."""

    FULL = "full"
    SHORT = "short"


class DataForm(StrEnum):
    """What `db.table` yields: a list of dicts, or a pandas frame with nullable types."""

    ROWS = "rows"
    FRAMES = "frames"


class Answerability(StrEnum):
    """How S0 decides that a question cannot be answered from the schema."""

    OFF = "off"
    LEXICAL = "lexical"
    MODEL = "model"
    BOTH = "both"


class Selection(StrEnum):
    """How S11 picks among matching candidates: by measured time, or the first that matches."""

    TIMED = "timed"
    FIRST = "first"


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits per question. Tokens are counted by the model, or estimated when it does not count."""

    calls: Mapping[Share, int] = field(
        default_factory=lambda: {
            Share.ADMIT: 2,
            Share.LINK: 1,
            Share.PROGRAMS: 4,
            Share.SQL: 9,
            Share.REPAIRS: 8,
        }
    )
    prompt_tokens: int = 120_000
    completion_tokens: int = 12_000
    wall_seconds: float = 90.0
    sandbox_cpu_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What a stage must know of the model behind an alias."""

    context_tokens: int = 32_768
    style: PromptStyle = PromptStyle.FULL
    characters_per_token: float = 3.5
    grammar: bool = False
    completion_tokens: int = 1_500

    @classmethod
    def small(cls) -> Self:
        """The embedded model: short prompts, output held to a grammar."""
        return cls(
            context_tokens=4_096,
            style=PromptStyle.SHORT,
            characters_per_token=3.0,
            grammar=True,
            completion_tokens=320,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one program run and of one statement."""

    program_cpu_seconds: float = 5.0
    program_wall_seconds: float = 10.0
    program_memory_mib: int = 256
    frame_memory_mib: int = 2_048
    result_rows: int = 10_000
    result_bytes: int = 1_048_576
    table_rows: int = 200_000
    table_bytes: int = 134_217_728
    sql_seconds: float = 10.0
    question_characters: int = 2_000


@dataclass(frozen=True, slots=True)
class ValueSettings:
    """Value retrieval (S2); the thresholds are CHESS's published defaults."""

    enabled: bool = True
    signature_size: int = 100
    jaccard_threshold: float = 0.01
    edit_threshold: float = 0.3
    embedding_threshold: float = 0.6
    keep_within: float = 0.9
    per_column: int = 5
    total: int = 30
    column_cap: int = 50_000
    longest_value: int = 100


@dataclass(frozen=True, slots=True)
class TimingSettings:
    """Timing of matching candidates (S11). Times are seconds unless the name says otherwise."""

    rounds: int = 7
    total_seconds: float = 5.0
    drop_after_rounds: int = 2
    drop_factor: float = 3.0
    tie_share: float = 0.10
    tie_milliseconds: float = 0.2


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to answer a question. `models` maps a role to a model alias.

    With `independent_evidence` a match counts as `verified` only when at least two readings of the question
    (programs that ran, SQL that follows none) gave the reference's rows, and `verified_share` of all of them;
    SQL that merely translates the program it is compared with leaves the verdict at `majority`. A model held
    to a grammar chooses among few readings and meets itself by chance: of it, every reading left open must
    give the same rows.
    """

    profile: Profile = Profile.STANDARD
    budget: Budget = field(default_factory=Budget)
    limits: Limits = Limits()
    values: ValueSettings = ValueSettings()
    timing: TimingSettings = TimingSettings()
    model: str = "default"
    models: Mapping[Role, str] = field(default_factory=dict)
    model_profiles: Mapping[str, ModelProfile] = field(default_factory=dict)
    seed: int = 0
    answerability: Answerability = Answerability.LEXICAL
    keyword_model: bool = False
    link_tokens: int = 12_000
    link_tables: int = 12
    link_retries: int = 1
    full_schema: bool = False
    examples: int = 3
    styles: tuple[ProgramStyle, ...] = (ProgramStyle.CODE, ProgramStyle.COMMENT)
    samples_per_style: int = 2
    temperatures: tuple[float, ...] = (0.2, 0.8)
    form: DataForm = DataForm.ROWS
    execute_programs: bool = True
    determinism_runs: int = 2
    reference_check: bool = True
    least_support: float = 0.5
    extra_rounds: int = 2
    early_exit: bool = True
    strategies: tuple[Strategy, ...] = (
        Strategy.FOLLOW_CODE,
        Strategy.FOLLOW_COMMENTS,
        Strategy.EFFICIENT,
    )
    other_groups: int = 2
    direct_sql: int = 1
    program_repairs: int = 1
    error_repairs: int = 2
    mismatch_repairs: int = 1
    mismatch_repairs_per_question: int = 4
    counter_check_share: float = 2 / 3
    independent_evidence: bool = True
    verified_share: float = 2 / 3
    selection: Selection = Selection.TIMED
    explain: bool = False
    today: str = "2025-01-01"

    @classmethod
    def for_profile(cls, profile: Profile, **changes: Any) -> Self:
        """The configuration of a named profile, with `changes` applied on top."""
        return cls(**{"profile": profile, **_PROFILE_CHANGES[profile], **changes})

    def with_changes(self, **changes: Any) -> Self:
        """A copy that differs in `changes` (an ablation)."""
        return dataclasses.replace(self, **changes)

    def alias(self, role: Role) -> str:
        """The model alias a role uses."""
        return self.models.get(role, self.model)

    def is_held(self, role: Role) -> bool:
        """Whether the model of a role may only choose among the readings of the question."""
        return self.model_profile(role).grammar

    def exits_early(self) -> bool:
        """Whether two agreeing programs with their SQL end sampling; all of a held model must be heard."""
        return self.early_exit and not self.is_held(Role.PROGRAMMER)

    def writers(self) -> tuple[Strategy, ...]:
        """Strategies worth their calls: of a held model one, since a reading has one SQL text."""
        return self.strategies[:1] if self.is_held(Role.SQL_WRITER) else self.strategies

    def samples(self) -> int:
        """Programs of a style worth their calls: more of a held model would only outvote the words."""
        return min(1, self.samples_per_style) if self.is_held(Role.PROGRAMMER) else self.samples_per_style

    def is_steady(self, style: ProgramStyle | None) -> bool:
        """Whether a writer held to a grammar keeps to what the question's words say.

        The first style does; the others, and SQL that follows no program (`style` None), are the model's
        own choice. Alone, SQL keeps to the words.
        """
        return style == self.styles[0] if self.styles else True

    def model_profile(self, role: Role) -> ModelProfile:
        """The profile of the model a role uses."""
        return self.model_profiles.get(self.alias(role), ModelProfile())


def _calls(admit: int, link: int, programs: int, sql: int, repairs: int) -> dict[Share, int]:
    return {
        Share.ADMIT: admit,
        Share.LINK: link,
        Share.PROGRAMS: programs,
        Share.SQL: sql,
        Share.REPAIRS: repairs,
    }


_PROFILE_CHANGES: dict[Profile, dict[str, Any]] = {
    Profile.DIRECT: {
        "budget": Budget(calls=_calls(2, 1, 0, 1, 2)),
        "styles": (),
        "samples_per_style": 0,
        "execute_programs": False,
        "strategies": (),
        "selection": Selection.FIRST,
    },
    Profile.FAST: {
        "budget": Budget(calls=_calls(2, 1, 1, 2, 3)),
        "styles": (ProgramStyle.COMMENT,),
        "samples_per_style": 1,
        "determinism_runs": 1,
        "extra_rounds": 0,
        "early_exit": False,
        "strategies": (Strategy.FOLLOW_CODE,),
        "mismatch_repairs_per_question": 1,
        "timing": TimingSettings(rounds=3, total_seconds=1.0),
    },
    Profile.STANDARD: {},
    Profile.THOROUGH: {
        "budget": Budget(
            calls=_calls(2, 2, 6, 21, 14),
            prompt_tokens=300_000,
            completion_tokens=40_000,
            wall_seconds=240.0,
            sandbox_cpu_seconds=90.0,
        ),
        "samples_per_style": 3,
        "temperatures": (0.2, 0.8, 1.0),
        "early_exit": False,
        "other_groups": 4,
    },
}
