# SPDX-License-Identifier: MIT
"""Must-say and must-not-say checks of a channel: run before every move, told to whoever asked, kept
out of log and audit, and run by hand with lorica adapter check."""
import json
import time

import pytest

from api import Api
from conftest import write_adapter

ADAPTERS = "/v1/adapters"
PROMPT = "Which ward has the unmistakable zebra?"
ABSENT = "never said by so small a model"


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    parent = tmp_path_factory.mktemp("adapters")
    return [write_adapter(parent / str(seed), seed) for seed in range(4)]


def answer_of(api, model, prompt=PROMPT):
    answer = api.post("/v1/chat/completions", {
        "model": model, "temperature": 0, "max_tokens": 128,
        "messages": [{"role": "user", "content": prompt}]})
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["message"]["content"]


def phrase_of(api, name, version, others):
    """A piece of this version's answer that those of others do not hold."""
    text = answer_of(api, f"{name}@{version}").lower()
    rest = [answer_of(api, f"{name}@{v}").lower() for v in others]
    for at in range(len(text) - 6):
        piece = text[at:at + 6]
        if piece.isascii() and piece.isprintable() and not any(piece in t for t in rest):
            return piece.upper()
    raise AssertionError("the answers are alike")


def channel(name, word="stable"):
    return f"{ADAPTERS}/{name}/channels/{word}"


def set_policy(api, name, epoch=0, word="stable", **demands):
    return api("PUT", channel(name, word) + "/policy", demands, if_match=f'"{epoch}"')


def promote(api, name, version, word="stable"):
    epoch = api.get(channel(name, word)).headers["etag"]
    return api("PUT", channel(name, word), {"version": version}, if_match=epoch)


@pytest.fixture
def checked(api, dirs, request):
    """An adapter of three versions; the checks of stable pass for version 2 alone."""
    name = request.node.name.replace("[", "-").replace("]", "").replace("_", "-")[:100]
    for directory in dirs[:3]:
        api.publish_new(name, directory)
    phrase = phrase_of(api, name, 2, (1, 3))
    checks = [{"prompt": PROMPT, "must_say": [phrase], "must_not_say": ABSENT}]
    assert set_policy(api, name, checks=checks).status == 200
    return name, checks


def test_only_a_version_that_answers_well_may_be_promoted(api, checked):
    name, checks = checked
    refused = promote(api, name, 1)
    assert refused.status == 409 and refused.error["code"] == "policy_not_met"
    message = refused.error["message"]
    assert "checks: 1 of 1 failed" in message and PROMPT in message
    assert f'does not say "{checks[0]["must_say"][0]}"' in message
    assert answer_of(api, f"{name}@1")[:8].split("\n")[0] in message
    assert api.get(channel(name)).headers["etag"] == '"0"'
    assert promote(api, name, 2).status == 200
    assert promote(api, name, 3).status == 409
    policy = api.get(channel(name) + "/policy").json
    assert policy["checks"] == checks and policy["policy"]["checks"] == 1
    moved, = [r for r in api.get(f"{ADAPTERS}/{name}/history").json["data"]
              if r["kind"] == "promote"]
    assert moved["detail"]["checks"] == {"passed": 1, "of": 1,
                                         "list": policy["policy"]["checks_digest"]}
    # What was asked and answered is nobody else's.
    api.server.log.seek(0)
    log = api.server.log.read().decode()
    audit = api.get(f"{ADAPTERS}/{name}/history?limit=1000").body.decode()
    for text in (log, audit):
        assert "zebra" not in text and checks[0]["must_say"][0] not in text
    assert "checks: 1 of 1 failed" in audit


def test_must_not_say_refuses_and_names_what_was_said(api, checked):
    name, checks = checked
    phrase = checks[0]["must_say"][0].lower()
    assert set_policy(api, name, 1, checks=[
        {"prompt": "Hello", "must_not_say": ABSENT},
        {"prompt": PROMPT, "must_not_say": [ABSENT, phrase]}]).status == 200
    refused = promote(api, name, 2)
    assert refused.status == 409 and "checks: 1 of 2 failed" in refused.error["message"]
    assert f'check 2, "{PROMPT}": the answer says "{phrase}"' in refused.error["message"]
    assert promote(api, name, 1).status == 200


def test_publish_that_names_the_channel_is_checked_too(api, checked, dirs):
    name, _ = checked
    refused = api.publish(name, dirs[3], channel="stable")
    assert refused.status == 409 and "checks: 1 of 1 failed" in refused.error["message"]
    assert api.get(f"{ADAPTERS}/{name}/versions/4").status == 404
    existing = api.publish(name, dirs[1], channel="stable")
    assert existing.status == 200 and existing.json["version"] == 2
    assert api.get(channel(name)).json["version"] == 2


