# SPDX-License-Identifier: MIT
"""Questions to the audit chain, over HTTP and on the command line."""
import base64
import datetime
import hashlib
import json
import struct
import time

import pytest

from api import Api
from conftest import write_adapter

ADAPTERS = "/v1/adapters"
AUDIT = "/v1/audit"


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def lorica(server):
    return server.lorica


@pytest.fixture(scope="module")
def chain(api, tmp_path_factory):
    """A chain with two adapters, two actors and refusals; all its records."""
    parent = tmp_path_factory.mktemp("adapters")
    ops = api.make_key("asks", "ops")
    for seed, name in enumerate(("ward", "ward", "clinic")):
        api.publish_new(name, write_adapter(parent / str(seed), seed), channel="stable")
    for _ in range(3):
        assert ops.post(f"{ADAPTERS}/ward/channels/stable/rollback", {}).status in (200, 409)
        time.sleep(0.01)
    assert ops("PUT", f"{ADAPTERS}/clinic/channels/stable", {"version": 1},
               if_match='"1"').status == 200
    return api.get(AUDIT).json["data"]


def seqs(answer):
    assert answer.status == 200, answer.body
    return [r["seq"] for r in answer.json["data"]]


def where(chain, **wanted):
    return [r["seq"] for r in chain if all(r[k] == v for k, v in wanted.items())]


def test_what_is_misspelt_is_not_taken_for_no_filter(api, chain):
    for path in (f"{AUDIT}?actr=asks", f"{AUDIT}?adapter=ward&Kind=publish", f"{AUDIT}?x",
                 f"{ADAPTERS}/ward/history?adapter=clinic", f"{ADAPTERS}?channel=stable"):
        refused = api.get(path)
        assert refused.status == 400 and refused.error["code"] == "unknown_parameter", path
        assert "is not known here" in refused.error["message"]
    for path in ("models", "models/base", "adapters/ward", "adapters/ward/versions",
                 "adapters/ward/versions/1", "adapters/ward/versions/1/adapter_config.json",
                 "adapters/ward/versions/1/signatures", "adapters/ward/channels",
                 "adapters/ward/channels/stable", "adapters/ward/channels/stable/policy",
                 "adapters/ward/channels/stable/approvals", "adapters/ward/split",
                 "adapters/ward/retention", "audit/checkpoint", "backup/snapshot", "files",
                 "fine_tuning/jobs", "receipts/key", "signers", "keys"):
        refused = api.get(f"/v1/{path}?limti=1")
        assert refused.status == 400 and refused.error["code"] == "unknown_parameter", path
    assert api.get("/v1/keys?revoked=true").status == 400
    assert api.get("/livez?verbose").status == 200
    assert seqs(api.get(f"{AUDIT}?a%63tor=asks&&")) == where(chain, actor="asks")
    # nor is a change that says more than it can mean
    before = api.get(AUDIT).json
    for method, path in (("POST", f"{ADAPTERS}/ward/channels/stable/rollback?channel=beta"),
                         ("DELETE", f"{ADAPTERS}/ward/versions/1?dry_run=true")):
        refused = api(method, path)
        assert refused.status == 400 and refused.error["code"] == "unknown_parameter"
    assert api.get(AUDIT).json == before


KINDS = ["publish", "promote", "rollback", "key-create", "key-revoke", "delete", "undelete", "sweep",
         "split", "policy", "approve", "refused", "retention", "signer-add", "signer-remove", "sign"]


def canonical(record):
    """What a record's hash is over, as registry.h says."""
    def text(value):
        return struct.pack(">H", len(value.encode())) + value.encode()
    detail = json.dumps(record["detail"], separators=(",", ":"), ensure_ascii=False) \
        if "detail" in record else ""
    packed = struct.pack(">BQBQ", 2 if detail else 1, record["seq"], KINDS.index(record["kind"]),
                         record["time_ms"])
    packed += b"".join(text(record[key]) for key in ("actor", "name", "channel"))
    packed += struct.pack(">QQQQ", *(record[key] for key in ("version", "previous", "epoch", "before")))
    packed += bytes.fromhex(record["digest"].removeprefix("sha256:")) + text(record["message"])
    return packed + (text(detail) if detail else b"")


def test_the_chain_can_be_checked_by_anyone(api, chain):
    """What is listed holds all that the hashes are over."""
    last = bytes(32)
    for record in api.get(AUDIT).json["data"]:
        assert record["time"] == record["time_ms"] // 1000
        last = hashlib.sha256(last + canonical(record)).digest()
        assert record["hash"] == "sha256:" + last.hex(), record


