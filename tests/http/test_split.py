# SPDX-License-Identifier: MIT
"""A share of stable's traffic for a canary, over HTTP and the command line. Who gets the canary is
compared with the rule that registry/split.h states."""
import hashlib
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from api import Api
from conftest import write_adapter

ADAPTERS = "/v1/adapters"
USERS = [f"user-{i}" for i in range(200)]


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Adapter directories by seed, made once."""
    parent = tmp_path_factory.mktemp("adapters")
    return [write_adapter(parent / str(seed), seed) for seed in range(4)]


def place(name, version, sticky):
    """Where a text stands from 0 to 9999."""
    inner = hashlib.sha256(sticky.encode()).digest()
    digest = hashlib.sha256(f"{name}\0{version}\0".encode() + inner).digest()
    return int.from_bytes(digest[:4], "big") * 10000 >> 32


def expected(name, percent, sticky, canary=2, stable=1):
    return f"{name}@{canary if place(name, canary, sticky) < percent * 100 else stable}"


def path(name):
    return f"{ADAPTERS}/{name}/split"


def set_split(api, name, epoch, version=2, percent=30, **more):
    return api("PUT", path(name), {"version": version, "percent": percent, **more},
               if_match=f'"{epoch}"')


def make(api, dirs, name, versions=2):
    """An adapter whose stable is version 1."""
    for seed in range(versions):
        parts = {} if seed else {"channel": "stable"}
        api.publish_new(name, dirs[seed], **parts)


def answering(api, model, user=None):
    more = {} if user is None else {"user": user}
    answer = api.complete(model, "a", 1, **more)
    assert answer.status == 200, answer.body
    assert answer.json["model"] == answer.headers["lorica-adapter"]
    return answer.headers["lorica-adapter"]


def test_users_get_the_side_that_the_rule_says_and_keep_it(api, dirs):
    make(api, dirs, "share")
    assert set_split(api, "share", 0, percent=20).status == 200
    first = {user: answering(api, "share", user) for user in USERS}
    assert first == {user: expected("share", 20, user) for user in USERS}
    assert {"share@1", "share@2"} == set(first.values())
    assert set_split(api, "share", 1, percent=60.5).status == 200
    second = {user: answering(api, "share:stable", user) for user in USERS}
    assert second == {user: expected("share", 60.5, user) for user in USERS}
    assert all(second[user] == "share@2" for user in USERS if first[user] == "share@2")


def test_without_a_user_the_key_is_who_asks(api, dirs):
    make(api, dirs, "keyed")
    set_split(api, "keyed", 0, percent=50)
    names = [f"keyed-{i}" for i in range(12)]
    got = {name: answering(api.make_key(name, "infer"), "keyed") for name in names}
    assert got == {name: expected("keyed", 50, name) for name in names}
    assert len(set(got.values())) == 2
    assert answering(api, "keyed", "") == expected("keyed", 50, "admin")


def test_chat_is_split_and_named_versions_and_channels_are_not(api, dirs):
    make(api, dirs, "named")
    set_split(api, "named", 0, percent=100)
    chat = api.post("/v1/chat/completions", {"model": "named", "max_tokens": 1, "user": "u",
                                             "messages": [{"role": "user", "content": "a"}]})
    assert chat.headers["lorica-adapter"] == "named@2"
    assert answering(api, "named", "u") == "named@2"
    assert answering(api, "named@1", "u") == "named@1"
    api("PUT", f"{ADAPTERS}/named/channels/old", {"version": 1}, if_match='"0"')
    assert answering(api, "named:old", "u") == "named@1"
    assert api.complete("named", user="x" * 513).status == 400
    assert api.complete("named", user=5).status == 400


def test_a_split_is_read_changed_and_ended_under_its_epoch(api, dirs):
    make(api, dirs, "epochs", 3)
    none = api.get(path("epochs"))
    assert none.headers["etag"] == '"0"'
    assert (none.json["version"], none.json["percent"], none.json["stable"]) == (0, 0, 1)
    made = set_split(api, "epochs", 0, percent=2.5, message="try it", window=60, max_latency_ratio=2.5)
    terms = ("window", "min_requests", "max_error_excess", "max_latency_ratio")
    assert [made.json[term] for term in terms] == [60, 50, 2, 2.5]
    assert made.status == 200 and made.headers["etag"] == '"1"'
    assert api.get(path("epochs")).json == made.json
    assert (made.json["version"], made.json["percent"], made.json["changed_by"]) == (2, 2.5, "admin")
    assert made.json["started"] == made.json["changed"] > 0
    assert set_split(api, "epochs", 0, percent=50).status == 412
    assert api("PUT", path("epochs"), {"version": 2, "percent": 50}).status == 428
    assert api("DELETE", path("epochs")).status == 428
    assert api("DELETE", path("epochs"), if_match='"0"').status == 412
    assert api.get(path("epochs")).json == made.json
    other = set_split(api, "epochs", 1, version=3).json
    assert [other[term] for term in ("version", *terms)] == [3, 300, 50, 2, 1.5]
    ended = api("DELETE", path("epochs"), {"reason": "enough"}, if_match='"2"')
    assert ended.status == 200 and ended.headers["etag"] == '"3"' and ended.json["version"] == 0
    assert api("DELETE", path("epochs"), if_match='"3"').status == 409
    records = api.get(f"{ADAPTERS}/epochs/history").json["data"]
    assert [(r["kind"], r["version"], r["message"]) for r in records if r["kind"] == "split"] == [
        ("split", 2, "try it"), ("split", 3, ""), ("split", 0, "enough")]
    assert {answering(api, "epochs", user) for user in USERS[:20]} == {"epochs@1"}


@pytest.mark.parametrize("body,status", [
    ({}, 400), ({"version": 2}, 400), ({"percent": 5}, 400), ({"version": 0, "percent": 5}, 400),
    ({"version": "2", "percent": 5}, 400), ({"version": 2, "percent": 0}, 400),
    ({"version": 2, "percent": 100.01}, 400), ({"version": 2, "percent": 0.005}, 400),
    ({"version": 2, "percent": 1.001}, 400), ({"version": 2, "percent": "5"}, 400),
    ({"version": 2, "percent": 5, "frobnicate": 1}, 400), ({"version": 9, "percent": 5}, 404),
    ({"version": 2, "percent": 5, "message": "x" * 1001}, 400), ({"version": 1, "percent": 5}, 409),
    *[({"version": 2, "percent": 5, **bad}, 400) for bad in (
        {"window": 4}, {"window": 86401}, {"window": "9"}, {"min_requests": 0}, {"min_requests": 2001},
        {"max_error_excess": -1}, {"max_error_excess": 100.5}, {"max_error_excess": 0.001},
        {"max_latency_ratio": 1}, {"max_latency_ratio": 101}, {"max_latency_ratio": "2"})]])
def test_a_split_that_makes_no_sense_is_refused(api, dirs, body, status):
    if api.get(f"{ADAPTERS}/nonsense").status == 404:
        make(api, dirs, "nonsense")
    assert api("PUT", path("nonsense"), body, if_match='"0"').status == status
    assert api.get(path("nonsense")).json["epoch"] == 0


def test_unknown_names_and_a_stable_that_points_nowhere_are_refused(api, dirs):
    assert set_split(api, "nobody", 0).status == 404
    assert api.get(path("nobody")).status == 404
    assert api("DELETE", path("nobody"), if_match='"0"').status == 404
    api.publish_new("nowhere", dirs[0])
    refused = set_split(api, "nowhere", 0, version=1)
    assert refused.status == 409 and "promote a version first" in refused.error["message"]


def test_changes_take_the_role_ops_and_pass_what_stable_demands(api, dirs):
    make(api, dirs, "held")
    publish, ops = api.make_key("held-publish", "publish"), api.make_key("held-ops", "ops")
    assert publish.get(path("held")).status == 200
    assert set_split(publish, "held", 0).status == 403
    assert publish("DELETE", path("held"), if_match='"0"').status == 403
    api("PUT", f"{ADAPTERS}/held/channels/stable/policy", {"max_rank": 1}, if_match='"0"')
    gated = set_split(ops, "held", 0)
    assert gated.status == 409 and gated.error["code"] == "policy_not_met"
    api("PUT", f"{ADAPTERS}/held/channels/stable/policy", {}, if_match='"1"')
    assert set_split(ops, "held", 0).json["changed_by"] == "held-ops"


def test_promoting_the_canary_ends_the_split_and_so_does_a_rollback(api, dirs):
    make(api, dirs, "moved", 3)
    set_split(api, "moved", 0)
    assert api("PUT", f"{ADAPTERS}/moved/channels/stable", {"version": 2},
               if_match='"1"').status == 200
    after = api.get(path("moved")).json
    assert (after["version"], after["stable"], after["epoch"]) == (0, 2, 2)
    assert {answering(api, "moved", user) for user in USERS[:20]} == {"moved@2"}
    set_split(api, "moved", 2, version=3)
    assert api.post(f"{ADAPTERS}/moved/channels/stable/rollback").status == 200
    after = api.get(path("moved")).json
    assert (after["version"], after["stable"], after["epoch"]) == (0, 1, 4)
    last = api.get(f"{ADAPTERS}/moved/history").json["data"][-1]
    assert last["kind"] == "split" and "rolled back to version 1" in last["message"]


def write_broken(parent):
    """An adapter of finite numbers that can be multiplied, and give infinity with any input."""
    made = write_adapter(parent / "broken", 9)
    tensors = {name: np.full_like(tensor, 1e21)
               for name, tensor in load_file(made / "adapter_model.safetensors").items()}
    save_file(tensors, made / "adapter_model.safetensors", metadata={"format": "pt"})
    return made


def test_each_version_has_its_requests_errors_and_tokens_in_the_metrics(api, dirs, tmp_path):
    make(api, dirs, "counted", 1)
    api.publish_new("counted", write_broken(tmp_path))
    set_split(api, "counted", 0, percent=50)
    sides = {1: 0, 2: 0}
    for user in USERS[:30]:
        version = int(expected("counted", 50, user).rpartition("@")[2])
        answer = api.complete("counted", "a", 3, ignore_eos=True, user=user)
        assert answer.status == (200 if version == 1 else 500), answer.body
        sides[version] += 1
    lines = api.get("/metrics").body.decode().splitlines()
    for version, errors, tokens in ((1, 0, 3), (2, 1, 0)):
        count = sides[version]
        assert count > 0
        label = f'{{adapter="counted@{version}"}}'
        assert f"lorica_requests_total{label} {count}" in lines
        assert f"lorica_errors_total{label} {errors * count}" in lines
        assert f"lorica_output_tokens_total{label} {tokens * count}" in lines


def test_a_canary_that_fails_is_taken_off_with_the_figures_as_the_reason(api, dirs, tmp_path):
    make(api, dirs, "fails", 1)
    api.publish_new("fails", write_broken(tmp_path))
    sides = {side: [u for u in USERS if expected("fails", 50, u) == f"fails@{side}"] for side in (1, 2)}
    set_split(api, "fails", 0, percent=50, window=600, min_requests=5, max_latency_ratio=0)
    for good, bad in zip(sides[1][:5], sides[2][:5]):
        assert api.complete("fails", "a", 2, user=good).status == 200
        assert api.complete("fails", "a", 2, user=bad).status == 500
    end = time.monotonic() + 60
    while (split := api.get(path("fails")).json)["version"]:
        assert time.monotonic() < end, split
        time.sleep(0.05)
    assert (split["epoch"], split["changed_by"], split["stable"]) == (2, "auto", 1)
    last = api.get(f"{ADAPTERS}/fails/history").json["data"][-1]
    assert (last["kind"], last["actor"], last["version"]) == ("split", "auto", 0)
    assert last["message"] == ("ended: version 2 failed 5 of 5 requests, more than 2.00 % above the "
                               "0 of 5 of version 1, within 600 s")
    assert api.complete("fails", "a", 2, user=sides[2][0]).headers["lorica-adapter"] == "fails@1"
    for own in ("auto", "cli", "server"):  # whom the audit names for what lorica does by itself
        assert api.post("/v1/keys", {"name": own, "role": "ops"}).status == 400


def test_the_command_line_sets_shows_and_ends(own_server, adapter):
    lorica = own_server.lorica
    lorica("adapter", "publish", "cli", adapter(1), "--channel", "stable")
    lorica("adapter", "publish", "cli", adapter(2))
    assert "cli has no split" in lorica("adapter", "split", "cli").stdout
    said = lorica("adapter", "split", "cli", "--canary", "@2", "--percent", 12.5,
                  "--message", "try", "--max-errors", 0.5, "--max-latency", 0).stdout
    assert "300 s and at least 50 requests on each side, 0.5 % more of them fail\n" in said
    assert "12.5 % of the requests for stable, which is version 1, go to version 2" in said
    grown = lorica.json("adapter", "split", "cli", "--canary", 2, "--percent", 50, "--window", 9)
    assert [grown[term] for term in ("window", "max_error_excess", "max_latency_ratio")] == [9, 0.5, 0]
    assert (grown["version"], grown["percent"], grown["epoch"]) == (2, 50, 2)
    assert lorica.json("adapter", "split", "cli") == grown
    stale = lorica("adapter", "split", "cli", "--end", "--epoch", 1, code=1).stderr
    assert "its epoch is 2, not 1" in stale
    assert "has no split" in lorica("adapter", "split", "cli", "--end", "--reason", "enough").stdout
    lorica("adapter", "split", "cli", "--end", code=1)
    assert "enough" in lorica("adapter", "history", "cli").stdout
    for bad in (["--canary", "@2"], ["--percent", 5], ["--canary", "x", "--percent", 5],
                ["--canary", 0, "--percent", 5], ["--canary", 2, "--percent", 0],
                ["--canary", 2, "--percent", 101], ["--end", "--canary", 2, "--percent", 5],
                ["--reason", "x"], ["--window", 9],
                ["--canary", 2, "--percent", 5, "--window", 4], ["--end", "--max-errors", 1],
                ["--canary", 2, "--percent", 5, "--min-requests", 2001], ["--message", "x"], ["--epoch", 1], ["--end", "--message", "x"],
                ["--end", "--epoch", "x"]):
        lorica("adapter", "split", "cli", *bad, code=2)
    assert own_server.stop() == 0
    assert "is clean" in lorica("verify").stdout
