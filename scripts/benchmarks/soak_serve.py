"""Many clients at a running server for a long time: does its memory stay flat, do all get answers?

    diffvis serve --model DIR --port 8077 &
    python scripts/benchmarks/soak_serve.py http://127.0.0.1:8077 --pid $! --minutes 60

Every client replays a recorded session in conversations of a few turns, in a stream; every tenth
answer it leaves after the first words. Growth is that of the resident memory after the first sixth.
"""

import argparse
import asyncio
import base64
import itertools
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import Parser, number, run_script, tell, whole
from diffvis_jax.images.recording import read_recording
from diffvis_jax.metrics import tails
from diffvis_jax.report.text import milliseconds, tails_text

KEPT = 4  # pictures of a conversation


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("url", help="of the server, without /v1")
    add("--pid", type=whole(1, 2**31, "a process"), required=True, help="of the server")
    add("--session", type=Path, default=BUNDLED, help="a recorded session (the bundled one)")
    add("--clients", type=whole(1, 1000, "clients"), default=20, help="(20)")
    add("--minutes", type=number(0.01, 10_000, "minutes"), default=60.0, help="(60)")
    return parser


def resident_mb(pid: int) -> float:
    """Of a process."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def client(
    api: Any, model: str, name: int, urls: list[str], end: float, seen: dict[str, Any]
) -> None:
    """Conversations of one client until the end."""
    messages: list[dict[str, Any]] = []
    for turn in itertools.count(name):
        if len(messages) >= 2 * KEPT:
            messages = []
        if time.monotonic() > end:
            return
        picture = {"type": "image_url", "image_url": {"url": urls[turn % len(urls)]}}
        messages.append(
            {"role": "user", "content": [picture, {"type": "text", "text": "What has changed?"}]}
        )
        text, start = "", time.monotonic()
        try:
            stream = await api.chat.completions.create(
                model=model,
                messages=messages,
                max_tokens=8,
                stream=True,
                extra_body={"diffvis": {"session": f"client-{name}"}},
            )
            async with stream:
                async for chunk in stream:
                    if not text:
                        seen["first_ms"].append(1e3 * (time.monotonic() - start))
                    text += (chunk.choices and chunk.choices[0].delta.content) or " "
                    if turn % 10 == 9:
                        break
            seen["outcomes"]["left" if turn % 10 == 9 else "answered"] += 1
        except Exception as error:  # whatever a client may meet is counted by its name
            seen["outcomes"][type(error).__name__] += 1
            await asyncio.sleep(0.5)
        messages.append({"role": "assistant", "content": text.strip() or "nothing"})


async def soak(args: argparse.Namespace) -> int:
    from openai import AsyncOpenAI

    urls = [
        "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for path in read_recording(args.session).paths
    ]
    seen: dict[str, Any] = {"outcomes": Counter(), "first_ms": []}
    sizes: list[tuple[float, float]] = []
    begin = time.monotonic()
    end = begin + 60 * args.minutes
    async with AsyncOpenAI(base_url=f"{args.url}/v1", api_key="none", max_retries=2) as api:
        model = (await api.models.list()).data[0].id
        tasks = [
            asyncio.create_task(client(api, model, name, urls, end, seen))
            for name in range(args.clients)
        ]
        while time.monotonic() < end:
            await asyncio.sleep(min(10.0, 6 * args.minutes))
            sizes.append((time.monotonic() - begin, resident_mb(args.pid)))
            tell(f"{sizes[-1][0]:.0f} s, {sizes[-1][1]:.0f} MB, {dict(seen['outcomes'])}")
        await asyncio.gather(*tasks)
    settled = [size for at, size in sizes if at > 10 * args.minutes]
    growth = max(settled) / settled[0] - 1
    print(f"{args.clients} clients, {args.minutes:g} minutes: {dict(seen['outcomes'])}")
    print(f"first words after {tails_text(tails(seen['first_ms']), milliseconds)}")
    print(f"resident {settled[0]:.0f} MB after a sixth, at most {max(settled):.0f} ({growth:+.1%})")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: asyncio.run(soak(args)))


if __name__ == "__main__":
    sys.exit(main())
