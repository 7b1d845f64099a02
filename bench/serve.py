"""A load test of `seedfast serve`: requests at random times, by the client of OpenAI.

    python bench/serve.py RUN [--requests 200] [--rates 5 20] [--tokens 40] [--slots 8]

Requests arrive as a Poisson process at each rate (a second), with prompts, lengths and seeds of all kinds; half of them
are streamed. Each is also sent while nothing else is: an answer that differs from that one is wrong. Latencies are from
the request to the end of its answer.
"""

import argparse
import asyncio
import random
import re
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from common import server

Answer = tuple[str, str]
"""The text of an answer and the reason of its end."""


def bodies(model: str, count: int, tokens: int) -> list[dict[str, Any]]:
    """Requests of all kinds."""
    chance = random.Random(1)
    prompts = ["", "the ", "a", "the the the "]
    return [
        {
            "model": model,
            "prompt": chance.choice(prompts),
            "max_tokens": chance.randint(1, tokens),
            "temperature": chance.choice([0.0, 0.7, 1.0]),
            "seed": number,
            "stream": chance.random() < 0.5,
        }
        for number in range(count)
    ]


async def ask(client: AsyncOpenAI, body: dict[str, Any]) -> Answer:
    """The answer to a request, a stream put together."""
    answer: Any = await client.completions.create(**body)
    if not body["stream"]:
        return answer.choices[0].text, answer.choices[0].finish_reason
    text, reason = "", ""
    async for chunk in answer:
        text += chunk.choices[0].text
        reason = chunk.choices[0].finish_reason or reason
    return text, reason


async def under_load(
    client: AsyncOpenAI, asked: list[dict[str, Any]], rate: float
) -> tuple[list[Answer], list[float], float]:
    """The answers at an arrival rate, the latency of each, and the seconds of all."""
    chance, start = random.Random(2), time.perf_counter()
    latencies: list[float] = []

    async def one(body: dict[str, Any]) -> Answer:
        begin = time.perf_counter()
        answer = await ask(client, body)
        latencies.append(time.perf_counter() - begin)
        return answer

    tasks = []
    for body in asked:
        tasks.append(asyncio.create_task(one(body)))
        await asyncio.sleep(chance.expovariate(rate))
    return await asyncio.gather(*tasks), latencies, time.perf_counter() - start


def batch_rows(url: str) -> tuple[float, float]:
    """The rows of all shared evaluations so far, and their number."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as page:
        text = page.read().decode()
    rows, count = (re.search(rf"^seedfast_batch_rows_{name} (\S+)", text, re.M) for name in ("sum", "count"))
    assert rows is not None
    assert count is not None
    return float(rows[1]), float(count[1])


async def measure(options: argparse.Namespace, url: str) -> int:
    """Print a row for each rate; returns the number of wrong answers."""
    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    model = (await client.models.list()).data[0].id
    asked = bodies(model, options.requests, options.tokens)
    start = time.perf_counter()
    alone = [await ask(client, body) for body in asked]
    mean = (time.perf_counter() - start) / len(asked)
    size = sum(len(text) for text, _ in alone)
    print(
        f"{model}: {len(asked)} requests of 1 … {options.tokens} tokens, {options.slots} slots; alone {mean:.3f} s each"
    )
    names = ("rate/s", "done/s", "characters/s", "p50 s", "p95 s", "p99 s", "rows a batch", "wrong")
    print("".join(f"{name:>14}" for name in names))
    wrong = 0
    for rate in options.rates:
        rows, count = batch_rows(url)
        answers, latencies, seconds = await under_load(client, asked, rate)
        more_rows, more = batch_rows(url)
        different = sum(one != other for one, other in zip(answers, alone, strict=True))
        cuts = statistics.quantiles(latencies, n=100, method="inclusive")
        batch = (more_rows - rows) / (more - count) if more > count else 1.0
        numbers = (rate, len(asked) / seconds, size / seconds, cuts[49], cuts[94], cuts[98], batch)
        print("".join(f"{number:>14.3f}" for number in numbers) + f"{different:>14}")
        wrong += different
    return wrong


def main() -> int:
    """Run the load test; 1 if an answer was wrong."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("run", type=Path)
    made.add_argument("--requests", type=int, default=200)
    made.add_argument("--rates", type=float, nargs="+", default=[5.0, 20.0], help="arrivals a second")
    made.add_argument("--tokens", type=int, default=40, help="the largest number of tokens of a request")
    made.add_argument("--slots", type=int, default=8)
    options = made.parse_args()
    words = ("--port", 0, "--slots", options.slots, "--queue", options.requests, "--device", "auto")
    with server("serve", options.run, *words) as url:
        return int(asyncio.run(measure(options, url)) > 0)


if __name__ == "__main__":
    sys.exit(main())
