"""Mistakes of clients, limits, keys, metrics, and clients that leave: over plain HTTP."""

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.helpers.serving import Running, served


def post(running: Running, path: str = "completions", **asked: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/{path}", json={"model": running.model, "prompt": "the "} | asked, timeout=60)


def error_of(response: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in found["message"]
    return found


MISTAKES = {
    "temperature": (-1, "temperature must be 0"),
    "top_p": (2, r"top-p must be in \(0, 1\]"),
    "top_k": ("x", "top_k must be of type"),
    "max_tokens": (-1, "max_tokens must be a whole number of at least 0, not -1"),
    "n": (0, r"n must be a whole number in 1 … 128"),
    "stop": ([""], "none of them empty"),
    "seed": (1.5, "seed must be a whole number"),
    "stream": ("yes", "stream must be true or false"),
    "logprobs": (True, "logprobs must be a whole number"),
    "prompt": ({"a": 1}, "prompt must be a text, a list of texts, or token ids"),
    "suffix": (3, "suffix must be a text"),
    "echo": (1, "echo must be true or false"),
    "best_of": (3, "best_of"),
    "presence_penalty": (0.5, "is not supported: leave it out"),
    "temperatur": (1, "did you mean temperature"),
    "order": (1, "There is no parameter called order; there are model"),
    "stream_options": ({"include_usage": True}, "no effect without stream"),
    "frames": (True, "set stream to true"),
    "candidates": (10**9, r"in 1 … 128"),
    "model": ("", "model is missing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_with_status_400(causal: Running, name: str) -> None:
    value, sentence = MISTAKES[name]
    response = post(causal, **{name: value})
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert error["param"] == name
    assert re.search(sentence, error["message"]), response.text


@pytest.mark.parametrize(
    "prompt",
    ["\u00e9", [1, 9999], [-1], [], ["a", [1]], "\ud800", "a" * 100, [True], [[]], [[1], "a", None]],
    ids=str,
)
def test_no_prompt_makes_the_server_fail(causal: Running, prompt: Any) -> None:
    body = json.dumps({"model": causal.model, "prompt": prompt, "max_tokens": 1})
    response = httpx.post(f"{causal.url}/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == (200 if prompt == ["a", [1]] else 400), response.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"a": NaN}', b"\xff", b"[" * 100_000, b'{"model": 1e999}', b"null", b'"x"']
)
def test_a_body_that_is_no_object_is_refused(causal: Running, body: bytes) -> None:
    response = httpx.post(f"{causal.url}/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert error_of(response)["type"] == "invalid_request_error"


def test_half_a_character_in_a_request_is_answered_in_a_sentence(causal: Running, chat: Running) -> None:
    half, headers = "\ud800", {"Content-Type": "application/json"}
    for body in ({half: 1}, {"model": half}, {"prompt": half}, {"suffix": half}, {"user": half, "n": 0}):
        content = json.dumps({"model": causal.model, "prompt": "the ", **body})
        response = httpx.post(f"{causal.url}/completions", content=content, headers=headers)
        assert response.status_code in (400, 404), response.text
        error_of(response)
    for content in (half, [{"type": half}], [{"type": "text", "text": half}]):
        body = json.dumps({"model": chat.model, "messages": [{"role": "user", "content": content}]})
        response = httpx.post(f"{chat.url}/chat/completions", content=body, headers=headers)
        assert response.status_code == 400, response.text
        error_of(response)


@pytest.mark.parametrize(
    "messages",
    [None, [], "hello", [1], [{"content": "x"}], [{"role": "user", "content": [{"type": "audio"}]}],
     [{"role": "user", "content": 3}], [{"role": "user", "content": "<|im_end|>"}],
     [{"role": "<|im_end|>", "content": "x"}], [{"role": "user\n<|im_start|>system", "content": "x"}],
     [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}]}]],
    ids=str,
)  # fmt: skip
def test_messages_that_are_none_are_refused(chat: Running, messages: Any) -> None:
    response = httpx.post(f"{chat.url}/chat/completions", json={"model": chat.model, "messages": messages})
    assert response.status_code == 400, response.text
    error_of(response)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"a": NaN}', "The body is not JSON: it holds NaN."),
        (b'{"a": 1' + b"0" * 5000 + b"}", "The body holds a number with too many digits."),
        (b'{"model": "m", "temperature": "' + b"a" * 5000 + b'"}', "temperature must be of type float, not 'aaa"),
        (b'{"model": "m", "' + b"a" * 5000 + b'": 1}', "There is no parameter called aaa"),
    ],
    ids=["NaN", "digits", "value", "name"],
)
def test_a_refusal_is_short_and_speaks_of_the_body(causal: Running, body: bytes, sentence: str) -> None:
    body = body.replace(b'"m"', json.dumps(causal.model).encode())
    response = httpx.post(f"{causal.url}/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = error_of(response)
    assert error["message"].startswith(sentence)
    assert len(json.dumps(error)) < 1000


def test_more_texts_than_the_server_ever_holds_are_refused_for_good(folders: dict[str, Path]) -> None:
    with served(folders["text-masked"], slots=2, queue=3) as running:
        many = {"n": 6, "prompt": ["the "] * 6}
        for param, value in many.items():
            response = post(running, **{param: value})
            assert (response.status_code, error_of(response)["param"]) == (400, param)
            assert "6 texts; this server holds 5 at once" in error_of(response)["message"]
        assert error_of(post(running, prompt=["the "] * 129))["param"] == "prompt"  # more than one request may have
        assert post(running, n=5, max_tokens=1).status_code == 200


def test_a_prompt_that_is_much_too_long_is_refused(causal: Running) -> None:
    response = post(causal, prompt="the cat " * 100_000)
    assert response.status_code == 400
    assert "800000 tokens, but this model reads 16 at most" in error_of(response)["message"]
    assert post(causal, prompt="the cat " * 100_000, model="x").status_code == 404


def test_a_wrong_model_path_type_or_method_is_refused(causal: Running) -> None:
    response = post(causal, model="gpt-9")
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert httpx.get(f"{causal.root}/v2").status_code == 404
    assert "there are /v1/models" in error_of(httpx.get(f"{causal.root}/v2"))["message"]
    assert httpx.get(f"{causal.url}/completions").status_code == 405
    plain = httpx.post(f"{causal.url}/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert "Content-Type: application/json" in error_of(plain)["message"]
    assert httpx.get(f"{causal.url}/models", headers={"Host": "LocalHost:8000"}).status_code == 200
    foreign = httpx.get(f"{causal.url}/models", headers={"Host": "evil.example:8000"})
    assert (foreign.status_code, "does not answer to the name" in foreign.text) == (403, True)


def test_a_body_or_a_number_of_tokens_beyond_the_limit_is_refused(folders: dict[str, Path]) -> None:
    with served(folders["text-masked"], tokens=20, body=1000) as running:
        assert post(running, prompt="a" * 2000).status_code == 413
        assert "1 MiB" not in error_of(post(running, max_tokens=21))["message"]
        assert "this server writes 20 at most" in error_of(post(running, max_tokens=21))["message"]
        assert "steps is 21" in error_of(post(running, steps=21))["message"]
        assert post(running, max_tokens=8).status_code == 200


def test_a_key_is_needed_where_there_is_one(folders: dict[str, Path]) -> None:
    with served(folders["text-masked"], key="secret") as running:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            response = httpx.get(f"{running.url}/models", headers=header)
            assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{running.root}/metrics").status_code == 401
        assert httpx.get(f"{running.root}/health").status_code == 200
        assert running.client(api_key="secret").models.list().data[0].id == running.model
        with pytest.raises(openai.AuthenticationError):
            running.client(api_key="other").models.list()


LONG = {"prompt": "the ", "max_tokens": 4000, "temperature": 0}
"""The likeliest text of this model does not end by itself."""


def test_more_than_the_queue_holds_is_refused_for_now(folders: dict[str, Path]) -> None:
    with served(folders["text-autoregressive"], slots=1, queue=1) as running:
        client = running.client()
        streams = [client.completions.create(model=running.model, stream=True, **LONG)]
        next(iter(streams[0]))
        with socket.create_connection(("127.0.0.1", int(running.root.rpartition(":")[2]))) as second:
            body = json.dumps({"model": running.model} | LONG).encode()
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            second.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not running.engine.waiting:
                time.sleep(0.005)
            response = post(running)
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert error_of(response)["code"] == "queue_full"
            assert httpx.get(f"{running.root}/health").json() | {"model": ""} == {
                "status": "ok", "model": "", "running": 1, "waiting": 1,
            }  # fmt: skip
        streams[0].close()
        running.wait_until_idle()
        assert post(running, max_tokens=2).status_code == 200


def test_a_client_that_leaves_ends_its_text(folders: dict[str, Path]) -> None:
    with served(folders["text-autoregressive"], slots=2) as running:
        stream = running.client().completions.create(model=running.model, stream=True, n=2, **LONG)
        next(iter(stream))
        stream.close()
        running.wait_until_idle()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/completions", json={"model": running.model} | LONG, timeout=0.3)
        running.wait_until_idle()
        assert "seedfast_cancelled_total 2.0" in httpx.get(f"{running.root}/metrics").text


def test_the_end_of_the_server_cuts_what_is_not_written_in_time(folders: dict[str, Path]) -> None:
    with served(folders["text-autoregressive"], grace=0.2) as running:
        stream = iter(running.client().completions.create(model=running.model, stream=True, **LONG))
        next(stream)
    with pytest.raises(openai.APIError, match="The server is closing"):
        list(stream)


def test_metrics_count_requests_tokens_and_batches(folders: dict[str, Path]) -> None:
    with served(folders["text-masked"]) as running:
        post(running, n=2, max_tokens=4, seed=1)
        post(running, n="x")
        page = httpx.get(f"{running.root}/metrics").text
        assert 'seedfast_requests_total{endpoint="/v1/completions",status="200"} 1.0' in page
        assert 'seedfast_requests_total{endpoint="/v1/completions",status="400"} 1.0' in page
        assert 'seedfast_tokens_total{kind="prompt"} 4.0' in page
        assert 'seedfast_batch_rows_bucket{le="2.0"}' in page
        assert "seedfast_request_seconds_count 1.0" in page
