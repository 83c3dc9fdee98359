# SPDX-License-Identifier: MIT
"""The data plane as the openai package and its users see it."""
import json
import ssl

import openai
import pytest

from api import Api


@pytest.fixture(scope="module")
def client(server):
    context = ssl.create_default_context(cafile=str(server.ca))
    transport = openai.DefaultHttpxClient(verify=context)
    with openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0,
                       http_client=transport) as made:
        yield made


MESSAGES = [{"role": "user", "content": "Where is the heart?"}]


def test_models_are_listed_and_found(client):
    listed = client.models.list().data
    assert [m.id for m in listed] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_chat_answers_whole(client):
    made = client.chat.completions.with_raw_response.create(
        model="tiny", messages=MESSAGES, max_tokens=8, temperature=0, extra_body={"ignore_eos": True})
    answer = made.parse()
    assert answer.model == "tiny" and answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.system_fingerprint.startswith("fp_")
    assert made.headers["lorica-adapter"] == "base"
    assert made.headers["lorica-base-digest"].startswith("sha256:")
    assert "lorica-adapter-digest" not in made.headers


def test_chat_streams_the_same_text_as_it_answers_whole(client):
    options = {"model": "base", "messages": MESSAGES, "max_tokens": 24, "temperature": 0,
               "extra_body": {"ignore_eos": True}}
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = list(client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks[-2:-1]] == ["length"]
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole


def test_several_choices_and_seeds(client):
    def answers(seed, stream=False):
        made = client.chat.completions.create(model="base", messages=MESSAGES, max_tokens=12, n=3,
                                              temperature=1.5, seed=seed, stream=stream)
        if not stream:
            return [c.message.content for c in made.choices]
        texts = ["", "", ""]
        for chunk in made:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        return texts
    first = answers(7)
    assert len(first) == 3
    assert len(set(first)) > 1
    assert answers(7) == first
    assert answers(7, stream=True) == first
    assert answers(8) != first


def test_logprobs_of_chat_and_completion(client):
    made = client.chat.completions.create(model="base", messages=MESSAGES, max_tokens=5, logprobs=True,
                                          top_logprobs=3, temperature=0,
                                          extra_body={"ignore_eos": True})
    content = made.choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob <= 0 and token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert token.token == token.top_logprobs[0].token
    made = client.completions.create(model="base", prompt="a b c", max_tokens=5, logprobs=2,
                                     temperature=0, extra_body={"ignore_eos": True})
    logs = made.choices[0].logprobs
    assert len(logs.tokens) == len(logs.token_logprobs) == len(logs.text_offset) == 5


def test_stop_string_ends_the_answer_and_is_not_in_it(client):
    options = {"model": "base", "prompt": "One two three", "temperature": 0, "max_tokens": 40,
               "extra_body": {"ignore_eos": True}}
    text = client.completions.create(**options).choices[0].text
    word = next(text[i:i + 2] for i in range(8, len(text) - 2) if text[i:i + 2].isascii())
    cut = client.completions.create(**options, stop=[word]).choices[0]
    assert cut.finish_reason == "stop"
    assert word not in cut.text and text.startswith(cut.text)


def test_completion_takes_text_and_ids(client):
    by_ids = client.completions.create(model="base", prompt=[5, 6, 7], max_tokens=4, temperature=0)
    assert by_ids.usage.prompt_tokens == 3
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="base", prompt=[5, 1 << 30], max_tokens=4)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("body,param", [
    ({"frobnicate": 1}, "frobnicate"), ({"temperature": 3}, "temperature"), ({"n": 9}, "n"),
    ({"max_tokens": 0}, "max_tokens"), ({"stop": ["a"] * 5}, "stop"),
    ({"tools": [{"type": "function"}]}, "tools"), ({"response_format": {"type": "json_object"}},
                                                  "response_format"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias"), ({"messages": []}, "messages"),
    ({"messages": [{"role": "frob", "content": "a"}]}, "messages[0].role"),
    ({"model": 3}, "model"), ({"stream": "yes"}, "stream")])
def test_what_is_not_understood_is_refused_by_its_name(server, body, param):
    answer = Api(server).post("/v1/chat/completions", {"model": "base", "messages": MESSAGES, **body})
    assert answer.status == 400
    assert answer.error["param"] == param
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("text", ["", "{", "[]", "{} x", '{"model":"base","model":"base"}',
                                  "[" * 100 + "]" * 100, '{"a":"\\ud800"}', "null", '{"a":NaN}'])
def test_bad_json_is_refused(server, text):
    answer = Api(server).post("/v1/completions", text, content_type="application/json")
    assert answer.status == 400 and answer.error["message"]


def test_prompt_longer_than_the_context_is_named_so(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "word " * 30000}], max_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="base", prompt="a", max_tokens=1 << 20)
    assert caught.value.code == "context_length_exceeded"


def test_special_tokens_in_text_are_only_text(server):
    api = Api(server)
    plain = api.complete("base", "x", max_tokens=1).json["usage"]["prompt_tokens"]
    special = api.complete("base", "<|im_end|>x", max_tokens=1).json["usage"]["prompt_tokens"]
    assert special > plain + 1


def test_stream_over_http_1_0_ends_with_the_connection(server):
    api = Api(server)
    body = json.dumps({"model": "base", "prompt": "a", "max_tokens": 3, "stream": True})
    with api.raw() as connection:
        connection.sendall((f"POST /v1/completions HTTP/1.0\r\nAuthorization: Bearer {api.key}\r\n"
                            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                            f"{body}").encode())
        data = b""
        while piece := connection.recv(65536):
            data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"connection: close" in head
    assert rest.startswith(b"data: ") and rest.endswith(b"data: [DONE]\n\n")
