"""Pictures in terminals, byte by byte."""

from __future__ import annotations

import io
import re
from base64 import b64decode

import pytest
from PIL import Image

from latticework.cli._images import KITTY_CHUNK, Protocol, detect, half_blocks, iterm, kitty, show


def picture(width: int = 4, height: int = 4) -> bytes:
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (0, height // 2, width, height))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, Protocol.kitty),
        ({"TERM_PROGRAM": "ghostty"}, Protocol.kitty),
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"}, Protocol.iterm),
        ({"TERM_PROGRAM": "WezTerm"}, Protocol.iterm),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, Protocol.blocks),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/x", "COLORTERM": "truecolor"}, Protocol.blocks),
        ({"TERM": "xterm"}, Protocol.none),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, Protocol.none),
    ],
)
def test_terminal_is_recognised(environ: dict[str, str], protocol: Protocol) -> None:
    assert detect(environ, terminal=True) is protocol
    assert detect(environ, terminal=False) is Protocol.none


@pytest.mark.parametrize("size", [1, 3072, 3073, 20_000])
def test_kitty_chunks_carry_the_whole_picture(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    pieces = list(kitty(data))
    parts = [re.fullmatch("\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\\\", piece) for piece in pieces]
    assert all(part is not None and len(part[2]) <= KITTY_CHUNK for part in parts)
    assert b64decode("".join(part[2] for part in parts if part)) == data
    controls = [part[1] for part in parts if part]
    assert controls[0].startswith("a=T,f=100,")
    assert [control[-3:] for control in controls] == ["m=1"] * (len(controls) - 1) + ["m=0"]
    assert [control.endswith(",m=0") for control in controls[:-1]] == [False] * (len(controls) - 1)


def test_iterm_carries_the_whole_picture() -> None:
    match = re.fullmatch("\x1b]1337;File=inline=1;size=3;[^:]*:(.*)\x07", iterm(b"abc"))
    assert match is not None
    assert b64decode(match[1]) == b"abc"


def test_half_blocks_show_two_pixels_a_cell() -> None:
    lines = list(half_blocks(picture(4, 4), columns=4))
    assert len(lines) == 2
    assert lines[0].count("▀") == 4
    assert "\x1b[38;2;255;0;0m\x1b[48;2;255;0;0m" in lines[0]
    assert "\x1b[38;2;0;0;255m\x1b[48;2;0;0;255m" in lines[1]
    assert all(line.endswith("\x1b[0m\n") for line in lines)


def test_half_blocks_fit_the_terminal() -> None:
    lines = list(half_blocks(picture(1000, 500), columns=40))
    assert {line.count("▀") for line in lines} == {40}
    assert len(lines) == 10


@pytest.mark.parametrize("protocol", list(Protocol))
def test_show(protocol: Protocol) -> None:
    out = io.StringIO()
    show(picture(), protocol, out)
    assert bool(out.getvalue()) is (protocol is not Protocol.none)
