"""Our tokens in a real vLLM: the same greedy answers as ours. How to start one: docs/engines.md."""

import asyncio
import os

import numpy as np
import pytest

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.language import chat as prompts
from diffvis_jax.language.splice import project
from diffvis_jax.providers.chat import Chat, Message, Text, Tokens, Wish, whole
from diffvis_jax.providers.vllm_tokens import VLLMTokens

pytestmark = pytest.mark.vllm
QUESTIONS, LENGTH = 24, 32
WORDS = ("open", "the", "file", "menu", "where is", "that button", "click on", "save", "close")


def test_greedy_ids_are_ours():
    url, weights = os.environ.get("DIFFVIS_VLLM"), os.environ.get("DIFFVIS_VLLM_WEIGHTS")
    if not url or not weights:
        pytest.skip("set DIFFVIS_VLLM to its address, DIFFVIS_VLLM_WEIGHTS to what it serves")
    model = dv.load(weights)
    language, rng = model.language, np.random.default_rng(0)

    async def run():
        key = os.environ.get("DIFFVIS_VLLM_KEY")
        engine = VLLMTokens("vllm", url, "", key=key)
        (engine.model,) = await engine.models()
        kept = []
        for number in range(QUESTIONS):
            side = model.config.size
            frame = rng.integers(0, 256, (1, side, side, 3), np.uint8)
            frame[:, : side // 2] = 230
            question = " ".join(rng.choice(WORDS, rng.integers(3, 9)))
            tokens = jit_encode(model.params, frame, config=model.config)
            array = np.asarray(project(language.params, tokens, config=language.config))[0]
            parts = (Tokens(array, f"{number:02x}"), Text(question))
            ids = prompts.render([prompts.Message("user", [None, question])], language.tokenizer)
            expected = dv.generate_ids(model, frame, ids, LENGTH, stop_ids=[]).tolist()
            answer = await engine.client.chat.completions.create(
                model=engine.model,
                messages=[engine._message(Message("user", parts))],
                temperature=0,
                max_tokens=LENGTH,
                extra_body={"ignore_eos": True, "return_token_ids": True},
            )
            assert answer.choices[0].model_dump()["token_ids"] == expected
            assert answer.usage.prompt_tokens == len(ids) - 1 + len(array)
            again = await whole(engine, Chat((Message("user", parts),)), Wish(max_tokens=4))
            kept.append(again.usage.cached)
        assert all(kept)  # the same tokens once more: keys and values were kept
        await engine.aclose()

    asyncio.run(run())
