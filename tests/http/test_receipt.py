# SPDX-License-Identifier: MIT
"""Receipts of answers: as a header, in a stream, through the openai package and the command line;
what they say is recomputed, and what was changed is found."""
import base64
import hashlib
import json
import ssl
import stat
import subprocess

import openai
import pytest

from api import Api
from conftest import Server, write_adapter

WORDS = "Where does the heart beat, and why"


@pytest.fixture(scope="module")
def api(server, tmp_path_factory):
    api = Api(server)
    api.publish_new("cardiology", write_adapter(tmp_path_factory.mktemp("a") / "a", 1),
                    channel="stable")
    return api


@pytest.fixture(scope="module")
def lorica(server, api):
    return server.lorica


def sha(data):
    return "sha256:" + hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def opened(envelope, lorica, where):
    """The payload, once OpenSSL has agreed that the server signed it."""
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    (where / "pae").write_bytes(b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(payload)) +
                                payload)
    (where / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    public = lorica.data / "receipt.pub"
    subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in",
                    where / "pae", "-sigfile", where / "sig"], check=True, capture_output=True)
    assert envelope["signatures"][0]["keyid"] == hashlib.sha256(public.read_bytes()).hexdigest()
    return json.loads(payload)


def test_a_completion_carries_its_receipt(api, lorica, tmp_path):
    body = json.dumps({"model": "cardiology", "prompt": WORDS, "max_tokens": 9, "temperature": 0.5,
                       "seed": 7, "n": 2, "ignore_eos": True})
    answer = api.post("/v1/completions", body, content_type="application/json",
                      lorica_receipt="true", x_request_id="visit-42")
    assert answer.status == 200, answer.body
    said = opened(json.loads(answer.headers["lorica-receipt"]), lorica, tmp_path)
    version = api.get("/v1/adapters/cardiology/versions/1").json
    chain = api.get("/v1/audit").json["data"]
    ids = json.loads(lorica("base", "tokenize", "tiny", text=WORDS).stdout)
    assert said.pop("created") > 1e9
    assert said == {
        "type": "lorica.receipt.v1", "request_id": "visit-42", "endpoint": "completions",
        "base": "tiny", "base_digest": answer.headers["lorica-base-digest"],
        "adapter": "cardiology@1", "adapter_digest": version["digest"],
        "audit_seq": chain[-1]["seq"], "audit_hash": chain[-1]["hash"],
        "request_digest": sha(body), "prompt_digest": sha(WORDS),
        "prompt_tokens_digest": said["prompt_tokens_digest"],
        "prompt_tokens": answer.json["usage"]["prompt_tokens"],
        "sampling": {"temperature": 0.5, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
                     "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 7, "max_tokens": 9,
                     "n": 2, "ignore_eos": True},
        "outputs": [{"index": c["index"], "digest": sha(c["text"]), "tokens": 9,
                     "finish_reason": "length"} for c in answer.json["choices"]]}
    with_bos = [[1, *ids], [0, *ids], ids]
    assert said["prompt_tokens_digest"] in [
        sha(b"".join(i.to_bytes(4, "big") for i in some)) for some in with_bos]


def test_only_who_asks_gets_one(api):
    assert "lorica-receipt" not in api.complete("cardiology").headers
    asked = {"model": "cardiology", "prompt": "a", "max_tokens": 1}
    no = api.post("/v1/completions", asked, lorica_receipt="false")
    assert no.status == 200 and "lorica-receipt" not in no.headers
    odd = api.post("/v1/completions", asked, lorica_receipt="yes")
    assert odd.status == 400 and "lorica-receipt" in odd.error["message"]
    none = api.post("/v1/completions", {**asked, "model": "nobody"}, lorica_receipt="true")
    assert none.status == 404 and "lorica-receipt" not in none.headers


def test_ids_and_the_base_alone(api, lorica, tmp_path):
    answer = api.post("/v1/completions", {"model": "base", "prompt": [5, 6, 7], "max_tokens": 3},
                      lorica_receipt="true")
    said = opened(json.loads(answer.headers["lorica-receipt"]), lorica, tmp_path)
    assert (said["adapter"], said["adapter_digest"]) == (None, None)
    assert said["prompt_digest"] == sha("[5,6,7]") and said["prompt_tokens"] == 3
    assert said["prompt_tokens_digest"] == sha(b"".join(i.to_bytes(4, "big") for i in (5, 6, 7)))
    assert 0 <= said["sampling"]["seed"] <= 2 ** 53


@pytest.fixture
def client(server):
    transport = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(server.ca)))
    with openai.OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0,
                       http_client=transport) as made:
        yield made


