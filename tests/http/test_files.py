# SPDX-License-Identifier: MIT
"""Files to train on, as the openai package and raw requests see them."""
import json
import re
import secrets
import time

import openai
import pytest

from api import Api, read_all, wait_empty
from conftest import Server, write_adapter
from jobs import connected

FILES = "/v1/files"
LINES = b'{"prompt":"Where?","completion":"On the fourth floor."}\n'
KIND = "multipart/form-data; boundary=XX"
PER_KEY, IN_ALL = 100, 1000


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def client(server):
    with connected(server) as made:
        yield made


def part(name, value, filename=None):
    label = b"" if filename is None else b'; filename="' + filename.encode() + b'"'
    return (b'--XX\r\ncontent-disposition: form-data; name="' + name.encode() + b'"' + label +
            b"\r\n\r\n" + value + b"\r\n")


def body(*parts):
    return b"".join(parts) + b"--XX--\r\n"


FILE, PURPOSE = part("file", LINES, "a.jsonl"), part("purpose", b"fine-tune")


def send(api, *parts):
    return api.post(FILES, body(*parts), content_type=KIND)


def upload(api, content=LINES, filename="a.jsonl"):
    answer = send(api, PURPOSE, part("file", content, filename))
    assert answer.status == 200, answer.body
    return answer.json


def on_disk(server):
    return sorted(p.name for p in (server.lorica.data / "train/files").iterdir())


# The openai package.

def test_a_file_is_uploaded_found_read_and_deleted(client, server, tmp_path):
    path = tmp_path / "cardiology – 心.jsonl"
    path.write_bytes(LINES * 3)
    with path.open("rb") as opened:
        made = client.files.create(file=opened, purpose="fine-tune")
    assert re.fullmatch(r"file-[0-9a-f]{24}", made.id)
    assert (made.object, made.bytes, made.purpose, made.status) == (
        "file", len(LINES) * 3, "fine-tune", "processed")
    assert made.filename == path.name and abs(made.created_at - time.time()) < 60
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == LINES * 3
    assert client.files.wait_for_processing(made.id) == made
    facts = json.loads((server.lorica.data / f"train/files/{made.id}.json").read_text())
    assert facts["owner"] == "admin"
    gone = client.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    assert not [name for name in on_disk(server) if made.id in name]
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)


def test_files_are_listed_by_pages(client, api):
    before = {f.id for f in client.files.list()}
    made = [upload(api, filename=f"{i}.jsonl")["id"] for i in range(5)]
    listed = [f.id for f in client.files.list(limit=2) if f.id not in before]  # page by page
    assert sorted(listed) == sorted(made)
    upwards = [f.id for f in client.files.list(order="asc") if f.id not in before]
    assert upwards == listed[::-1]
    page = api.get(f"{FILES}?limit=2&order=asc&after={upwards[1]}").json
    assert page["object"] == "list" and page["has_more"] is True
    assert [f["id"] for f in page["data"]] == upwards[2:4]
    assert (page["first_id"], page["last_id"]) == (upwards[2], upwards[3])
    assert [f.id for f in client.files.list(purpose="fine-tune")]
    empty = api.get(f"{FILES}?purpose=batch").json
    assert (empty["data"], empty["has_more"], empty["first_id"]) == ([], False, None)
    for file in made:
        client.files.delete(file)


def test_an_expiry_is_refused_by_its_name(client, server):
    before = on_disk(server)
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a.jsonl", LINES), purpose="fine-tune",
                            expires_after={"anchor": "created_at", "seconds": 3600})
    assert caught.value.param.startswith("expires_after")
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a.jsonl", LINES), purpose="assistants")
    assert caught.value.param == "purpose" and "fine-tune" in str(caught.value)
    assert on_disk(server) == before


def test_a_large_file_comes_back_as_it_was(client):
    content = secrets.token_bytes(9_000_001)  # many pieces, and the file is no text
    made = client.files.create(file=("large.bin", content), purpose="fine-tune")
    assert made.bytes == len(content)
    assert client.files.content(made.id).read() == content
    client.files.delete(made.id)


# Who sees what.

