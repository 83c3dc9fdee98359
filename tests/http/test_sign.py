# SPDX-License-Identifier: MIT
"""Signatures: of versions, by keys that are trusted or not, and OpenSSF Model Signing bundles both
ways with the real model_signing package."""
import base64
import hashlib
import json
import pathlib
import shutil
import subprocess

import pytest

from api import Api
from conftest import Lorica, write_adapter

ADAPTERS = "/v1/adapters"
CURVES = {"p256": "prime256v1", "p384": "secp384r1", "p521": "secp521r1"}


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class Keys:
    """Key pairs by name, made by OpenSSL: .key private, .pub public."""

    def __init__(self, parent):
        self.parent = parent

    def __call__(self, name, kind="ed25519"):
        private, public = self.parent / f"{name}.key", self.parent / f"{name}.pub"
        if not private.exists():
            if kind == "ed25519":
                openssl("genpkey", "-algorithm", "ed25519", "-out", private)
            else:
                openssl("ecparam", "-name", CURVES[kind], "-genkey", "-noout", "-out", private)
            openssl("pkey", "-in", private, "-pubout", "-out", public)
        return private, public


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def lorica(server):
    return server.lorica


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    parent, made = tmp_path_factory.mktemp("adapters"), {}

    def make(seed):
        if seed not in made:
            made[seed] = write_adapter(parent / str(seed), seed)
        return made[seed]
    return make


def key_id(public):
    return hashlib.sha256(pathlib.Path(public).read_bytes()).hexdigest()


def signatures(api, name, version):
    return api.get(f"{ADAPTERS}/{name}/versions/{version}/signatures").json["data"]


def promote(api, name, version):
    path = f"{ADAPTERS}/{name}/channels/stable"
    epoch = api.get(path).headers["etag"]
    return api("PUT", path, {"version": version}, if_match=epoch)


def test_a_signature_is_made_kept_and_shown(api, lorica, keys, dirs):
    private, public = keys("anna")
    (dirs(1) / "manifest.json").write_text(json.dumps({"lr": 1e-4, "dataset_digest": "sha256:0"}))
    lorica("adapter", "publish", "signed", dirs(1), "--sign", private)
    version = api.get(f"{ADAPTERS}/signed/versions/1").json
    [kept] = signatures(api, "signed", 1)
    assert (kept["form"], kept["bound"], kept["trusted"], kept["signer"]) == \
        ("statement", True, False, None)
    assert kept["key_id"] == "sha256:" + key_id(public)
    envelope = kept["signature"]
    payload = base64.b64decode(envelope["payload"])
    said = json.loads(payload)
    created = said.pop("created")
    manifest = hashlib.sha256((dirs(1) / "manifest.json").read_bytes()).hexdigest()
    assert said == {"type": "lorica.adapter.v1", "name": "signed", "digest": version["digest"],
                    "base_digest": version["base_digest"],
                    "config_digest": version["config_digest"],
                    "weights_digest": version["weights_digest"],
                    "manifest_digest": "sha256:" + manifest}
    assert json.dumps({**said, "created": created}, separators=(",", ":")).encode() == payload
    # OpenSSL agrees about the bytes that are signed
    kind = envelope["payloadType"]
    where = keys.parent
    (where / "pae").write_bytes(b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(payload)) +
                                payload)
    (where / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", where / "pae",
            "-sigfile", where / "sig")
    shown = lorica("adapter", "show", "signed@1").stdout
    assert key_id(public) in shown and "not trusted" in shown
    assert lorica.json("adapter", "show", "signed@1")["signatures"] == [kept]
    assert [r["kind"] for r in api.get(f"{ADAPTERS}/signed/history").json["data"]] == \
        ["publish", "sign"]


