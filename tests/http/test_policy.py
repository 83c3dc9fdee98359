# SPDX-License-Identifier: MIT
"""What a channel demands before it moves: gates, approvals, roles, over HTTP and the command line."""
import json

import pytest

from api import Api
from conftest import write_adapter

ADAPTERS = "/v1/adapters"


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Adapter directories by seed and rank, made once."""
    parent, made = tmp_path_factory.mktemp("adapters"), {}

    def make(seed, rank=4):
        if (seed, rank) not in made:
            made[seed, rank] = write_adapter(parent / str(len(made)), seed, rank)
        return made[seed, rank]
    return make


def channel(name, word="stable"):
    return f"{ADAPTERS}/{name}/channels/{word}"


def set_policy(api, name, epoch=0, word="stable", **demands):
    return api("PUT", channel(name, word) + "/policy", demands, if_match=f'"{epoch}"')


def promote(api, name, version, word="stable"):
    epoch = api.get(channel(name, word)).headers["etag"]
    return api("PUT", channel(name, word), {"version": version}, if_match=epoch)


def refused(answer, *words):
    """A 409 of the policy that says all the words."""
    assert answer.status == 409, answer.body
    assert answer.error["code"] == "policy_not_met"
    assert all(word in answer.error["message"] for word in words), answer.error["message"]


def evals(**losses):
    return json.dumps({"evals": losses})


def test_a_policy_is_read_set_and_replaced_under_its_epoch(api, dirs):
    api.publish_new("set", dirs(1))
    none = api.get(channel("set") + "/policy")
    nothing = {"approvals": 0, "min_role": "infer", "max_rank": 0, "max_bytes": 0, "eval_set": None,
               "max_worse": 0.0, "signed": False, "checks": 0, "checks_digest": None}
    assert none.headers["etag"] == '"0"' and none.json["policy"] == nothing
    made = set_policy(api, "set", 0, approvals=2, max_rank=16, message="four eyes")
    assert made.status == 200 and made.headers["etag"] == '"1"'
    assert made.json["policy"] == {**nothing, "approvals": 2, "max_rank": 16}
    assert (made.json["epoch"], made.json["changed_by"]) == (1, "admin")
    assert api.get(channel("set") + "/policy").json == made.json
    assert set_policy(api, "set", 0, approvals=3).status == 412
    assert api("PUT", channel("set") + "/policy", {"approvals": 3}).status == 428
    replaced = set_policy(api, "set", 1, eval_set="ward", max_worse=0.5)
    assert replaced.json["policy"] == {**nothing, "eval_set": "ward", "max_worse": 0.5}
    record = api.get(f"{ADAPTERS}/set/history").json["data"][-3]  # one was refused, one replaced it
    assert (record["kind"], record["message"], record["channel"]) == ("policy", "four eyes", "stable")
    detail = record["detail"]
    assert (detail["before"]["approvals"], detail["after"]) == (0, made.json["policy"])
    assert set_policy(api, "nobody", 0).status == 404
    assert set_policy(api, "set", 0, "Bad").status == 400


@pytest.mark.parametrize("demands", [
    {"approvals": -1}, {"approvals": 33}, {"approvals": "2"}, {"approvals": 1.5}, {"min_role": "king"},
    {"min_role": 1}, {"max_rank": -1}, {"max_bytes": 1 << 40}, {"eval_set": ""}, {"eval_set": "a b"},
    {"eval_set": "x" * 129}, {"eval_set": 5}, {"max_worse": 0.1}, {"eval_set": "a", "max_worse": -1},
    {"eval_set": "a", "max_worse": "1"}, {"signed": 1}, {"frobnicate": 1}])
def test_a_policy_that_makes_no_sense_is_refused(api, dirs, demands):
    if api.get(f"{ADAPTERS}/nonsense").status == 404:
        api.publish_new("nonsense", dirs(1))
    assert set_policy(api, "nonsense", 0, **demands).status == 400
    assert api.get(channel("nonsense") + "/policy").json["epoch"] == 0


def test_rank_and_size_gates_say_the_figures(api, dirs):
    api.publish_new("size", dirs(1, 4))
    large = api.publish_new("size", dirs(1, 8))
    assert set_policy(api, "size", 0, max_rank=7, max_bytes=large["weights_bytes"] - 1).status == 200
    refused(promote(api, "size", 2), "rank: 8, at most 7",
            f"size: {large['weights_bytes']} bytes of weights, at most {large['weights_bytes'] - 1}")
    assert promote(api, "size", 1).status == 200
    assert api.get(channel("size")).json["version"] == 1
    set_policy(api, "size", 1, max_rank=8, max_bytes=large["weights_bytes"])
    assert promote(api, "size", 2).status == 200


def test_a_worse_loss_does_not_pass_and_says_by_how_much(api, dirs):
    api.publish_new("loss", dirs(1), manifest=evals(ward=1.5), channel="stable")
    api.publish_new("loss", dirs(2), manifest=evals(ward=1.6, other=0))
    api.publish_new("loss", dirs(3))
    set_policy(api, "loss", 0, eval_set="ward", max_worse=0.05)
    refused(promote(api, "loss", 2), "eval", "ward is 1.6", "over the 1.5 of version 1", "0.05")
    refused(promote(api, "loss", 3), "states no loss on ward")
    refused(api.publish("loss", dirs(4), manifest=evals(ward=1.6), channel="stable"), "ward is 1.6")
    assert api.get(f"{ADAPTERS}/loss").json["latest"] == 3
    assert api.publish("loss", dirs(4), manifest=evals(ward=1.55), channel="stable").status == 201
    assert api.complete("loss").headers["lorica-adapter"] == "loss@4"


def test_two_keys_must_want_it_and_a_rollback_takes_one(api, dirs):
    for seed in (1, 2, 3):
        api.publish_new("eyes", dirs(seed))
    assert promote(api, "eyes", 1).status == 200
    set_policy(api, "eyes", 0, approvals=2)
    anna, ben = api.make_key("anna", "ops"), api.make_key("ben", "ops")
    refused(promote(anna, "eyes", 2), "approvals: 1 of 2")
    refused(api.publish("eyes", dirs(4), channel="stable"), "approvals: 1 of 2")
    path = channel("eyes") + "/approvals"
    given = ben.post(path, {"version": 2, "reason": "read it"})
    assert given.status == 200 and given.json["given_by"] == "ben"
    assert ben.post(path, {"version": 2}).json == given.json
    assert api.get(path).json["data"] == [given.json]
    refused(promote(ben, "eyes", 2), "approvals: 1 of 2")
    refused(promote(anna, "eyes", 3), "approvals: 1 of 2")
    assert promote(anna, "eyes", 2).status == 200
    assert api.get(path).json["data"] == []
    ben.post(path, {"version": 3})
    back = anna.post(channel("eyes") + "/rollback", {"reason": "three in the morning"})
    assert back.status == 200 and back.json["version"] == 1
    refused(promote(anna, "eyes", 3), "approvals: 1 of 2")
    kinds = [r["kind"] for r in api.get(f"{ADAPTERS}/eyes/history").json["data"]]
    assert [k for k in kinds if k != "refused"][-4:] == ["approve", "promote", "approve", "rollback"]


@pytest.mark.parametrize("body,status", [
    ({}, 400), ({"version": 0}, 400), ({"version": "1"}, 400), ({"version": 9}, 404),
    ({"version": 1, "reason": 5}, 400), ({"version": 1, "reason": "x" * 1001}, 400),
    ({"version": 1, "frob": 1}, 400)])
def test_an_approval_that_makes_no_sense_is_refused(api, dirs, body, status):
    if api.get(f"{ADAPTERS}/unwise").status == 404:
        api.publish_new("unwise", dirs(1))
    path = channel("unwise") + "/approvals"
    assert api.post(path, body).status == status
    assert api.get(path).json["data"] == []


def test_roles_hold_policies_approvals_and_protected_channels(api, dirs):
    api.publish_new("held", dirs(1))
    users = {role: api.make_key(f"held-{role}", role) for role in ("infer", "publish", "ops")}
    assert users["infer"].get(channel("held") + "/policy").status == 403
    assert users["publish"].get(channel("held") + "/policy").status == 200
    assert users["publish"].get(channel("held") + "/approvals").status == 200
    assert users["publish"].post(channel("held") + "/approvals", {"version": 1}).status == 403
    assert set_policy(users["ops"], "held").status == 403
    assert set_policy(api, "held", 0, "canary", min_role="ops").status == 200
    assert set_policy(api, "held", 0, min_role="admin").status == 200
    low = users["publish"].publish("held", dirs(2), channel="canary")
    assert low.status == 403 and "role ops or above" in low.error["message"]
    assert users["publish"].publish("held", dirs(2), channel="other").status == 201
    assert users["ops"].publish("held", dirs(3), channel="canary").status == 201
    assert promote(users["ops"], "held", 1).status == 403
    assert promote(api, "held", 1).status == 200


def test_the_command_line_sets_shows_and_approves(own_server, adapter):
    lorica = own_server.lorica
    for seed in (1, 2):
        lorica("adapter", "publish", "cli", adapter(seed))
    assert "nothing is demanded" in lorica("adapter", "policy", "cli").stdout
    said = lorica("adapter", "policy", "cli", "--approvals", 2, "--max-rank", 4).stdout
    assert "2 keys must want it" in said and "rank at most 4" in said
    kept = lorica.json("adapter", "policy", "cli", "--eval", "ward", "--margin", 0.25)["policy"]
    assert kept == {"approvals": 2, "min_role": "infer", "max_rank": 4, "max_bytes": 0,
                    "eval_set": "ward", "max_worse": 0.25, "signed": False, "checks": 0,
                    "checks_digest": None}
    failed = lorica("adapter", "promote", "cli@1", code=1).stderr
    assert "eval: its manifest states no loss on ward; approvals: 1 of 2" in failed
    lorica("adapter", "policy", "cli", "--eval", "")
    key = lorica("key", "create", "ben", "--role", "ops").stdout.strip()
    assert "ben approves" in lorica("adapter", "approve", "cli@1", "--reason", "fine",
                                    LORICA_API_KEY=key).stdout
    assert "fine" in lorica("adapter", "approve", "cli").stdout
    lorica("adapter", "promote", "cli@1")
    assert lorica.json("adapter", "approve", "cli")["data"] == []
    cleared = lorica.json("adapter", "policy", "cli", "--clear", "--max-mb", 3)["policy"]
    assert cleared["approvals"] == 0 and cleared["max_bytes"] == 3 << 20
    for bad in (["--approvals", 33], ["--min-role", "king"], ["--eval", "a b"], ["--margin", -1],
                ["--channel", "Bad"], ["--message", "x"]):
        lorica("adapter", "policy", "cli", *bad, code=2)
    lorica("adapter", "approve", "cli@x", code=2)
    lorica("adapter", "approve", "cli", "--reason", "x", code=2)
    assert own_server.stop() == 0
    assert "is clean" in lorica("verify").stdout