def test_a_key_sees_its_own_files_and_operations_see_all(api):
    one, two = api.make_key("trainer-1", "publish"), api.make_key("trainer-2", "publish")
    ops = api.make_key("operator", "ops")
    mine = upload(one)["id"]
    assert [f["id"] for f in one.get(FILES).json["data"]] == [mine]
    assert two.get(FILES).json["data"] == []
    unknown = two.get(f"{FILES}/file-{'0' * 24}")
    for path in (f"{FILES}/{mine}", f"{FILES}/{mine}/content"):
        foreign = two.get(path)
        assert foreign.status == unknown.status == 404
        assert foreign.error["message"].replace(mine, "X") == unknown.error["message"].replace(
            f"file-{'0' * 24}", "X")
    assert two("DELETE", f"{FILES}/{mine}").status == 404
    assert two.get(f"{FILES}?after={mine}").status == 404
    for seer in (one, ops, api):
        assert seer.get(f"{FILES}/{mine}/content").body == LINES
    assert ops("DELETE", f"{FILES}/{mine}").status == 200
    assert one.get(f"{FILES}/{mine}").status == 404


def test_answering_keys_and_no_keys_have_no_files(api, server):
    low = api.make_key("reader", "infer")
    assert send(low, PURPOSE, FILE).status == 403 and low.get(FILES).status == 403
    assert low("DELETE", f"{FILES}/file-{'1' * 24}").status == 403
    tried = [r["detail"] for r in api.get("/v1/audit?actor=reader").json["data"]]
    assert [(d["attempt"], d["status"], d.get("subject")) for d in tried] == [
        ("file-upload", 403, None), ("file-delete", 403, f"file-{'1' * 24}")]
    assert Api(server, "").get(FILES).status == 401


# Bad input.

@pytest.mark.parametrize("parts,param,word", [
    ([PURPOSE], "file", "missing"), ([FILE], "purpose", "missing"), ([], "file", "missing"),
    ([PURPOSE, FILE, FILE], "file", "twice"), ([PURPOSE, PURPOSE, FILE], "purpose", "twice"),
    ([part("purpose", b"batch"), FILE], "purpose", '"batch"'),
    ([part("purpose", b""), FILE], "purpose", "fine-tune"),
    ([part("purpose", b"fine-tune\0"), FILE], "purpose", "NUL"),
    ([part("purpose", b"\xff"), FILE], "purpose", "not supported"),
    ([PURPOSE, FILE, part("frob", b"1")], "frob", "file and purpose"),
    ([PURPOSE, part("file", LINES)], "file", "filename"),
    ([PURPOSE, part("file", LINES, "")], "file", "filename"),
    ([PURPOSE, part("file", b"", "a.jsonl")], "file", "empty"),
    ([PURPOSE, part("file", LINES, "a\x01b")], None, "control character"),
    ([PURPOSE, part("file", LINES, "a\x00b")], None, "control character")])
def test_forms_that_are_refused(api, server, parts, param, word):
    before = on_disk(server)
    answer = send(api, *parts)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param and word in answer.error["message"]
    assert on_disk(server) == before


@pytest.mark.parametrize("parts", [
    [part("purpose", b"x" * 65), FILE], [PURPOSE, part("file", LINES, "x" * 256)],
    [PURPOSE, FILE, part("n" * 128, b"1")]])
def test_what_is_too_long_is_refused(api, server, parts):
    before = on_disk(server)
    answer = send(api, *parts)
    assert answer.status == 413 and "bytes" in answer.error["message"]
    assert on_disk(server) == before


@pytest.mark.parametrize("filename", [
    "x" * 255, "../../etc/passwd", "/abs", ".", "..", "心" * 85, "a b;c", "C:\\temp\\a.jsonl"])
def test_a_filename_is_only_a_label(api, server, filename):
    before = set(on_disk(server))
    made = upload(api, filename=filename)
    assert made["filename"] == filename
    assert set(on_disk(server)) - before == {made["id"], made["id"] + ".json"}
    assert api.get(f"{FILES}/{made['id']}").json == made
    assert api("DELETE", f"{FILES}/{made['id']}").status == 200


@pytest.mark.parametrize("name", [
    "file-", "file-" + "0" * 23, "file-" + "0" * 25, "file-" + "G" * 24, "file-" + "A" * 24,
    "..%2f..%2fadmin.key", "..", "%2e%2e", ".", "file-" + "0" * 24 + ".json", "%00", "x" * 299,
    "file-..%2f" + "0" * 21, "admin.key", "x" * 400])