def test_what_is_signed_otherwise_is_refused(api, lorica, keys, dirs):
    private, _ = keys("anna")
    lorica("adapter", "publish", "other", dirs(2), "--sign", private)
    envelope = signatures(api, "other", 1)[0]["signature"]
    moved = api.publish("moved", dirs(2), signature=json.dumps(envelope))
    assert moved.status == 409 and moved.error["code"] == "invalid_signature"
    assert "its name is not" in moved.error["message"] and moved.error["param"] == "signature"
    changed = api.publish("other", dirs(3), signature=json.dumps(envelope))
    assert changed.status == 409 and "weights_digest" in changed.error["message"]
    cut = dict(envelope, payload=envelope["payload"][:-1])
    for text in (json.dumps(cut), "", "{}", "nonsense", json.dumps({**envelope, "x": 1})):
        assert api.publish("other", dirs(2), signature=text).status in (400, 409)
    assert api.get(f"{ADAPTERS}/moved").status == 404
    assert api.get(f"{ADAPTERS}/other").json["latest"] == 1
    kinds = [r["kind"] for r in api.get("/v1/audit").json["data"]]
    assert "refused" in kinds
    lorica("adapter", "publish", "other", dirs(2), "--sign", keys("p", "p256")[0], code=1)
    lorica("adapter", "publish", "other", dirs(2), "--sign", dirs(2) / "adapter_config.json",
           code=1)
    lorica("adapter", "publish", "other", dirs(2), "--sign", private, "--signature", private, code=2)


def test_a_channel_counts_trusted_keys_until_they_are_removed(api, lorica, keys, dirs):
    private, public = keys("ben")
    other, _ = keys("eve")
    lorica("adapter", "publish", "gated", dirs(4))
    lorica("adapter", "publish", "gated", dirs(5), "--sign", other)
    lorica("adapter", "publish", "gated", dirs(6), "--sign", private)
    said = lorica("adapter", "policy", "gated", "--signed").stdout
    assert "signed by a trusted key" in said
    for version, words in ((1, "it has no signature"), (2, "of its 1 signatures none")):
        answer = promote(api, "gated", version)
        assert answer.status == 409 and answer.error["code"] == "policy_not_met"
        assert words in answer.error["message"]
    added = lorica.json("signer", "add", "ben", public, "--message", "our trainer")
    assert (added["algorithm"], added["key_id"]) == ("ed25519", "sha256:" + key_id(public))
    assert promote(api, "gated", 3).status == 200
    assert "trusted as ben" in lorica("adapter", "show", "gated@3").stdout
    # signed after it was published
    lorica("adapter", "publish", "gated", dirs(5), "--sign", private)
    assert len(signatures(api, "gated", 2)) == 2
    assert promote(api, "gated", 2).status == 200
    assert "is not trusted any more" in lorica("signer", "remove", "ben").stdout
    assert api.get(f"{ADAPTERS}/gated/channels/stable").json["version"] == 2
    assert promote(api, "gated", 3).status == 409
    back = api.post(f"{ADAPTERS}/gated/channels/stable/rollback", {})
    assert back.status == 200 and back.json["version"] == 3
    listed = {s["name"]: s for s in lorica.json("signer", "list")["data"]}
    assert listed["ben"]["removed_by"] == "admin"
    lorica("adapter", "policy", "gated", "--unsigned")
    assert promote(api, "gated", 1).status == 200


def test_only_admins_say_who_is_trusted(api, keys):
    pem = keys("clara")[1].read_text()
    users = {role: api.make_key(f"sign-{role}", role) for role in ("infer", "publish", "ops")}
    assert users["infer"].get("/v1/signers").status == 403
    assert users["publish"].get("/v1/signers").status == 200
    assert users["ops"].post("/v1/signers", {"name": "clara", "public_key": pem}).status == 403
    assert users["ops"]("DELETE", "/v1/signers/clara").status == 403
    held = api.make_key("sign-held", "admin", ["cardio*"])
    assert held.post("/v1/signers", {"name": "clara", "public_key": pem}).status == 403
    for body in ({}, {"name": "clara"}, {"public_key": pem}, {"name": "Clara", "public_key": pem},
                 {"name": "clara", "public_key": "x"}, {"name": "clara", "public_key": 5},
                 {"name": "clara", "public_key": pem, "frob": 1}):
        assert api.post("/v1/signers", body).status == 400
    assert api.post("/v1/signers", {"name": "clara", "public_key": pem}).status == 201
    assert api.post("/v1/signers", {"name": "clara", "public_key": pem}).status == 409
    assert api.post("/v1/signers", {"name": "clara-2", "public_key": pem}).status == 409
    assert api("DELETE", "/v1/signers/nobody").status == 404


# OpenSSF Model Signing, with the real package on the other side.

@pytest.fixture(scope="module")
def exported(api, lorica, keys, dirs, tmp_path_factory):
    """A directory of an adapter, exported and signed with each kind of key."""
    parent = tmp_path_factory.mktemp("exported")
    lorica("adapter", "publish", "bundle", dirs(7), "--channel", "stable")
    for kind in (*CURVES, "ed25519"):
        lorica("adapter", "export", "bundle", parent / kind / "bundle", "--sign",
               keys("m-" + kind, kind)[0])
    return parent


