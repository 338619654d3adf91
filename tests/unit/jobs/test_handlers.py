"""Declaring kinds, finding them, and running them without a queue."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from shared.jobs import HandlerSpec, Interrupted, JobContext, load_handlers
from shared.jobs.diagnostics import HANDLERS as DIAGNOSTICS
from shared.jobs.handlers import UnknownKind, default_modules, find_spec
from shared.jobs.problems import ResultInvalid
from shared.jobs.testing import run_inline
from shared.jobs.worker import main, pools_of
from shared.problems import Unprocessable
from shared.settings import ConfigurationError


class Rows(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rows: int
    name: str = "all"


def nothing(job: JobContext) -> None:
    """Return without a word."""


def spec(run: Any = nothing, **options: Any) -> HandlerSpec:
    """A kind."""
    return HandlerSpec(**{"run": run, "pool": "test", "parameters": Rows, "scope": "sql", **options})


def test_parameters_are_completed_and_faults_named() -> None:
    assert spec().validate({"rows": 3}) == {"rows": 3, "name": "all"}
    with pytest.raises(Unprocessable) as refused:
        spec().validate({"rows": "many", "colour": "red"})
    assert {field.location for field in refused.value.errors} == {
        "body.parameters.rows",
        "body.parameters.colour",
    }
    assert "many" not in refused.value.detail


@pytest.mark.parametrize(
    "options", [{"pool": "No Spaces"}, {"timeout_s": 0}, {"max_attempts": 0}, {"memory_limit_bytes": -1}]
)
def test_a_spec_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        spec(**options)


def test_unknown_kinds_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownKind, match=r"diagnostics\.cpu, diagnostics\.sleep"):
        find_spec(DIAGNOSTICS, "diagnostics.fly")


def test_diagnostics_are_always_there_and_only_for_admin() -> None:
    assert "shared.jobs.diagnostics" in default_modules()
    handlers = load_handlers(["shared.jobs.diagnostics"])
    assert {spec.scope for spec in handlers.values()} == {"admin"}
    assert pools_of(handlers) == {"diagnostics": ["diagnostics.cpu", "diagnostics.sleep"]}


def test_every_declared_kind_of_the_suite_can_be_loaded() -> None:
    for kind, found in load_handlers().items():
        assert callable(found.function()), kind


def test_modules_that_declare_nothing_or_twice_are_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, double = ModuleType("jobs_empty"), ModuleType("jobs_double")
    double.HANDLERS = {"diagnostics.cpu": spec()}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobs_empty", empty)
    monkeypatch.setitem(sys.modules, "jobs_double", double)
    with pytest.raises(ConfigurationError, match="has no HANDLERS"):
        load_handlers(["jobs_empty"])
    with pytest.raises(ConfigurationError, match="declared twice"):
        load_handlers(["shared.jobs.diagnostics", "jobs_double"])
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        load_handlers(["jobs_that_do_not_exist"])


def test_the_worker_command_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("LATTICEWORK_PRINCIPAL_SECRET", "s" * 40)
    monkeypatch.setenv("LATTICEWORK_JOBS_MODULES", '["shared.jobs.diagnostics"]')
    monkeypatch.setenv("LATTICEWORK_HOME", str(tmp_path))
    main(["--list"])
    assert capsys.readouterr().out == "diagnostics: diagnostics.cpu, diagnostics.sleep\n"
    with pytest.raises(SystemExit) as left:
        main(["--pool", "dreams"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "worker: There is no pool 'dreams'; there are: diagnostics.\n"


def test_a_handler_runs_inline_and_resumes() -> None:
    parameters = {"steps": 3, "step_seconds": 0.001}
    cut = run_inline(DIAGNOSTICS["diagnostics.cpu"], parameters, interrupt_after=2)
    assert cut.result is None
    assert len(cut.checkpoints) == 2
    rest = run_inline(DIAGNOSTICS["diagnostics.cpu"], parameters, checkpoint=cut.checkpoints[-1])
    assert rest.result is not None
    assert rest.result["steps"] == 3
    assert len(rest.checkpoints) == 1
    assert [report[1] for report in cut.reports + rest.reports] == ["step 1", "step 2", "step 3"]
    assert rest.reports[-1][0] == 1.0


def test_sleep_reports_and_obeys() -> None:
    slept = run_inline(DIAGNOSTICS["diagnostics.sleep"], {"seconds": 0.15})
    assert slept.result is not None
    assert slept.result["slept_s"] >= 0.15
    assert len(slept.reports) >= 2
    assert run_inline(DIAGNOSTICS["diagnostics.sleep"], {"seconds": 60}, interrupt_after=0).result is None


def test_coroutines_addresses_and_no_result() -> None:
    async def double(job: JobContext) -> dict[str, Any]:
        return {"rows": 2 * job.parameters["rows"]}

    assert run_inline(spec(double), {"rows": 4}).result == {"rows": 8}
    assert run_inline(spec(), {"rows": 4}).result == {}
    assert run_inline(spec(f"{__name__}:nothing"), {"rows": 4}).result == {}


@pytest.mark.parametrize("result", [[1], {"x": object()}, {"x": "y" * (2 << 20)}])
def test_results_that_cannot_be_kept(result: Any) -> None:
    with pytest.raises(ResultInvalid):
        run_inline(spec(lambda job: result), {"rows": 1})


def test_large_checkpoints_go_to_the_artifacts_and_come_back() -> None:
    def keep(job: JobContext) -> dict[str, Any]:
        job.checkpoint({"weights": [0.5] * 50_000})
        assert job.artifacts.exists(job._line.checkpoints[-1]["artifact"])  # type: ignore[attr-defined]
        return {"first": job.restore()}

    run = run_inline(spec(keep), {"rows": 1})
    assert set(run.checkpoints[0]) == {"artifact", "size"}
    assert run.result == {"first": None}, "restore gives what an earlier attempt saved"


def test_a_stop_passes_through_careless_handlers() -> None:
    def careless(job: JobContext) -> dict[str, Any]:
        try:
            job.checkpoint({})
        except Exception:
            return {"swallowed": True}
        return {}

    assert run_inline(spec(careless), {"rows": 1}, interrupt_after=1).result is None
    assert not issubclass(Interrupted, Exception)


def test_a_job_chats_as_its_principal() -> None:
    def chat(job: JobContext) -> dict[str, Any]:
        return {"model": job.llm.model, "other": job.chat(model="small").model}

    assert run_inline(spec(chat), {"rows": 1}).result == {"model": "default", "other": "small"}
