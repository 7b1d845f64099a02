"""The client of OpenAI, as it is installed, against a server of each kind of model."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.helpers.runs import UNLIKE_TEXTS
from tests.helpers.serving import Running, served

import seedfast


def completed(running: Running, **asked: Any) -> Any:
    return running.client().completions.create(**{"model": running.model, "prompt": "the ", "seed": 3} | asked)


def streamed(running: Running, **asked: Any) -> list[Any]:
    return list(completed(running, stream=True, **asked))


@pytest.mark.parametrize("recipe", UNLIKE_TEXTS)
def test_every_family_completes_a_prompt_as_sample_does(recipe: str, folders: dict[str, Path]) -> None:
    with served(folders[recipe]) as running:
        found = completed(running, prompt=["the ", "a do"], n=2, max_tokens=10)
        assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
        samples: Any = seedfast.load(folders[recipe]).sample(prompt=("the ", "a do"), num=2, tokens=10, seed=3)
        prompts = ["the ", "the ", "a do", "a do"]
        assert [p + choice.text for p, choice in zip(prompts, found.choices, strict=True)] == samples.texts
        assert found.usage.prompt_tokens == 8
        assert found.usage.completion_tokens == sum(map(len, samples.written))
        assert "".join(chunk.choices[0].text for chunk in streamed(running, max_tokens=10)) == found.choices[0].text


def test_a_stream_appends_and_ends_with_the_reason(causal: Running) -> None:
    whole = completed(causal, max_tokens=12)
    chunks = streamed(causal, max_tokens=12)
    assert len(chunks) > 2, "the text comes piece by piece"
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    assert {chunk.object for chunk in chunks} == {"text_completion"}


def test_the_last_chunk_has_the_usage_and_no_choices_if_it_is_requested(causal: Running) -> None:
    *others, last = streamed(causal, max_tokens=5, stream_options={"include_usage": True})
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.total_tokens) == (4, 4 + last.usage.completion_tokens)
    assert all(chunk.usage is None and chunk.choices for chunk in others)
    assert all(chunk.choices for chunk in streamed(causal, max_tokens=5))


def test_a_text_ends_before_its_stop_and_no_part_of_the_stop_is_sent(causal: Running) -> None:
    text = completed(causal, max_tokens=30).choices[0].text
    stop = text[6:9]
    cut = text[: text.index(stop)]
    found = completed(causal, max_tokens=30, stop=[stop, "never"]).choices[0]
    assert (found.text, found.finish_reason) == (cut, "stop")
    assert "".join(chunk.choices[0].text for chunk in streamed(causal, max_tokens=30, stop=stop)) == cut


def test_an_infill_leaves_the_given_text_alone(masked: Running, causal: Running, folders: dict[str, Path]) -> None:
    for running in (masked, causal):
        found = completed(running, prompt="the ", suffix=" the", max_tokens=6)
        samples: Any = seedfast.load(folders[running.model]).sample(infill="the <gap:6> the", seed=3)
        assert "the " + found.choices[0].text + " the" == samples.texts[0]
        assert found.usage.completion_tokens == 6
        assert completed(running, suffix=" the", max_tokens=6, echo=True).choices[0].text.startswith("the ")


def test_log_probabilities_add_up_to_those_of_the_model(causal: Running, folders: dict[str, Path]) -> None:
    model = seedfast.load(folders[causal.model])
    text = "the cat sees"
    scored = completed(causal, prompt=text, echo=True, max_tokens=0, logprobs=2).choices[0]
    assert scored.text == text
    assert sum(scored.logprobs.token_logprobs) == pytest.approx(model.log_prob(text), rel=1e-5)
    assert scored.logprobs.tokens == list(text)
    assert scored.logprobs.text_offset == list(range(len(text)))
    found = completed(causal, prompt="", max_tokens=12, logprobs=3, temperature=0.5).choices[0]
    assert sum(found.logprobs.token_logprobs) == pytest.approx(model.log_prob(found.text), rel=1e-5), "without shaping"
    for token, log_p, top in zip(
        found.logprobs.tokens, found.logprobs.token_logprobs, found.logprobs.top_logprobs, strict=True
    ):
        assert top[token] == log_p
        assert 3 <= len(top) <= 4
    parts = [c.choices[0].logprobs for c in streamed(causal, prompt="", max_tokens=12, logprobs=3, temperature=0.5)]
    assert [t for part in parts if part for t in part.token_logprobs] == found.logprobs.token_logprobs


def test_log_probabilities_of_a_masked_model_are_those_of_its_writing(
    masked: Running, folders: dict[str, Path]
) -> None:
    found = completed(masked, max_tokens=8, logprobs=0).choices[0]
    samples: Any = seedfast.load(folders[masked.model]).sample(prompt="the ", tokens=8, seed=3, explain=True)
    kept = [choice.log_prob for choice in samples.choices[0] if choice.kept]
    assert sum(found.logprobs.token_logprobs) == pytest.approx(sum(kept), rel=1e-5)
    with pytest.raises(openai.UnprocessableEntityError, match="no alternatives"):
        completed(masked, logprobs=1)


def test_echo_puts_the_prompt_first(causal: Running) -> None:
    plain = completed(causal, max_tokens=5).choices[0].text
    assert completed(causal, max_tokens=5, echo=True).choices[0].text == "the " + plain
    assert completed(causal, prompt=[3, 4], max_tokens=3, echo=True).usage.prompt_tokens == 2, "token ids are a prompt"


def test_a_seed_repeats_a_text_and_without_one_the_answer_names_it(causal: Running) -> None:
    first = completed(causal, seed=None, max_tokens=20)
    other = completed(causal, seed=None, max_tokens=20)
    assert first.choices[0].text != other.choices[0].text
    assert completed(causal, seed=first.seed, max_tokens=20).choices[0].text == first.choices[0].text


def test_frames_are_comments_that_the_client_skips(masked: Running) -> None:
    asked = {"model": masked.model, "prompt": "the ", "seed": 3, "max_tokens": 6, "stream": True, "frames": True}
    body = httpx.post(f"{masked.url}/completions", json=asked).text
    lines = body.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    frames = [json.loads(line[2:])["frame"] for line in lines if line.startswith(": ")]
    assert len(frames) == 6
    assert [frame.count("░") for frame in frames] == [5, 4, 3, 2, 1, 0]
    assert all(line.startswith((": ", "data: ")) for line in lines[:-1]), "no id: and no event: lines"
    text = "".join(c.choices[0].text for c in streamed(masked, max_tokens=6, extra_body={"frames": True}))
    assert text == frames[-1]


def test_the_options_of_the_family_are_taken_by_name(masked: Running, folders: dict[str, Path]) -> None:
    found = completed(masked, max_tokens=8, extra_body={"steps": 2, "order": "confidence"}).choices[0].text
    samples: Any = seedfast.load(folders[masked.model]).sample(
        prompt="the ", tokens=8, steps=2, order="confidence", seed=3
    )
    assert "the " + found == samples.texts[0]
    with pytest.raises(openai.BadRequestError, match="order must be random, confidence or ancestral"):
        completed(masked, extra_body={"order": "best"})


MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat?"}]


def test_a_chat_is_rendered_by_the_template_of_the_model(chat: Running, folders: dict[str, Path]) -> None:
    client = chat.client()
    found = client.chat.completions.create(model=chat.model, messages=MESSAGES[1:], max_tokens=8, seed=2)
    samples: Any = seedfast.load(folders["chat"]).sample(prompt="the cat?", chat=True, tokens=8, seed=2)
    rendered = samples.pieces[0][0][0]
    assert rendered + found.choices[0].message.content == samples.texts[0]
    assert found.choices[0].message.role == "assistant"
    newest = {"max_completion_tokens": 8}  # which the oldest clients do not know
    asked = {"model": chat.model, "messages": MESSAGES, "seed": 2, "n": 2, "extra_body": newest}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    entry = whole.choices[0].logprobs.content[0]
    assert len(entry.top_logprobs) == 2
    assert entry.logprob <= 0
    chunks = list(client.chat.completions.create(**asked, stream=True))
    for number in (0, 1):
        deltas = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == number]
        assert deltas[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in deltas) == whole.choices[number].message.content
        assert deltas[-1].finish_reason == whole.choices[number].finish_reason
    parts = [{"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat?"}]}]
    same = client.chat.completions.create(model=chat.model, messages=parts, max_tokens=8, seed=2)
    assert same.choices[0].message.content == found.choices[0].message.content


def test_streams_hold_whole_characters_only(chat: Running) -> None:
    """Its tokens are bytes, of which random ones are mostly parts of characters."""
    for seed in range(3):
        whole = completed(chat, max_tokens=30, seed=seed, temperature=3.0).choices[0].text
        parts = [chunk.choices[0].text for chunk in streamed(chat, max_tokens=30, seed=seed, temperature=3.0)]
        assert "".join(parts) == whole


def picture(folders: dict[str, Path]) -> tuple[Path, str]:
    file = next(Path(seedfast.load(folders["image-caption"]).run.data.path).parent.glob("*.png"))
    return file, "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def test_an_image_is_captioned_as_sample_does(captions: Running, folders: dict[str, Path]) -> None:
    file, url = picture(folders)
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    ask = captions.client().chat.completions.create
    model = seedfast.load(folders["image-caption"])
    for options, same in (({}, {}), ({"temperature": 0}, {"decoding": "greedy"}), ({"n": 2}, {"num": 2})):
        found = ask(model=captions.model, messages=[{"role": "user", "content": content}], seed=4, **options)
        samples: Any = model.sample(image=(file,), seed=4, **same)
        assert [each.message.content for each in found.choices] == [each.text for each in samples.captions[0]]
    stream = ask(model=captions.model, messages=[{"role": "user", "content": content}], seed=4, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    with pytest.raises(openai.UnprocessableEntityError, match="captions one image"):
        ask(model=captions.model, messages=MESSAGES)
    broken = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with pytest.raises(openai.BadRequestError, match="The image cannot be read"):
        ask(model=captions.model, messages=[{"role": "user", "content": broken}])
    far = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/x.png"}}]
    with pytest.raises(openai.BadRequestError, match="This server fetches nothing"):
        ask(model=captions.model, messages=[{"role": "user", "content": far}])


def test_models_are_listed(causal: Running) -> None:
    assert [model.id for model in causal.client().models.list()] == [causal.model]
    assert causal.client().models.retrieve(causal.model).owned_by == "seedfast"
    with pytest.raises(openai.NotFoundError, match="There is no model called 'gpt-9'"):
        causal.client().models.retrieve("gpt-9")


def test_what_a_model_cannot_do_is_unprocessable(causal: Running, folders: dict[str, Path]) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="no chat template"):
        causal.client().chat.completions.create(model=causal.model, messages=MESSAGES)
    with served(folders["text-block"]) as block, pytest.raises(openai.UnprocessableEntityError, match="cannot infill"):
        completed(block, suffix="x", max_tokens=4)
    with pytest.raises(openai.UnprocessableEntityError, match="no closed form"):
        completed(causal, suffix="x", logprobs=0, max_tokens=2)