@pytest.mark.parametrize("kind", CURVES)
def test_model_signing_verifies_what_lorica_signs_and_the_other_way(kind, exported, lorica, keys,
                                                                    tmp_path):
    signing = pytest.importorskip("model_signing.signing")
    verifying = pytest.importorskip("model_signing.verifying")
    private, public = keys("m-" + kind, kind)
    made = exported / kind / "bundle"
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(made, made / "model.sig")
    with pytest.raises(ValueError):
        copy = shutil.copytree(made, tmp_path / "changed")
        (copy / "README.md").write_text("not signed")
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(
            copy, copy / "model.sig")
    theirs = tmp_path / "theirs"
    shutil.copytree(made, theirs, ignore=shutil.ignore_patterns("model.sig"))
    (theirs / "a").mkdir()
    (theirs / "a/b").write_text("deep")
    (theirs / "a.txt").write_text("which model_signing puts behind a/b")
    signing.Config().use_elliptic_key_signer(private_key=private).sign(theirs, theirs / "model.sig")
    lorica("verify", "model", theirs, "--key", public)
    assert lorica.json("verify", "model", theirs, "--key", public)["clean"]


def sign_payload(payload, private, public, where, kind="application/vnd.in-toto+json", **edits):
    """A bundle over any payload, signed by OpenSSL."""
    (where / "pae").write_bytes(b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(payload)) +
                                payload)
    openssl("pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", where / "pae", "-out",
            where / "sig")
    return {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": key_id(public)}, "tlogEntries": []},
            "dsseEnvelope": {"payload": base64.b64encode(payload).decode(), "payloadType": kind,
                             "signatures": [{"sig": base64.b64encode(
                                 (where / "sig").read_bytes()).decode(), "keyid": ""}]}, **edits}


def statement(files, **edits):
    resources = [{"name": n, "digest": hashlib.sha256(c.encode()).hexdigest(),
                  "algorithm": "sha256"} for n, c in files]
    root = hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in resources)).hexdigest()
    return {"_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "m", "digest": {"sha256": root}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {"resources": resources,
                          "serialization": {"method": "files", "hash_type": "sha256",
                                            "allow_symlinks": False}}, **edits}


def edited(path, value):
    """A statement over a and b with one thing changed."""
    made = statement([("a", "1"), ("b", "2")])
    at = made
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return made