@pytest.mark.parametrize("query,wanted", [
    ("adapter=ward", {"name": "ward"}), ("actor=asks", {"actor": "asks"}),
    ("kind=refused", {"kind": "refused"}), ("kind=key-create", {"kind": "key-create"}),
    ("adapter=ward&actor=asks&kind=rollback",
     {"name": "ward", "actor": "asks", "kind": "rollback"}),
    ("adapter=nobody", {"name": "nobody"}), ("actor=nobody", {"actor": "nobody"})])
def test_filters(api, chain, query, wanted):
    assert seqs(api.get(f"{AUDIT}?{query}")) == where(chain, **wanted)
    assert seqs(api.get(f"{AUDIT}?{query}&order=desc")) == where(chain, **wanted)[::-1]


def test_bounds_by_number_and_pages_in_both_orders(api, chain):
    whole = [r["seq"] for r in chain]
    assert seqs(api.get(f"{AUDIT}?after=3&before=6")) == [4, 5]
    assert seqs(api.get(f"{AUDIT}?after=3&before=4")) == []
    for order in ("asc", "desc"):
        got, cursor = [], ""
        while True:
            page = api.get(f"{AUDIT}?order={order}&limit=4{cursor}")
            got += seqs(page)
            assert len(page.json["data"]) <= 4
            if not page.json["has_more"]:
                assert "next" not in page.json
                break
            (name, number), = page.json["next"].items()
            assert name == ("after" if order == "asc" else "before")
            cursor = f"&{name}={number}"
        assert got == (whole if order == "asc" else whole[::-1])


def test_bounds_by_time(api, chain):
    second = chain[-1]["time"]
    stamp = datetime.datetime.fromtimestamp(second, datetime.timezone.utc)
    since = [r["seq"] for r in chain if r["time"] >= second]
    for text in (stamp.strftime("%Y-%m-%dT%H:%M:%SZ"), f"{second}000",
                 stamp.strftime("%Y-%m-%dT%H:%M:%S.000-00:00"),
                 stamp.strftime("%Y-%m-%dT%H:%M:%S%%2B00:00"),
                 stamp.strftime("%Y-%m-%dT%H:%M:%S+00:00")):
        assert seqs(api.get(f"{AUDIT}?since={text}")) == since
        assert seqs(api.get(f"{AUDIT}?until={text}")) == \
            [r["seq"] for r in chain if r["time"] < second]
    assert seqs(api.get(f"{AUDIT}?since=2000-01-01&until=2001-01-01")) == []


def test_history_takes_the_same_filters(api, chain):
    history = f"{ADAPTERS}/ward/history"
    assert seqs(api.get(f"{history}?actor=asks")) == where(chain, name="ward", actor="asks")
    assert seqs(api.get(f"{history}?kind=publish&order=desc")) == \
        where(chain, name="ward", kind="publish")[::-1]


@pytest.mark.parametrize("query", [
    "kind=nothing", "kind=", "since=yesterday", "until=2026-02-30", "order=up", "before=x",
    "after=-1", "actor=", "adapter=" + "a" * 200, "since=2026-01-01&since=2026-01-02", "limit=1001"])
def test_what_makes_no_sense_is_refused(api, query):
    answer = api.get(f"{AUDIT}?{query}")
    assert answer.status == 400
    assert answer.error["param"] == query.split("=")[0]


def test_a_held_key_sees_its_adapters_only_however_it_asks(api, chain):
    held = api.make_key("held-asks", "ops", ["clinic"])
    for query in ("", "?order=desc", "?adapter=clinic", "?limit=1"):
        assert {r["name"] for r in held.get(AUDIT + query).json["data"]} == {"clinic"}
    assert seqs(held.get(f"{AUDIT}?adapter=ward")) == []


def test_work_for_one_request_is_bounded_and_nothing_is_cut_in_silence(quick_server, adapter):
    """5,000 records, of which the last is asked for: found, in more than one request."""
    api, lorica = Api(quick_server), quick_server.lorica
    api.publish_new("ward", adapter(1), channel="stable")
    line = api.connect()
    for i in range(5100):
        line.request("PUT", f"{ADAPTERS}/ward/retention", json.dumps({"days": i % 2 + 1}),
                     api.headers(content_type="application/json"))
        assert line.getresponse().read()
    assert api.post(f"{ADAPTERS}/ward/channels/stable/rollback").status == 409
    first = api.get(f"{AUDIT}?kind=refused").json
    assert first["data"] == [] and first["has_more"] and first["next"] == {"after": 5000}
    second = api.get(f"{AUDIT}?kind=refused&after=5000").json
    assert len(second["data"]) == 1 and not second["has_more"]
    found = lorica.json("audit", "--kind", "refused")["data"]
    assert found == second["data"]
    assert lorica.json("audit", "--newest", 1)["data"] == found
    assert len(lorica.json("audit", "--newest", 2500)["data"]) == 2500


