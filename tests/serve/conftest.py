"""One server on the tiny model for all tests."""

import pytest
from serving import NAME, client_of, serving
from vlm_files import screen, write_checkpoint

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("serve")
    made = convert(str(write_checkpoint(base / "pt")), base / NAME, say=lambda *_: None)
    return dv.load(made)


@pytest.fixture(scope="session")
def running(model):
    with serving(model) as running:
        yield running


@pytest.fixture(scope="session")
def client(running):
    with client_of(running) as client:
        yield client


@pytest.fixture
def ask(client):
    """Asks, greedily, about messages."""

    def ask(*messages, max_tokens=8, **options):
        return client.chat.completions.create(
            model=NAME, messages=list(messages), max_tokens=max_tokens, **options
        )

    return ask


@pytest.fixture(scope="session")
def screens():
    return [screen(seed) for seed in range(4)]