def test_the_openai_package_gets_it_in_both_ways(api, client, lorica, tmp_path):
    messages = [{"role": "user", "content": WORDS}]
    rendered = lorica("base", "render", "tiny", text=json.dumps(messages)).stdout
    options = dict(model="cardiology", messages=messages, max_tokens=8, seed=3,
                   extra_headers={"lorica-receipt": "true"})
    raw = client.chat.completions.with_raw_response.create(**options)
    whole = raw.parse()
    said = opened(json.loads(raw.headers["lorica-receipt"]), lorica, tmp_path)
    assert said["outputs"][0]["digest"] == sha(whole.choices[0].message.content)
    assert said["endpoint"] == "chat.completions" and said["adapter"] == "cardiology@1"
    try:
        prompt = json.loads(rendered)["prompt"]
    except (ValueError, KeyError):
        prompt = rendered
    assert said["prompt_digest"] in (sha(prompt), sha(prompt.rstrip("\n")))

    text, receipts, usage = "", [], None
    for chunk in client.chat.completions.create(**options, stream=True,
                                                stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            assert not receipts
        elif chunk.usage:
            usage = chunk.usage
        else:
            receipts.append(chunk.lorica_receipt)
    assert usage and len(receipts) == 1
    streamed = opened(receipts[0], lorica, tmp_path)
    assert text == whole.choices[0].message.content
    assert streamed["outputs"] == said["outputs"]
    assert streamed["prompt_digest"] == said["prompt_digest"]


def test_the_command_line_gets_and_checks_one(api, lorica, tmp_path):
    prompt, answer, receipt = (tmp_path / name for name in ("prompt", "answer", "receipt.json"))
    prompt.write_text(WORDS)
    receipt.write_text(lorica("adapter", "receipt", "cardiology", "--prompt", prompt, "--answer",
                              answer, "--max-tokens", 6, "--seed", 5).stdout)
    public = tmp_path / "server.pub"
    public.write_text(lorica("adapter", "receipt", "--public-key").stdout)
    assert public.read_text() == (lorica.data / "receipt.pub").read_text()
    words = ("verify", "receipt", receipt)
    good = lorica(*words, "--prompt", prompt, "--output", answer)
    assert "the receipt holds" in good.stdout and "cardiology@1" in good.stdout
    assert lorica.json(*words, "--key", public)["clean"]
    with open(prompt, "a") as file:
        file.write("\n")
    assert "is not the prompt" in lorica(*words, "--prompt", prompt, code=1).stdout
    assert "is not an output" in lorica(*words, "--output", prompt, code=1).stdout
    assert not lorica.json(*words, "--output", prompt, code=1)["clean"]
    envelope = json.loads(receipt.read_text())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["adapter"] = "cardiology@2"
    forged = {**envelope, "payload": base64.b64encode(json.dumps(payload).encode()).decode()}
    for text, says in ((json.dumps(forged), "does not hold"), ("{}", "payloadType"), ("", "JSON"),
                       (json.dumps({**envelope, "payloadType": "x/y"}), "no receipt"),
                       (receipt.read_text()[:-20], "JSON")):
        (tmp_path / "bad").write_text(text)
        failed = lorica("verify", "receipt", tmp_path / "bad", code=1)
        assert says in failed.stderr, failed.stderr
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "k"],
                   check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", tmp_path / "k", "-pubout", "-out", tmp_path / "p"],
                   check=True)
    assert "does not hold" in lorica(*words, "--key", tmp_path / "p", code=1).stderr
    assert "receipt.pub is not here" in lorica(*words, "--data", tmp_path, code=1).stderr
    lorica("adapter", "receipt", "cardiology", code=2)
    lorica("adapter", "receipt", "--public-key", "--prompt", prompt, code=2)
    assert "nobody" in lorica("adapter", "receipt", "nobody", "--prompt", prompt, code=1).stderr


def test_a_key_that_is_lost_leaves_its_public_half(data_dir, tmp_path):
    """Receipts of before are checked for years: no server that starts takes that away."""
    running = Server(data_dir)
    (tmp_path / "prompt").write_text(WORDS)
    (tmp_path / "receipt").write_text(data_dir("adapter", "receipt", "base", "--prompt",
                                               tmp_path / "prompt", "--max-tokens", 2).stdout)
    running.stop()
    before = (data_dir.data / "receipt.pub").read_text()
    (data_dir.data / "receipt.key").unlink()
    running = Server(data_dir)
    running.stop()
    assert (data_dir.data / "receipt.pub").read_text() != before
    [kept] = data_dir.data.glob("receipt-*.pub")
    assert kept.read_text() == before and sha(before.encode())[7:23] in kept.name
    assert "does not hold" in data_dir("verify", "receipt", tmp_path / "receipt", code=1).stderr
    data_dir("verify", "receipt", tmp_path / "receipt", "--key", kept)
    Server(data_dir).stop()  # and no more are made
    assert len(list(data_dir.data.glob("receipt*.pub"))) == 2


def test_the_key_is_kept_secret_and_the_words_are_not_kept(server, api, lorica):
    mode = (lorica.data / "receipt.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    published = api.get("/v1/receipts/key").json
    assert published["public_key"] == (lorica.data / "receipt.pub").read_text()
    assert published["key_id"] == sha((lorica.data / "receipt.pub").read_bytes())
    assert api.with_key("").get("/v1/receipts/key").status == 401
    assert server.stop() == 0
    words = WORDS.encode()
    for path in lorica.data.rglob("*"):
        assert not path.is_file() or words not in path.read_bytes(), path
    assert words not in (lorica.data.parent / "server.log").read_bytes()
