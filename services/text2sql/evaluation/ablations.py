"""The configurations an evaluation compares: profiles and the ablations of section 6.3.

Each ablation is the standard profile with one switch turned, so a difference has one cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.text2sql.pisql.configuration import (
    NEVER,
    Configuration,
    DataForm,
    Profile,
    Selection,
    ValueSettings,
)
from services.text2sql.pisql.objects import ProgramStyle

_NO_REPAIR: dict[str, Any] = {
    "program_repairs": 0,
    "error_repairs": 0,
    "mismatch_repairs": 0,
    "counter_check_share": NEVER,
}
_CHANGES: dict[str, tuple[Profile, dict[str, Any]]] = {
    "direct": (Profile.DIRECT, {}),
    "fast": (Profile.FAST, {}),
    "standard": (Profile.STANDARD, {}),
    "thorough": (Profile.THOROUGH, {}),
    "code_only": (Profile.STANDARD, {"styles": (ProgramStyle.CODE,)}),
    "comment_only": (Profile.STANDARD, {"styles": (ProgramStyle.COMMENT,)}),
    "dry_programs": (Profile.STANDARD, {"execute_programs": False, "early_exit": False}),
    "no_reference_check": (Profile.STANDARD, {"reference_check": False, "early_exit": False}),
    "no_timing": (Profile.STANDARD, {"selection": Selection.FIRST}),
    "no_repair": (Profile.STANDARD, _NO_REPAIR),
    "fast_no_repair": (Profile.FAST, _NO_REPAIR),
    "direct_no_repair": (Profile.DIRECT, _NO_REPAIR),
    "no_program_repair": (Profile.STANDARD, {"program_repairs": 0}),
    "no_error_repair": (Profile.STANDARD, {"error_repairs": 0}),
    "no_mismatch_repair": (Profile.STANDARD, {"mismatch_repairs": 0}),
    "no_counter_check": (Profile.STANDARD, {"counter_check_share": NEVER}),
    "lenient_verdict": (Profile.STANDARD, {"independent_evidence": False}),
    "frames": (Profile.STANDARD, {"form": DataForm.FRAMES}),
    "no_values": (Profile.STANDARD, {"values": ValueSettings(enabled=False)}),
    "full_schema": (Profile.STANDARD, {"full_schema": True}),
    "linked_schema": (Profile.STANDARD, {"link_tokens": 0}),
    "no_examples": (Profile.STANDARD, {"examples": 0}),
}

NAMES = tuple(_CHANGES)


def configuration(name: str, **common: Any) -> Configuration:
    """The configuration of a profile or an ablation; raises KeyError for an unknown name.

    `common` sets what all compared configurations share (model, seed, model profiles).
    """
    profile, changes = _CHANGES[name]
    return Configuration.for_profile(profile, **{**common, **changes})


def configurations(names: tuple[str, ...], **common: Any) -> Mapping[str, Configuration]:
    """Several configurations by name, in the order asked for."""
    return {name: configuration(name, **common) for name in names}