FILE_A = {"name": "a", "digest": hashlib.sha256(b"1").hexdigest(), "algorithm": "sha256"}
BAD = {
    "wrong predicate type": (edited(["predicateType"], "https://example.com/v1"), "predicateType"),
    "old predicate type": (edited(["predicateType"], "https://model_signing/Digests/v0.1"),
                           "predicateType"),
    "wrong statement type": (edited(["_type"], "https://in-toto.io/Statement/v0.1"), "_type"),
    "points out": (statement([("../a", "1"), ("b", "2")]), '"../a" is no path'),
    "absolute": (statement([("/a", "1"), ("b", "2")]), '"/a" is no path'),
    "unsorted": (statement([("b", "2"), ("a", "1")]), "not sorted"),
    "twice": (statement([("a", "1"), ("a", "1"), ("b", "2")]), "twice"),
    "no resources": (edited(["predicate", "resources"], []), "no resources"),
    "two subjects": (edited(["subject"], [{"name": "m", "digest": {}}] * 2), "exactly one subject"),
    "root digest": (edited(["subject", 0, "digest", "sha256"], "0" * 64), "not that of the"),
    "short digest": (edited(["predicate", "resources", 0, "digest"], "00"), "64"),
    "shards": (edited(["predicate", "serialization", "method"], "shards"), "shards"),
    "blake": (edited(["predicate", "serialization", "hash_type"], "blake3"), "blake3"),
    "unknown member": (edited(["predicate", "more"], 1), '"more" is not known'),
    "ignores upwards": (edited(["predicate", "serialization", "ignore_paths"], ["../x"]),
                        "ignore_paths"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bundle_over_something_odd_is_refused(name, keys, tmp_path, lorica_bin):
    lorica = Lorica(lorica_bin, tmp_path / "data")
    private, public = keys("odd")
    model = tmp_path / "m"
    model.mkdir()
    (model / "a").write_text("1")
    (model / "b").write_text("2")
    payload, says = BAD[name]
    bundle = sign_payload(json.dumps(payload).encode(), private, public, tmp_path)
    (tmp_path / "x.sig").write_text(json.dumps(bundle))
    failed = lorica("verify", "model", model, "--key", public, "--signature", tmp_path / "x.sig",
                    code=1)
    assert says in failed.stderr, failed.stderr


def test_a_bundle_that_was_tampered_with_is_refused(keys, tmp_path, lorica_bin):
    lorica = Lorica(lorica_bin, tmp_path / "data")
    private, public = keys("odd")
    model = tmp_path / "m"
    model.mkdir()
    (model / "a").write_text("1")
    (model / "b").write_text("2")
    payload = json.dumps(statement([("a", "1"), ("b", "2")])).encode()

    def check(bundle, says, code=1, *more):
        (model / "model.sig").write_text(bundle if isinstance(bundle, str) else json.dumps(bundle))
        done = lorica("verify", "model", model, "--key", public, *more, code=code)
        assert says in done.stdout + done.stderr, (done.stdout, done.stderr)

    good = sign_payload(payload, private, public, tmp_path)
    check(good, "what was signed", 0)
    check(sign_payload(payload, private, public, tmp_path, kind="text/plain"), "payloadType")
    check({**good, "mediaType": "application/json"}, "mediaType")
    check({**good, "more": 1}, '"more" is not known')
    envelope = good["dsseEnvelope"]
    check({**good, "dsseEnvelope": {**envelope, "payload": envelope["payload"][:-2]}}, "cut off")
    check({**good, "dsseEnvelope": {**envelope, "signatures": []}}, "exactly one signature")
    check({**good, "dsseEnvelope": {**envelope, "payload": base64.b64encode(
        payload.replace(b'"a"', b'"c"')).decode()}}, "does not hold")
    check({**good, "verificationMaterial": {"publicKey": {"hint": "0" * 64}}}, "signed with the key")
    check({**good, "verificationMaterial": {"certificate": {"rawBytes": "AA=="}}}, "certificate")
    check(json.dumps(good)[:-1], "JSON")
    check("", "JSON")
    (model / "c").write_text("more")
    check(good, "c: is here, and not signed")
    check(good, "what was signed", 0, "--ignore-unsigned-files")
    (model / "c").unlink()
    (model / "a").write_text("9")
    check(good, "a: is not what was signed")
    (model / "a").unlink()
    check(good, "a: is signed, and missing")
    (model / "a").symlink_to(model / "b")
    check(good, "symbolic link")
    lorica("verify", "model", model, code=2)


def test_a_bundle_is_taken_at_publish_from_trusted_keys(api, lorica, keys, exported, dirs):
    public = keys("m-p256", "p256")[1]
    made = exported / "p256/bundle"
    lorica("verify", "model", exported / "ed25519/bundle", "--key", keys("m-ed25519", "ed25519")[1])
    words = ("adapter", "publish", "bundle", made, "--signature", made / "model.sig")
    assert "which is not trusted here" in lorica(*words, code=1).stderr
    lorica("signer", "add", "release", public)
    lorica(*words)
    [kept] = signatures(api, "bundle", 1)
    assert (kept["form"], kept["bound"], kept["signer"]) == ("bundle", True, "release")
    assert kept["signature"] == json.loads((made / "model.sig").read_text())
    # under another name it is kept, and counts for nothing
    lorica("adapter", "publish", "elsewhere", made, "--signature", made / "model.sig")
    assert signatures(api, "elsewhere", 1)[0]["bound"] is False
    for name, status in (("bundle", 200), ("elsewhere", 409)):
        lorica("adapter", "policy", name, "--signed")
        assert promote(api, name, 1).status == status
    # a manifest that it does not sign could say anything of the adapter
    forged = api.publish("forged", made, manifest='{"evals":{"x":0}}',
                         signature=(made / "model.sig").read_text())
    assert forged.status == 409 and "does not sign manifest.json" in forged.error["message"]
    other = api.publish("bundle", dirs(8), signature=(made / "model.sig").read_text())
    assert other.status == 409 and "signs another" in other.error["message"]
    failed = lorica("adapter", "export", "bundle", made, "--sign", keys("anna")[0], code=1)
    assert "name a new directory" in failed.stderr


def test_all_of_it_is_in_order_afterwards(server, lorica):
    assert server.stop() == 0
    assert "is clean" in lorica("verify").stdout
