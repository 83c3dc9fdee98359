# SPDX-License-Identifier: MIT
"""The command line's HTTPS client against servers that misbehave in one way each."""
import http.server
import json
import ssl
import subprocess
import threading

import pytest

FAILED = 1
DIGEST = "sha256:" + "0" * 64
VERSION = {"object": "adapter.version", "name": "heart", "version": 1, "digest": DIGEST,
           "config_digest": DIGEST, "weights_digest": DIGEST, "base_digest": DIGEST}


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers from a table: (method, path) -> (status, headers, body), and notes what came."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        length = int(self.headers.get("content-length", 0))
        body = b"" if self.server.deaf else self.rfile.read(length)
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        status, headers, text = self.server.table.get((self.command, self.path),
                                                      (404, {}, b"not here"))
        if isinstance(text, (dict, list)):
            text = json.dumps(text).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(text)), **headers}.items():
            if value is not None:
                self.send_header(name, value)
        if self.server.deaf or "content-length" in headers:
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def handle_expect_100(self):
        if self.server.deaf:
            return True
        return super().handle_expect_100()


@pytest.fixture
def fake(lorica):
    """A server with lorica's own certificate; fill its table, then run commands on fake.lorica."""
    lorica("init")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(lorica.data / "tls/server.pem", lorica.data / "tls/server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.table, server.seen, server.lorica, server.deaf = {}, [], lorica, False
    lorica.env["LORICA_SERVER"] = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_key_and_authority_given_need_no_data_directory(fake):
    fake.table["GET", "/v1/adapters"] = 200, {}, {"data": [], "has_more": False}
    env = {"LORICA_SERVER": fake.lorica.env["LORICA_SERVER"], "LORICA_API_KEY": "lk_given"}
    command = [fake.lorica.binary, "adapter", "list"]
    done = subprocess.run([*command, "--ca", fake.lorica.data / "tls/ca.pem"], env=env, check=True,
                          capture_output=True)
    assert done.stdout.startswith(b"NAME")
    assert fake.seen[-1][2]["Authorization"] == "Bearer lk_given"
    done = subprocess.run(command, env=env, check=False, capture_output=True)
    assert done.returncode == FAILED and b"--data" in done.stderr


def error(message):
    return {"error": {"message": message, "type": "x", "param": None, "code": None}}


def test_request_carries_key_and_agent(fake):
    fake.table["GET", "/v1/adapters"] = 200, {}, {"object": "list", "data": [], "has_more": False}
    assert fake.lorica("adapter", "list").stdout == "NAME  LATEST  CHANNELS\n"
    headers = fake.seen[0][2]
    key = (fake.lorica.data / "admin.key").read_text().strip()
    assert headers["Authorization"] == f"Bearer {key}"
    assert headers["User-Agent"].startswith("lorica/")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413, 428, 429, 500, 503, 507])
def test_error_sentence_of_the_server_is_shown(fake, status):
    fake.table["GET", "/v1/adapters"] = status, {}, error(f"sentence {status}")
    assert f"lorica: sentence {status}\n" == fake.lorica("adapter", "list", code=FAILED).stderr


@pytest.mark.parametrize("status, body", [
    (500, b"<html>"), (404, b""), (502, {"error": "text"}), (302, b""), (200, b"{"), (200, b"[]"),
    (200, {"object": "list"}), (200, b"")])
def test_answer_that_is_not_lorica_s_fails_with_a_sentence(fake, status, body):
    fake.table["GET", "/v1/adapters"] = status, {"location": "/v1/keys"}, body
    done = fake.lorica("adapter", "list", code=FAILED)
    assert done.stderr.startswith("lorica: ") and done.stdout == ""
    assert len(fake.seen) == 1


def test_answer_cut_off_fails(fake):
    fake.table["GET", "/v1/adapters"] = 200, {"content-length": "1000"}, b'{"data":['
    assert "connection" in fake.lorica("adapter", "list", code=FAILED).stderr


def test_list_walks_all_pages(fake):
    def page(names, more):
        data = [{"object": "adapter", "name": n, "latest": 1, "channels": []} for n in names]
        return 200, {}, {"object": "list", "data": data, "has_more": more}
    fake.table["GET", "/v1/adapters"] = page(["a", "b"], True)
    fake.table["GET", "/v1/adapters?after=b"] = page(["c"], False)
    assert [a["name"] for a in fake.lorica.json("adapter", "list")["data"]] == ["a", "b", "c"]
    fake.table["GET", "/v1/adapters?after=b"] = page([], True)
    assert "has more" in fake.lorica("adapter", "list", code=FAILED).stderr


def test_text_of_the_server_cannot_drive_the_terminal(fake):
    item = {"object": "adapter", "name": "a\x1b[2Jb", "latest": 1, "channels": []}
    fake.table["GET", "/v1/adapters"] = 200, {}, {"data": [item], "has_more": False}
    assert "a?[2Jb" in fake.lorica("adapter", "list").stdout
    fake.table["GET", "/v1/adapters"] = 400, {}, error("bad \x1b[31mred")
    assert "bad ?[31mred" in fake.lorica("adapter", "list", code=FAILED).stderr


