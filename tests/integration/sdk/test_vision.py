"""`client.vision` and its commands against the real vision service, with a scripted model behind it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import latticework
from latticework import AsyncClient, Client
from latticework.cli import _images, app
from services.vision.app import create_app
from tests.integration.sdk.server import serving
from tests.integration.vision.conftest import token, vision_settings
from tests.integration.vision.servers import ScriptedVisionModel


def picture(kind: str = "PNG", frames: int = 1) -> bytes:
    image = Image.effect_noise((640, 480), 40).convert("RGB")
    out = io.BytesIO()
    if frames > 1:
        turned = [image.rotate(90 * turn) for turn in range(1, frames)]
        image.save(out, kind, save_all=True, append_images=turned)
    else:
        image.save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def model() -> ScriptedVisionModel:
    return ScriptedVisionModel()


@pytest.fixture(scope="module")
def address(model: ScriptedVisionModel) -> Iterator[str]:
    with serving(model.app) as gateway:
        settings = vision_settings(vision_model="scripted", gateway_url=gateway, vision_workers=1)
        with serving(create_app(settings), lifespan="on") as url:
            yield url


@pytest.fixture
def eyes(address: str, model: ScriptedVisionModel) -> Iterator[Client]:
    model.reset()
    with Client(address, token()) as client:
        yield client


def test_dots_are_drawn_and_lead_back(eyes: Client, tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    source.write_bytes(picture())
    answer = eyes.vision.scaffold(
        source, rows=3, cols=4, output={"format": "png"}, prompt={"question": "Where is the mug?"}
    )
    assert Image.open(io.BytesIO(answer.image)).size == answer.working_size == (640, 480)
    assert (answer.matrix.rows, answer.matrix.cols, len(answer.dots)) == (3, 4, 12)
    assert answer.prompt is not None
    assert "Where is the mug?" in answer.prompt.user
    assert answer.save(tmp_path / "out.png").read_bytes() == answer.image

    dot = answer.dots[5]
    words = f"The mug is near {dot.label}. [[there]]"
    found = eyes.vision.resolve(
        words, rows=3, cols=4, size=answer.working_size, transform=answer.transform, points=[(dot.x, dot.y)]
    )
    assert found.answer == "there"
    assert (found.mentions[0].row, found.mentions[0].col) == (dot.row, dot.col)
    assert found.mentions[0].x_original == pytest.approx(dot.x_original, abs=1)
    assert found.points[0].label == dot.label


def test_the_quick_way_gives_the_same_pixels(eyes: Client) -> None:
    image = picture()
    drawn = eyes.vision.scaffold(image, output={"format": "png"})
    quick = eyes.vision.render(image, format="png")
    assert quick.media_type == "image/png"
    assert quick.data == drawn.image
    assert quick.facts["working_size"] == [640, 480]


def test_sequences_frames_crops_and_words(eyes: Client) -> None:
    pair = eyes.vision.sequence([picture(), picture("JPEG")], rows=2, cols=2)
    assert [answer.t for answer in pair.images] == [1, 2]
    frames = eyes.vision.scaffold_frames(picture("GIF", frames=3))
    assert [answer.t for answer in frames.images] == [1, 2, 3]
    crop = eyes.vision.crop(picture(), center=(3, 3), radius=1, mark="none", output={"format": "png"})
    assert Image.open(io.BytesIO(crop.image)).size == crop.working_size
    prompt = eyes.vision.prompt("What is it?", mode="scaffold")
    assert prompt.messages[-1]["role"] == "user"
    assert eyes.vision.capabilities().model == "scripted"


def test_problems_name_the_option(eyes: Client) -> None:
    with pytest.raises(latticework.BadRequest) as caught:
        eyes.vision.scaffold(picture(), rows=27)
    assert caught.value.code == "invalid_options"
    assert caught.value.errors[0].location == "options.rows"
    with pytest.raises(latticework.UnsupportedMediaType):
        eyes.vision.scaffold(b"<svg/>")


def test_look_is_told_as_it_happens(eyes: Client, model: ScriptedVisionModel) -> None:
    model.script = lambda messages: "It is at (2,3). [[a red mug]]"
    events = list(eyes.vision.look(picture(), "What is there?"))
    assert [event.type for event in events[:-1]] == ["phase"] * (len(events) - 1)
    assert [event.data["status"] for event in events[:2]] == ["started", "finished"]
    answer = events[-1].answer
    assert answer is not None
    assert answer.answer == "a red mug"
    assert len(answer.phases) == len(events) - 1
    assert eyes.vision.ask(picture(), "What is there?", strategy="answer").answer == "a red mug"


def test_failure_in_the_middle_of_a_look(eyes: Client, model: ScriptedVisionModel) -> None:
    model.failure = (402, {"error": {"message": "The budget is spent.", "code": "budget_exceeded"}})
    with eyes.vision.look(picture(), "What is there?") as events:
        assert next(events).data["status"] == "started"
        with pytest.raises(latticework.BudgetExceeded):
            next(events)


async def test_async_client_is_the_same(address: str, model: ScriptedVisionModel) -> None:
    model.reset()
    model.script = lambda messages: "[[yes]]"
    async with AsyncClient(address, token()) as client:
        answer = await client.vision.scaffold(picture(), rows=2, cols=2)
        assert len(answer.dots) == 4
        events = [event async for event in client.vision.look(picture(), "Is it?", strategy="answer")]
        assert events[-1].answer is not None
        assert events[-1].answer.answer == "yes"


def test_commands(
    address: str, model: ScriptedVisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.reset()
    model.script = lambda messages: "It is at (2,3). [[a red mug]]"
    monkeypatch.setenv("LATTICEWORK_URL", address)
    monkeypatch.setenv("LATTICEWORK_KEY", token())
    photo, out = tmp_path / "photo.jpg", tmp_path / "out.png"
    photo.write_bytes(picture("JPEG"))
    runner = CliRunner()

    result = runner.invoke(app, ["scaffold", str(photo), "-o", str(out), "-q", "Where is it?"])
    assert result.exit_code == 0
    assert "640 x 480, 6 x 6 dots" in result.stdout
    assert "Where is it?" in result.stdout
    assert Image.open(out).format == "PNG"

    data = json.loads(runner.invoke(app, ["scaffold", str(photo), "-o", str(out), "--json"]).stdout)
    assert data["output"] == str(out)
    assert "image_b64" not in data

    refused = runner.invoke(app, ["scaffold", str(photo)])
    assert (refused.exit_code, "give a file with -o" in refused.stderr) == (2, True)
    assert runner.invoke(app, ["scaffold", str(photo), "-o", "x.bmp"]).exit_code == 2
    assert runner.invoke(app, ["scaffold", str(tmp_path / "none.jpg"), "-o", str(out)]).exit_code == 2

    monkeypatch.setattr(_images, "detect", lambda: _images.Protocol.kitty)
    shown = runner.invoke(app, ["scaffold", str(photo)]).stdout
    assert shown[:13] == "\x1b_Ga=T,f=100,"

    looked = runner.invoke(app, ["look", str(photo), "What is it?"])
    assert (looked.exit_code, looked.stdout) == (0, "a red mug\n")
    assert "locate" in looked.stderr
    assert "[[a red mug]]" in looked.stderr
    model.script = lambda messages: "At (2,3): [[/etc and [bold]]]"
    odd = runner.invoke(app, ["look", str(photo), "What is it?"])
    assert (odd.exit_code, "[[/etc and [bold]]]" in odd.stderr) == (0, True)
    model.script = lambda messages: "It is at (2,3). [[a red mug]]"
    pointed = runner.invoke(app, ["look", str(photo), "What is it?", "--strategy", "coarse_to_fine"])
    assert pointed.stdout.splitlines()[1].startswith("at pixel (")
    lines = runner.invoke(app, ["look", str(photo), "What is it?", "--json"]).stdout.splitlines()
    assert json.loads(lines[-1])["event"] == "answer"
