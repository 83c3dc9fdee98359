# SPDX-License-Identifier: MIT
"""The formats of the key/value cache."""
import pytest

from api import Api
from conftest import Server, make_data

PROMPT = "What are the visiting hours of the Heart Centre? " * 6


def answer(api):
    return api.complete("base", PROMPT, 24, ignore_eos=True).json["choices"][0]["text"]


@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_answers_are_the_same_cold_and_from_kept_pages(lorica_bin, tmp_path, kv):
    server = Server(make_data(lorica_bin, tmp_path), "--kv", kv)
    try:
        api = Api(server)
        first = answer(api)
        assert first and answer(api) == first
        usage = api.complete("base", PROMPT, 1).json["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0
    finally:
        assert server.stop() == 0


def test_an_unknown_format_is_refused(lorica_bin, tmp_path):
    lorica = make_data(lorica_bin, tmp_path)
    assert "kv must be bf16 or int8" in lorica("serve", "--kv", "fp8", code=2).stderr