def test_rollback_asks_nothing_and_a_canary_is_asked_what_stable_asks(api, checked):
    name, checks = checked
    assert set_policy(api, name, 1).status == 200
    for version in (1, 2):
        assert promote(api, name, version).status == 200
    assert set_policy(api, name, 2, checks=checks).status == 200
    back = api.post(channel(name) + "/rollback", {"reason": "it was better"})
    assert back.status == 200 and back.json["version"] == 1
    split = {"version": 3, "percent": 10}
    refused = api("PUT", f"{ADAPTERS}/{name}/split", split, if_match='"0"')
    assert refused.status == 409 and "checks: 1 of 1 failed" in refused.error["message"]
    split["version"] = 2
    assert api("PUT", f"{ADAPTERS}/{name}/split", split, if_match='"0"').status == 200


@pytest.mark.parametrize("checks, says", [
    ({}, "list"), ([], "at least one"), (["x"], "no object"), ([{"prompt": "x"}], "nothing"),
    ([{"must_say": "x"}], "no prompt"), ([{"prompt": "x", "must_say": ""}], "phrases"),
    ([{"prompt": "x", "must_say": [7]}], "phrases"),
    ([{"prompt": "x", "must_say": "y", "model": "z"}], '"model" means nothing'),
    ([{"prompt": "x", "must_say": "y", "system": 1}], "system"),
    ([{"prompt": "x", "must_say": ["y"] * 17}], "16"),
    ([{"prompt": "x", "must_say": "y"}] * 65, "64"),
    ([{"prompt": "x" * 70000, "must_say": "y"}], "65536"),
])
def test_bad_list_is_refused_with_what_is_wrong(api, dirs, checks, says):
    api.publish("bad", dirs[0])
    answer = set_policy(api, "bad", checks=checks)
    assert answer.status in (400, 413) and says in answer.error["message"]
    assert answer.error["param"] == "checks"


def test_prompt_that_fits_nowhere_is_named(api, dirs):
    api.publish_new("long", dirs[0])
    checks = [{"prompt": "x" * 40000, "must_say": "y"}]
    assert set_policy(api, "long", checks=checks).status == 200
    answer = promote(api, "long", 1)
    assert answer.status == 400 and "check 1" in answer.error["message"]


def test_client_that_leaves_ends_the_checks(api, dirs):
    api.publish_new("left", dirs[0])
    checks = [{"prompt": f"Say {i}. " * 400, "must_say": ABSENT} for i in range(16)]
    assert set_policy(api, "left", checks=checks).status == 200
    before = api.metric("lorica_requests_cancelled_total")
    connection = api.connect()
    connection.request("PUT", channel("left"), json.dumps({"version": 1}), api.headers(
        if_match='"0"', content_type="application/json"))
    time.sleep(0.3)
    connection.close()
    api.wait_metric("lorica_requests_in_flight", 1)
    api.wait_metric("lorica_engine_running", 0)
    assert api.metric("lorica_requests_cancelled_total") >= before
    assert api.get(channel("left")).headers["etag"] == '"0"'


def test_commands_set_keep_and_run_checks(server, api, dirs, tmp_path):
    lorica = server.lorica
    for directory in dirs[:2]:
        api.publish_new("cli", directory)
    phrase = phrase_of(api, "cli", 2, (1,))
    path = tmp_path / "checks.jsonl"
    path.write_text(json.dumps({"prompt": PROMPT, "must_say": phrase}) + "\n\n" + json.dumps(
        {"prompt": "Hello", "system": "Be kind.", "must_not_say": ABSENT}) + "\n")
    shown = lorica("adapter", "policy", "cli", "--checks", path)
    assert "2 prompts" in shown.stdout
    lorica("adapter", "policy", "cli", "--max-rank", 8)
    kept = lorica.json("adapter", "policy", "cli")
    assert len(kept["checks"]) == 2 and kept["policy"]["max_rank"] == 8
    failed = lorica("adapter", "check", "cli@1", path, code=1)
    assert "1 of 2 checks passed" in failed.stdout and "lacks" in failed.stdout
    assert "2 of 2 checks passed" in lorica("adapter", "check", "cli@2", path).stdout
    found = json.loads(lorica("adapter", "check", "cli@1", path, "--json", code=1).stdout)
    assert [one["passed"] for one in found["data"]] == [False, True] and found["failed"] == 1
    refused = lorica("adapter", "promote", "cli@1", code=1)
    assert "checks: 1 of 2 failed" in refused.stderr and PROMPT in refused.stderr
    lorica("adapter", "promote", "cli@2")
    lorica("adapter", "policy", "cli", "--no-checks")
    assert lorica.json("adapter", "policy", "cli")["checks"] is None
    path.write_text('{"prompt":"x"}\n')
    bad = lorica("adapter", "check", "cli@1", path, code=1)
    assert str(path) in bad.stderr and "check 1" in bad.stderr
