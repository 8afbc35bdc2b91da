"""What our side of a question to a server costs, what hostile replies cost, and what schemas cost a server.

    python -m bench.bench_client [--rounds 5] [--questions 300]

Overhead is the CPU of this process for each question through OpenAIAnswerer, less the CPU of a plain httpx post of the
same body, from as many threads, to the same server: another process that answers at once. Recovery is the CPU of the
slowest of three kinds of reading one reply of 1 MB. Compile times are those of xgrammar, when it is installed, with a
made-up vocabulary as large as those of real models.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import repeat
from typing import Any

from bench.common import REPO, print_table

OVERHEAD_MS_MAX = 3.0
RECOVERY_MS_MAX = 50.0
COMPILE_MS_MAX = 500.0
CONCURRENCY = 16
TEXT_CHARS = 1_000_000
VOCABULARY = 100_000
SHEET = (1120, 672)  # pixels of a full contact sheet
SHEETS = 3
REPLY = {"choices": [{"message": {"content": '{"memory": "I took the cup."}'}, "finish_reason": "stop"}]}


# ---------------------------------------------------------------- the server, in a process of its own


class _AtOnce(asyncio.Protocol):
    """Answers each request when its last byte is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._pending = transport, bytearray()
        raw = json.dumps({**REPLY, "usage": {"prompt_tokens": 9, "completion_tokens": 9}}).encode()
        self._answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw
        )

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (head := self._pending.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: (\d+)", bytes(self._pending[:head]), re.IGNORECASE)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._pending) < end:
                return
            del self._pending[:end]
            self._transport.write(self._answer)  # type: ignore[attr-defined]


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_AtOnce, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# ---------------------------------------------------------------- overhead of a question


def _cpu_ms(work: Callable[[], object], questions: int) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3 / questions


def _questions(count: int, sheets: int) -> list[Any]:
    from tasks.answers.question import Question
    from tasks.questions import Memory

    inputs = {"task": "put the cup on the shelf", "prior_memory": "I opened the door.", "completed": "pick up the cup"}
    pictures = tuple(_sheet(i) for i in range(sheets))
    return [Question("plan_memory", Memory, {**inputs, "remaining": f"go {i}"}, pictures) for i in range(count)]


def _sheet(seed: int) -> Any:
    import numpy as np

    from tasks.dataset.frames import encode_jpeg

    coarse = np.random.default_rng(seed).integers(0, 255, (SHEET[1] // 8, SHEET[0] // 8, 3), np.uint8)
    return encode_jpeg(coarse.repeat(8, 0).repeat(8, 1), 84)


def _bodies(questions: Sequence[Any], vlm: Any) -> list[bytes]:
    """What the answerer will send, made before the clock runs."""
    from tasks.answers import messages
    from tasks.answers.dialect import Dialect
    from tasks.answers.request import Ask, build

    asks = [Ask(messages.prompt_text(q), q.pictures, (), vlm.max_new_tokens) for q in questions]
    return [json.dumps(build(a, q.answer, 0, vlm, Dialect(""))).encode() for a, q in zip(asks, questions, strict=True)]


def overhead(api_base: str, rounds: int, count: int, sheets: int) -> tuple[float, float, int]:
    """(CPU ms of a question, CPU ms of a plain post, bytes of a body); medians over the rounds."""
    import httpx

    from tasks.answers.openai import OpenAIAnswerer
    from tasks.settings import VlmSettings

    vlm = VlmSettings(backend="openai", api_base=api_base, client_concurrency=CONCURRENCY)
    questions = _questions(count, sheets)
    bodies = _bodies(questions, vlm)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer EMPTY"}
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    ours, plain = [], []
    answerer = OpenAIAnswerer(vlm)
    with httpx.Client(headers=headers, limits=limits, trust_env=False) as http, ThreadPoolExecutor(CONCURRENCY) as pool:

        def post(body: bytes) -> bytes:
            return http.post(f"{api_base}/chat/completions", content=body).content

        def post_all() -> None:
            list(pool.map(post, bodies))

        def ask_all() -> None:
            assert all(r.answer is not None for r in answerer.answer(questions))

        ask_all(), post_all()  # connections are open, everything is imported
        for _ in range(rounds):
            plain.append(_cpu_ms(post_all, count))
            ours.append(_cpu_ms(ask_all, count))
    answerer.close()
    return statistics.median(ours), statistics.median(plain), len(bodies[0])


def _overheads(rounds: int, count: int) -> list[list[object]]:
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.bench_client", "--serve"], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        api_base = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        rows: list[list[object]] = []
        for sheets, questions in ((0, count), (SHEETS, max(16, count // 5))):
            ours, plain, size = overhead(api_base, rounds, questions, sheets)
            bar = f"<= {OVERHEAD_MS_MAX:g}" if sheets == 0 else "-"
            rows.append([f"{sheets} pictures, {size / 1e3:.0f} kB", ours, plain, ours - plain, bar])
        return rows
    finally:
        server.kill()
        server.wait()


# ---------------------------------------------------------------- reading replies


def _read_ms(text: str) -> float:
    """The best of three: the scheduler's share is not ours."""
    from tasks.answers.structured import read
    from tasks.questions import Memory

    best = float("inf")
    for _ in repeat(None, 3):
        began = time.thread_time()
        read(text, Memory)
        best = min(best, time.thread_time() - began)
    return best * 1e3


def _recoveries() -> list[list[object]]:
    from tests.answers.hostile_text import SHAPES

    answer = '{"memory": "I took the cup."}'
    rows: list[list[object]] = []
    for name, make in SHAPES.items():
        garbage = make(TEXT_CHARS)
        times = [_read_ms(text) for text in (garbage, f"{answer}\n{garbage}", f"{garbage}\n{answer}")]
        rows.append([name, *times, f"<= {RECOVERY_MS_MAX:g}"])
    return rows


# ---------------------------------------------------------------- compiling schemas


def _vocabulary() -> list[bytes]:
    """Bytes, and words with and without a space before them, a few with marks, as trained vocabularies hold them."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    tokens = {bytes([i]) for i in range(256)}
    while len(tokens) < VOCABULARY:
        word = "".join(rng.choices(letters, k=rng.randint(2, 9)))
        mark = rng.choice(("", ".", ",", '"', "(", "_", "\n", "}")) if rng.random() < 0.1 else ""
        tokens.add((rng.choice(("", " ")) + word + mark).encode())
    return sorted(tokens)


def _compile_times() -> list[list[object]]:
    import xgrammar

    from tasks.answers.structured import schema, wire_schema
    from tests.every_question import ANSWERS

    tokens = [*_vocabulary(), b"<end>"]
    info = xgrammar.TokenizerInfo(tokens, xgrammar.VocabType.RAW, stop_token_ids=[len(tokens) - 1])

    def compile_ms(wanted: dict[str, Any]) -> float:
        compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        return _cpu_ms(lambda: compiler.compile_json_schema(json.dumps(wanted)), 1)

    rows: list[list[object]] = []
    for name, answer in ANSWERS.items():
        rows.append(
            [name, len(json.dumps(wire_schema(answer))), compile_ms(wire_schema(answer)), f"<= {COMPILE_MS_MAX:g}"]
        )
    name, answer = next(iter(ANSWERS.items()))
    return [
        *rows,
        [f"{name}, with lengths (not sent)", len(json.dumps(schema(answer))), compile_ms(schema(answer)), "-"],
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(_serve())
    title = f"Client, CPU ms of a question, {CONCURRENCY} in flight"
    columns = ["request", "ours", "plain post", "overhead", "bar"]
    print_table(title, columns, _overheads(args.rounds, args.questions))
    columns = ["text", "alone", "answer before", "answer behind", "bar"]
    print_table(f"JSON recovery, CPU ms of a reply of {TEXT_CHARS / 1e6:g} MB", columns, _recoveries())
    if find_spec("xgrammar") is not None:
        columns = ["question", "schema bytes", "CPU ms", "bar"]
        print_table(f"Schemas, compiled by xgrammar for {VOCABULARY} tokens", columns, _compile_times())


if __name__ == "__main__":
    main()
