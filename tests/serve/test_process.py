"""A server as a process of its own: how it begins, how it ends, and what a client sees of that."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from serving import NAME, user
from vlm_files import screen, write_checkpoint

from diffvis_jax.checkpoints.convert import convert

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    base = tmp_path_factory.mktemp("process")
    return convert(str(write_checkpoint(base / "pt")), base / NAME, say=lambda *_: None)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
def start(directory, tmp_path):
    """Starts a server; its log is in `process.log`."""
    processes = []

    def start(port, *more):
        settings = ["warm_lengths=1", "warm_screens=[320x180]", "warm_sampling=[greedy]"]
        command = [sys.executable, "scripts/serve.py", "--model", str(directory)]
        command += [part for text in settings for part in ("--set", f"serve.{text}")]
        log = tmp_path / f"log{len(processes)}"
        with log.open("w") as file:
            process = subprocess.Popen(
                [*command, "--port", str(port), "--policy", "exact", *more],
                stderr=file,
                cwd=ROOT,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
            )
        process.log = log
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_until_ready(process, port):
    ends = time.monotonic() + 300
    while True:
        assert process.poll() is None, process.log.read_text()
        assert time.monotonic() < ends
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def client_of(port, retries):
    base = f"http://127.0.0.1:{port}/v1"
    return openai.OpenAI(base_url=base, api_key="none", max_retries=retries, timeout=120)


def ask(client, count=4, **options):
    return client.chat.completions.create(
        model=NAME, messages=[user(screen(), "What?")], max_tokens=count, **options
    )


def test_told_to_end_it_ends_what_it_began(start):
    port = free_port()
    process = start(port, "--set", "serve.drain_s=20")
    wait_until_ready(process, port)
    with client_of(port, 0) as client:
        chunks = ask(client, 200, stream=True)
        first = next(iter(chunks))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        with pytest.raises((openai.InternalServerError, openai.APIConnectionError)):
            ask(client)
        rest = list(chunks)
    assert first.choices[0].delta.role == "assistant"
    assert rest[-1].choices[0].finish_reason == "length"
    assert process.wait(60) == 0
    log = process.log.read_text()
    assert f"http://127.0.0.1:{port}: ready, for the model {NAME}" in log
    assert "What?" not in log


def test_what_takes_too_long_to_end_is_told_so(start):
    port = free_port()
    process = start(port, "--set", "serve.drain_s=0")
    wait_until_ready(process, port)
    with client_of(port, 0) as client:
        chunks = ask(client, 2000, stream=True)
        next(iter(chunks))
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError):
            list(chunks)
    assert process.wait(60) == 0


def test_a_client_that_tries_again_meets_the_next_server(start):
    port = free_port()
    processes = [start(port)]
    wait_until_ready(processes[0], port)
    with client_of(port, 8) as client:
        expected = ask(client).choices[0].message.content

        def again():
            processes[0].kill()
            processes[0].wait()
            processes.append(start(port))
            wait_until_ready(processes[1], port)

        other = threading.Thread(target=again)
        other.start()
        time.sleep(0.5)
        found = None
        for _ in range(60):  # the client's own tries are over sooner than a start
            try:
                found = ask(client)
                break
            except (openai.APIConnectionError, openai.InternalServerError):
                time.sleep(1)
        other.join()
    assert found is not None
    assert found.choices[0].message.content == expected


def test_a_port_that_is_taken(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(port)
        assert process.wait(120) == 2
        assert process.log.read_text().splitlines()[-1].startswith("error: ")


def test_many_clients_for_a_while(start, script, capsys):
    port = free_port()
    process = start(port)
    wait_until_ready(process, port)
    options = ["--pid", str(process.pid), "--clients", "3", "--minutes", "0.1"]
    assert script("soak_serve").main([f"http://127.0.0.1:{port}", *options]) == 0
    said = capsys.readouterr().out
    assert "'answered': " in said
    assert "Error" not in said


def test_what_a_server_saves(directory, script, capsys, tmp_path):
    rows = tmp_path / "rows.json"
    options = ["--pictures", "2", "--turns", "2", "--policy", "exact", "--json", str(rows)]
    assert script("benchmark_serve").main(["--model", str(directory), *options]) == 0
    said = capsys.readouterr().out
    for scenario in ("identical bytes", "identical pixels", "one picture a turn", "2 pictures"):
        assert scenario in said
    found = json.loads(rows.read_text())
    assert all(row["same"] for row in found)
    assert {row["path"] for row in found if row["mode"] == "exact"} >= {"known"}