def test_ids_of_another_form(api, name):
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = api(method, f"{FILES}/{name}{path}")
        assert answer.status in (400, 404), (name, answer.body)
        assert answer.error["message"]


@pytest.mark.parametrize("query,param", [
    ("limit=0", "limit"), ("limit=10001", "limit"), ("limit=x", "limit"), ("order=up", "order"),
    ("after=", "after"), ("purpose=" + "x" * 64, "purpose"), ("order=asc&order=asc", "order")])
def test_lists_that_are_not_understood(api, query, param):
    answer = api.get(f"{FILES}?{query}")
    assert answer.status == 400 and answer.error["param"] == param


def test_bodies_of_another_kind(api, server):
    before = on_disk(server)
    whole = body(PURPOSE, FILE)
    assert api.post(FILES, {"purpose": "fine-tune"}).status == 415
    assert api.post(FILES, whole).status == 415
    assert api.post(FILES, whole, content_type="multipart/form-data").status == 400
    assert api.post(FILES, whole[:-6], content_type=KIND).status == 400
    assert api.post(FILES, b"", content_type=KIND).status == 400
    assert api("PUT", FILES, whole, content_type=KIND).status == 405
    assert on_disk(server) == before


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_upload_cut_half_way_leaves_nothing(api, server, share):
    before = on_disk(server)
    whole = body(PURPOSE, part("file", LINES * 40000, "a.jsonl"))
    connection = api.raw()
    connection.sendall((f"POST {FILES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api.key}\r\n"
                        f"content-length: {len(whole)}\r\ncontent-type: {KIND}\r\n\r\n").encode() +
                       whole[:int(len(whole) * share)])
    connection.close()
    wait_empty(server.lorica.data / "spool")
    assert on_disk(server) == before


# Bounds.

def test_a_file_over_the_bound_is_refused(data_dir):
    running = Server(data_dir, "--training-file-mb", "1")
    try:
        api = Api(running)
        upload(api, b"x" * ((1 << 20) - 1000))
        answer = send(api, PURPOSE, part("file", b"x" * (1 << 20), "a"))  # told by its length
        assert answer.status == 413 and "training-file-mb" in answer.error["message"]
        with api.raw() as connection:  # and where it says no length
            connection.sendall((f"POST {FILES} HTTP/1.1\r\nhost: x\r\n"
                                f"authorization: Bearer {api.key}\r\ncontent-type: {KIND}\r\n"
                                "transfer-encoding: chunked\r\n\r\n").encode())
            whole = body(PURPOSE, part("file", b"x" * (2 << 20), "a"))
            try:
                connection.sendall(b"%x\r\n" % len(whole) + whole)
            except OSError:
                pass  # it closed already
            data, _ = read_all(connection)
        assert data.startswith(b"HTTP/1.1 413 ") and b"training-file-mb" in data
        wait_empty(running.lorica.data / "spool")
        assert len(on_disk(running)) == 2
        large = write_adapter(running.lorica.data.parent / "large", 1)
        weights = b"x" * (2 << 20)  # an adapter may be larger: this one is refused for what it is
        assert api.publish("large", large, weights=weights).error["code"] == "invalid_adapter"
    finally:
        assert running.stop() == 0


def lay(data, number, owner, **facts):
    """Puts a file into the store as the server does."""
    name = f"file-{number:024x}"
    (data / f"train/files/{name}").write_bytes(LINES)
    (data / f"train/files/{name}.json").write_text(json.dumps({
        "filename": "a.jsonl", "purpose": "fine-tune", "owner": owner, "bytes": len(LINES),
        "created": 1_700_000_000 + number, "digest": "sha256:" + "0" * 64, **facts}))
    return name