def test_promote_sends_the_epoch_that_it_read(fake):
    channel = {"object": "adapter.channel", "name": "heart", "channel": "stable", "version": 1,
               "epoch": 7}
    fake.table["GET", "/v1/adapters/heart/channels"] = 200, {}, {"data": [channel],
                                                                 "has_more": False}
    fake.table["PUT", "/v1/adapters/heart/channels/stable"] = 200, {}, channel
    fake.lorica("adapter", "promote", "heart@3")
    method, _, headers, body = fake.seen[-1]
    assert (method, headers["If-Match"], json.loads(body)) == ("PUT", '"7"', {"version": 3})
    fake.lorica("adapter", "promote", "heart@3", "--epoch", "9", "--message", "better")
    assert fake.seen[-1][2]["If-Match"] == '"9"'
    assert json.loads(fake.seen[-1][3]) == {"version": 3, "message": "better"}


def test_publish_sends_the_files_and_reports_what_was_there(fake, adapter):
    path = adapter(1)
    (path / "manifest.json").write_text('{"loss":1}')
    fake.table["POST", "/v1/adapters/heart/versions"] = 201, {}, VERSION
    assert "heart@1 is published" in fake.lorica("adapter", "publish", "heart", path, "--channel",
                                                 "canary", "--message", "why").stdout
    body = fake.seen[-1][3]
    for part in ("config", "weights", "manifest", "channel", "message"):
        assert f'form-data; name="{part}"'.encode() in body
    assert (path / "adapter_model.safetensors").read_bytes() in body
    fake.table["POST", "/v1/adapters/heart/versions"] = 200, {}, VERSION
    assert "published before" in fake.lorica("adapter", "publish", "heart", path).stdout


def test_publish_refused_before_the_upload_ended_shows_the_reason(fake, adapter):
    path = adapter(1)
    with open(path / "adapter_model.safetensors", "ab") as file:
        file.truncate(32 << 20)
    fake.deaf = True
    fake.table["POST", "/v1/adapters/heart/versions"] = 413, {}, error("over the limit of 1 MiB")
    done = fake.lorica("adapter", "publish", "heart", path, code=FAILED)
    assert "over the limit of 1 MiB" in done.stderr


def test_export_with_a_wrong_digest_leaves_nothing(fake, tmp_path):
    base = "/v1/adapters/heart/versions/1"
    fake.table["GET", base] = 200, {}, VERSION
    fake.table["GET", f"{base}/adapter_config.json"] = 200, {}, b"{}"
    fake.table["GET", f"{base}/adapter_model.safetensors"] = 200, {}, b"weights"
    done = fake.lorica("adapter", "export", "heart@1", tmp_path / "out", code=FAILED)
    assert "digest" in done.stderr and list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("change", [{"name": "../evil"}, {"version": 0}, {"config_digest": "md5:1"},
                                    {"weights_digest": None}])
def test_export_of_a_made_up_version_object_fails(fake, tmp_path, change):
    fake.table["GET", "/v1/adapters/heart/versions/1"] = 200, {}, {**VERSION, **change}
    assert "version object" in fake.lorica("adapter", "export", "heart@1", tmp_path / "out",
                                           code=FAILED).stderr
    assert not (tmp_path / "out").exists()


def events(*items):
    return b"".join(b"data: " + (i if isinstance(i, bytes) else json.dumps(i).encode()) + b"\n\n"
                    for i in items)


def piece(text):
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def chat(fake, body, code=0, status=200):
    headers = {"content-type": "text/event-stream", "lorica-adapter": "heart@3"}
    fake.table["POST", "/v1/chat/completions"] = status, headers, body
    return fake.lorica("chat", "heart", "--prompt", "hello", "--max-tokens", "5", code=code)


def test_chat_joins_the_pieces_and_tells_who_answered(fake):
    done = chat(fake, b": ping\n\n" + events(piece("Wel"), piece("come \u20ac"),
                                               {"choices": [], "usage": {}}, b"[DONE]"))
    assert (done.stdout, done.stderr) == ("Welcome \u20ac\n", "-- heart@3\n")
    sent = json.loads(fake.seen[-1][3])
    assert sent == {"model": "heart", "stream": True, "max_tokens": 5,
                    "messages": [{"role": "user", "content": "hello"}]}


def test_chat_lines_may_end_with_carriage_returns(fake):
    body = events(piece("a"), b"[DONE]").replace(b"\n", b"\r\n")
    assert chat(fake, body).stdout == "a\n"


def test_chat_that_breaks_off_fails_after_what_came(fake):
    done = chat(fake, events(piece("half")), code=FAILED)
    assert done.stdout == "half\n" and "before it was whole" in done.stderr


def test_chat_error_within_the_stream_is_shown(fake):
    done = chat(fake, events(piece("half"), error("out of luck")), code=FAILED)
    assert "out of luck" in done.stderr


def test_chat_rubbish_in_the_stream_fails(fake):
    assert chat(fake, events(b"{rubbish"), code=FAILED).stderr.startswith("lorica: ")


def test_chat_error_before_the_stream_is_shown(fake):
    done = chat(fake, json.dumps(error("no such model")).encode(), code=FAILED, status=404)
    assert (done.stdout, done.stderr) == ("", "lorica: no such model\n")


def test_chat_remembers_what_was_said_until_new(fake):
    fake.table["POST", "/v1/chat/completions"] = 200, {}, events(piece("yes"), b"[DONE]")
    fake.lorica("chat", "heart", "--system", "be kind", text="one\ntwo\n/new\nthree\n")
    messages = [[m["content"] for m in json.loads(body)["messages"]] for *_, body in fake.seen]
    assert messages == [["be kind", "one"], ["be kind", "one", "yes", "two"], ["be kind", "three"]]