def test_command_line(api, lorica, chain):
    assert lorica.json("audit")["data"][:len(chain)] == chain
    assert [r["seq"] for r in lorica.json("audit", "--adapter", "ward", "--actor", "asks")["data"]] \
        == where(chain, name="ward", actor="asks")
    newest = lorica.json("audit", "--newest", 2, "--before", 6)["data"]
    assert [r["seq"] for r in newest] == [5, 4]
    assert [r["seq"] for r in lorica.json("audit", "--after", 3, "--before", 6)["data"]] == [4, 5]
    lines = lorica("audit", "--kind", "refused").stdout.splitlines()
    assert lines[0].split() == ["SEQ", "TIME", "WHO", "WHAT", "NAME", "CHANNEL", "VERSION",
                                "BEFORE", "MESSAGE"]
    assert len(lines) == 1 + len(where(chain, kind="refused"))
    assert all(" asks " in line and " ward " in line for line in lines[1:])


@pytest.mark.parametrize("words", [
    ["--since", "yesterday"], ["--until", "2026-1"], ["--after", "x"], ["--newest", "0"],
    ["--frob"], ["word"]])
def test_command_line_usage(lorica, words):
    assert lorica("audit", *words, code=2).stderr.startswith("lorica")


def test_command_line_says_what_the_server_says(lorica):
    assert "no records of the kind" in lorica("audit", "--kind", "x", code=1).stderr


def opened(envelope):
    """The checkpoint that an envelope holds."""
    assert envelope["payloadType"] == "application/vnd.lorica.checkpoint+json"
    return json.loads(base64.b64decode(envelope["payload"]))


def test_a_checkpoint_holds_the_chain_to_what_it_was(own_server, adapter, tmp_path):
    api, lorica = Api(own_server), own_server.lorica
    api.publish_new("ward", adapter(1), channel="stable")
    kept, public = tmp_path / "checkpoint.json", lorica.data / "receipt.pub"
    kept.write_text(lorica("audit", "checkpoint").stdout)
    envelope = json.loads(kept.read_text())
    checkpoint = opened(envelope)
    last = api.get(f"{AUDIT}?order=desc&limit=1").json["data"][0]
    assert checkpoint == {**opened(api.get(f"{AUDIT}/checkpoint").json),
                          "time": checkpoint["time"]}
    assert (checkpoint["seq"], checkpoint["hash"]) == (last["seq"], last["hash"])
    assert api.make_key("low", "publish").get(f"{AUDIT}/checkpoint").status == 403
    api.publish_new("ward", adapter(2), channel="stable")
    lorica("backup", tmp_path / "backup")
    own_server.stop()
    done = lorica("verify", "--checkpoint", kept)
    assert f"contains the checkpoint of record {last['seq']}, signed by" in done.stdout
    done = lorica("verify", "--checkpoint", kept, "--key", public, "--backup", tmp_path / "backup")
    assert "signed by" in done.stdout and "it carries" not in done.stdout

    checkpoint["hash"] = checkpoint["trail"]["hashes"][-1] = "sha256:" + "0" * 64
    forged = base64.b64encode(json.dumps(checkpoint).encode()).decode()
    kept.write_text(json.dumps({**envelope, "payload": forged}))
    for more in ([], ["--key", public]):
        assert "signature" in lorica("verify", "--checkpoint", kept, *more, code=1).stderr
    kept.write_text(json.dumps(checkpoint))  # without a signature: what it says is taken
    assert "not signed" in lorica("verify", "--checkpoint", kept, "--key", public, code=1).stderr
    for more in ([], ["--backup", tmp_path / "backup"]):
        found = lorica("verify", "--checkpoint", kept, *more, code=1)
        assert f"audit record {last['seq']} is not the one that the checkpoint holds" in \
            found.stdout
    kept.write_text("{}")
    assert "no checkpoint" in lorica("verify", "--checkpoint", kept, code=1).stderr
    assert "cannot" in lorica("verify", "--checkpoint", tmp_path / "none", code=1).stderr
    lorica("verify", "--key", public, code=2)
    assert lorica("verify", "--backup", tmp_path / "backup").stdout.endswith("is clean\n")