def test_one_key_has_so_many_files_and_all_keys_so_many(own_server):
    api, data = Api(own_server), own_server.lorica.data
    key = api.make_key("trainer", "publish")
    names = [lay(data, i, "trainer") for i in range(PER_KEY - 1)]
    last = upload(key)["id"]
    refused = send(key, PURPOSE, FILE)
    assert refused.status == 409 and refused.error["code"] == "too_many_files"
    assert f"{PER_KEY} files" in refused.error["message"] and "delete" in refused.error["message"]
    assert len(key.get(FILES).json["data"]) == PER_KEY
    upload(api)  # another key goes on
    assert key("DELETE", f"{FILES}/{names[0]}").status == 200
    again = upload(key)["id"]
    for i in range(PER_KEY, IN_ALL - 1):
        lay(data, i, f"other-{i % 50}")
    refused = send(api, PURPOSE, FILE)
    assert refused.status == 409 and f"{IN_ALL} files" in refused.error["message"]
    listed = [f["id"] for f in api.get(FILES).json["data"]]
    assert len(listed) == IN_ALL and {last, again} <= set(listed)
    assert not list((data / "spool").iterdir())


# Starting again.

def test_files_stay_and_what_is_half_made_goes(data_dir):
    running = Server(data_dir)
    made = upload(Api(running))["id"]
    assert running.stop() == 0
    store = data_dir.data / "train/files"
    alone, torn = f"file-{'a' * 24}", f"{made}.json.x1Y2z3"
    (store / alone).write_bytes(LINES)       # bytes whose .json never came
    (store / torn).write_bytes(b'{"filena')  # a .json that never came to its place
    (store / "notes.txt").write_bytes(b"an operator's own")
    running = Server(data_dir)
    try:
        api = Api(running)
        assert on_disk(running) == sorted([made, f"{made}.json", "notes.txt"])
        assert api.get(f"{FILES}/{alone}").status == 404
        assert [f["id"] for f in api.get(FILES).json["data"]] == [made]
        assert api.get(f"{FILES}/{made}/content").body == LINES
    finally:
        assert running.stop() == 0


def test_a_server_that_is_killed_keeps_what_it_acknowledged(data_dir):
    running = Server(data_dir)
    made = [upload(Api(running))["id"] for _ in range(3)]
    running.process.kill()
    running.process.wait()
    running = Server(data_dir)
    try:
        assert sorted(f["id"] for f in Api(running).get(FILES).json["data"]) == sorted(made)
    finally:
        assert running.stop() == 0


@pytest.mark.parametrize("harm", ["no JSON", "no owner", "no digest", "short"])
def test_a_damaged_file_is_named(own_server, harm):
    api, data = Api(own_server), own_server.lorica.data
    name = lay(data, 1, "admin")
    facts = data / f"train/files/{name}.json"
    if harm == "short":
        (data / f"train/files/{name}").write_bytes(LINES[:-1])
    elif harm == "no JSON":
        facts.write_text("{")
    else:
        facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items()
                                     if k != harm[3:]}))
    answer = api.get(f"{FILES}/{name}/content")
    assert answer.status == 500 and name in answer.error["message"]
    assert "damaged" in answer.error["message"]


def test_a_file_of_which_nothing_is_known_fails_no_list_and_no_upload(own_server):
    api = Api(own_server)
    store = own_server.lorica.data / "train/files"
    with connected(own_server) as client:
        good, bad = (client.files.create(file=("a.jsonl", LINES), purpose="fine-tune").id
                     for _ in range(2))
        (store / f"{bad}.json").write_text('{"filename":')
        listed = {f.id: f for f in client.files.list()}
        assert listed[good].status == "processed" and listed[bad].status == "error"
        more = client.files.create(file=("b.jsonl", LINES), purpose="fine-tune").id
        assert client.files.content(good).content == LINES
        content = api.get(f"/v1/files/{bad}/content")
        assert content.status == 500 and str(store) not in content.error["message"]
        job = api.post("/v1/fine_tuning/jobs",
                       {"model": "tiny", "training_file": bad, "suffix": "bad"})
        assert job.status == 400 and "damaged" in job.error["message"]
        other = api.make_key("other", "publish")
        assert other.get("/v1/files").json["data"] == []
        assert other.get(f"/v1/files/{bad}").status == 404
        assert client.files.delete(bad).deleted
        assert sorted(f.id for f in client.files.list()) == sorted([good, more])
    assert sorted(p.name for p in store.iterdir()) == sorted(
        name for f in (good, more) for name in (f, f"{f}.json"))
