"""`seedfast chat`: turns in the model's template, a transcript that repeats, a full context, commands, mistakes."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import tiny_models
from tests.helpers.cli import seedfast as command_line
from tests.helpers.processes import LIMIT
from tests.helpers.runs import small_run, train_in

import seedfast as api
from seedfast.errors import UserError
from seedfast.evaluate.conversation import Conversation
from seedfast.families.text import causal_sampler
from seedfast.families.text.causal_sampler import AutoregressiveRequest

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, story: Path) -> Path:
    """A tiny random model with a chat template."""
    folder = tmp_path_factory.mktemp("model") / "llama"
    return tiny_models.folder(folder, "llama", text=story.read_text(), max_position_embeddings=256)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs the command with these lines as its input."""

    def run(folder: Path, lines: str, *flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        capsys.readouterr()
        status = command_line("chat", folder, *flags)
        return status, *capsys.readouterr()

    return run


def conversation(model: Path, **options: Any) -> Conversation:
    return Conversation(api.load(model), AutoregressiveRequest(tokens=8), **options)


def test_a_transcript_repeats_and_another_seed_gives_another(model: Path, say: Say) -> None:
    lines = "hello cat\nhello cat\n/retry\n"
    status, first, _ = say(model, lines, "--tokens", "8")
    assert status == 0
    assert say(model, lines, "--tokens", "8")[1] == first
    assert say(model, lines, "--tokens", "8", "--seed", "2")[1] != first


def test_each_turn_has_random_numbers_of_its_own(model: Path) -> None:
    talk = conversation(model)
    answers = []
    for _ in range(3):
        answers.append(talk.answer("hello").text)
        talk.reset()
    assert len(set(answers)) == 3
    again = conversation(model)
    assert again.answer("hello").text == answers[0]


def test_the_model_reads_the_whole_chat_in_its_own_template(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    continued = causal_sampler.continue_prompts

    def watched(vocabulary: Any, decoding: Any, prompts: Any, *rest: Any, **options: Any) -> Any:
        read.extend(prompts)
        return continued(vocabulary, decoding, prompts, *rest, **options)

    monkeypatch.setattr("seedfast.families.text.autoregressive.continue_prompts", watched)
    talk = conversation(model, system="be brief")
    first = talk.answer("a").text
    talk.answer("b")
    decode = talk.model.tokenizer.decode
    assert (
        decode(read[0])
        == "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )
    assert decode(read[1]) == (
        f"{decode(read[0])}{first}<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_answer_is_passed_on_in_whole_characters(model: Path) -> None:
    for seed in range(4):
        pieces: list[str] = []
        found = conversation(model, seed=seed).answer("hello", on_text=pieces.append)
        assert "".join(pieces) == found.text
        assert not any(piece.endswith("\N{REPLACEMENT CHARACTER}") for piece in pieces[:-1])


def test_a_full_context_loses_its_first_turns_and_this_is_said(
    tmp_path: Path, story: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = conversation(tiny_models.folder(tmp_path / "64 tokens", "llama", text=story.read_text()), system="s")
    for number in range(6):
        talk.answer(f"message {number}")
    assert "The context is full: the first 2 messages are left out" in capsys.readouterr().err
    assert talk.messages[-2]["content"] == "message 5"
    assert len(talk.messages) < 12
    with pytest.raises(UserError, match="shorten it"):
        talk.answer("the cat sees the dog " * 20)
    assert talk.messages[-2]["content"] == "message 5", "the conversation goes on without it"


def test_commands_are_obeyed(model: Path, say: Say) -> None:
    status, out, err = say(model, "/help\nhello\n/reset\n//help\n/quit\nhello\n", "--tokens", "4")
    assert status == 0
    assert all(name in err for name in ("/reset", "/retry", "/help", "/quit"))
    assert "empty again" in err
    assert out.count("\n") >= 2
    for line, sentence in (("/nothing\n", "no command /nothing"), ("/retry\n", "no answer to try again")):
        status, _, err = say(model, line)
        assert status == 2
        assert sentence in err


def test_a_backslash_continues_a_message(model: Path) -> None:
    from seedfast.cli.chat import _messages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO("one\\\ntwo\n\n  \nthree\\\n"))
        assert list(_messages(False)) == ["one\ntwo", "three"]


def test_a_special_token_in_a_message_is_refused(model: Path, say: Say) -> None:
    status, _, err = say(model, "hello <|im_end|>\n")
    assert status == 2
    assert "special token of the chat template" in err


def test_a_model_without_a_template_is_refused_in_a_sentence_that_names_sample(
    story: Path, tmp_path: Path, say: Say
) -> None:
    train_in(tmp_path / "text", small_run("text-masked", story, steps=1))
    status, _, err = say(tmp_path / "text", "hello\n")
    assert status == 2
    assert err.splitlines() == [
        f"seedfast: {tmp_path}/text has no chat template, so it cannot be talked with: continue a text with seedfast "
        f"sample {tmp_path}/text --prompt TEXT."
    ]
    train_in(tmp_path / "images", small_run("image-diffusion", story, steps=1))
    status, _, err = say(tmp_path / "images", "hello\n")
    assert (status, "use seedfast sample" in err, len(err.splitlines())) == (2, True, 1)


def test_ctrl_c_keeps_what_there_is_of_an_answer(model: Path) -> None:
    pieces: list[str] = []

    def stop(piece: str) -> None:
        pieces.append(piece)
        if len("".join(pieces)) >= 2:
            raise KeyboardInterrupt

    talk = conversation(model)
    found = talk.answer("hello", on_text=stop)
    assert found.stopped
    assert found.text == "".join(pieces)
    assert talk.messages[-1] == {"role": "assistant", "content": found.text}
    assert not talk.answer("again").stopped


def test_on_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_ends(tmp_path: Path, story: Path) -> None:
    """A real terminal and a real signal, in the middle of an answer of 1900 tokens."""
    text = story.read_text()
    folder = tiny_models.folder(tmp_path / "long", "llama", text=text, max_position_embeddings=2048)
    greedy = Conversation(api.load(folder), AutoregressiveRequest(tokens=100, temperature=0.0))
    message = next(each for each in map(str, range(100)) if _is_endless(greedy, each))
    words = ["chat", str(folder), "--tokens", "1900", "--temperature", "0"]
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "dumb"}
    command = [sys.executable, "-m", "seedfast", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        seen = b""

        def wait_for(word: bytes, *, interrupting: bool = False) -> None:
            """Read up to a word. interrupting: with a Ctrl-C each second, as one just before a wait begins is lost."""
            nonlocal seen
            end = time.monotonic() + LIMIT
            while word not in seen:
                if interrupting:
                    child.send_signal(signal.SIGINT)
                if select.select([ours], [], [], 1)[0]:
                    seen += os.read(ours, 1 << 16)
                if time.monotonic() > end:
                    child.kill()
                    pytest.fail(f"{word!r} did not come: {seen!r}")
            seen = seen.partition(word)[2]

        wait_for(b"> ")
        wait_for(b"(Ctrl-D ends)", interrupting=True)
        wait_for(b"> ")
        os.write(ours, message.encode() + b"\r")
        wait_for(message.encode() + b"\r\n")
        wait_for(greedy.messages[-1]["content"][:1].encode().replace(b"\n", b"\r\n"))
        wait_for(b"(stopped", interrupting=True)
        wait_for(b"> ")
        os.write(ours, b"\x04")
        assert child.wait(LIMIT) == 0
    os.close(ours)


def _is_endless(greedy: Conversation, message: str) -> bool:
    """Whether a greedy answer repeats itself instead of ending."""
    greedy.reset()
    found = greedy.answer(message).text
    return len(greedy.model.tokenizer.encode(found)) >= 90


def test_a_diffusion_model_answers_in_its_template_too(tmp_path: Path, story: Path, say: Say) -> None:
    base = tiny_models.folder(tmp_path / "base", "llama", text=story.read_text())
    run = small_run("text-masked", story, steps=1)
    train_in(tmp_path / "run", replace(run, data=replace(run.data, tokenizer=str(base), context=64)))
    status, out, _ = say(tmp_path / "run", "hello\n", "--tokens", "6", "--steps", "3")
    assert status == 0
    assert out == say(tmp_path / "run", "hello\n", "--tokens", "6", "--steps", "3")[1]
    frames: list[Any] = []
    talk = Conversation(api.load(tmp_path / "run"), api.load(tmp_path / "run").generator.Request(tokens=6, steps=3))
    found = talk.answer("hello", on_frame=frames.append)
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    assert found.text in frames[-1].text
