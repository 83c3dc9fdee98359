# SPDX-License-Identifier: MIT
"""A plain client of the server for tests: JSON over HTTPS, raw bytes over TLS, metrics."""
import http.client
import json
import re
import socket
import ssl
import time
import urllib.parse


class Answer:
    """Status, headers (lower case) and body of a response."""

    def __init__(self, response):
        self.status = response.status
        self.headers = {k.lower(): v for k, v in response.getheaders()}
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


class Api:
    """Talks to a server with one key; each request on a connection of its own."""

    def __init__(self, server, key=None):
        url = urllib.parse.urlsplit(server.url)
        self.host, self.port, self.key = url.hostname, url.port, server.key if key is None else key
        self.server = server
        self.context = ssl.create_default_context(cafile=str(server.ca))

    def with_key(self, key):
        return Api(self.server, key)

    def connect(self):
        return http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=60)

    def headers(self, **more):
        headers = {k.replace("_", "-"): v for k, v in more.items() if v is not None}
        if self.key:
            headers.setdefault("authorization", f"Bearer {self.key}")
        return headers

    def __call__(self, method, path, body=None, **headers):
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("content_type", "application/json")
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers(**headers))
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self("GET", path, **headers)

    def post(self, path, body=None, **headers):
        return self("POST", path, body, **headers)

    def complete(self, model, prompt="The heart", max_tokens=12, **options):
        """A greedy completion."""
        return self.post("/v1/completions", {"model": model, "prompt": prompt, "temperature": 0,
                                             "max_tokens": max_tokens, **options})

    def text(self, model, prompt="The heart", max_tokens=12, **options):
        answer = self.complete(model, prompt, max_tokens, ignore_eos=True, **options)
        assert answer.status == 200, answer.body
        return answer.json["choices"][0]["text"]

    def publish(self, name, directory, **parts):
        """Publishes a directory; parts are further form fields, or replace those of the files."""
        fields = {"config": (directory / "adapter_config.json").read_bytes(),
                  "weights": (directory / "adapter_model.safetensors").read_bytes(), **parts}
        return self("POST", f"/v1/adapters/{name}/versions", form(fields),
                    content_type="multipart/form-data; boundary=XX")

    def publish_new(self, name, directory, **parts):
        answer = self.publish(name, directory, **parts)
        assert answer.status == 201, answer.body
        return answer.json

    def make_key(self, name, role, adapters=None):
        """Makes a key and gives an Api that uses it."""
        body = {"name": name, "role": role}
        if adapters:
            body["adapters"] = adapters
        answer = self.post("/v1/keys", body)
        assert answer.status == 201, answer.body
        return self.with_key(answer.json["key"])

    def metric(self, name):
        """Sum of a metric's lines, whatever their labels."""
        text = self.get("/metrics").body.decode()
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)
        assert found, name
        return sum(map(float, found))

    def wait_metric(self, name, wanted, seconds=20):
        """Waits until a metric has a value."""
        end = time.monotonic() + seconds
        while (value := self.metric(name)) != wanted:
            assert time.monotonic() < end, (name, value, wanted)
            time.sleep(0.02)

    def raw(self, timeout=10):
        """A TLS socket."""
        plain = socket.create_connection((self.host, self.port), timeout=timeout)
        return self.context.wrap_socket(plain, server_hostname=self.host)


def form(fields):
    """A multipart body with the boundary XX; a field given as None is left out."""
    body = b""
    for name, value in fields.items():
        if value is None:
            continue
        if isinstance(value, str):
            value = value.encode()
        body += (b"--XX\r\ncontent-disposition: form-data; name=\"" + name.encode() +
                 b"\"\r\n\r\n" + value + b"\r\n")
    return body + b"--XX--\r\n"


def wait_empty(directory, seconds=20):
    """Waits until nothing is left in it: an upload's file goes after the answer."""
    end = time.monotonic() + seconds
    while left := list(directory.iterdir()):
        assert time.monotonic() < end, left
        time.sleep(0.02)


def read_all(connection):
    """What the server sends until it closes, and whether it closed in time."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except (TimeoutError, socket.timeout):
        return data, False
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return data, True


def parse_answers(data):
    """Splits a byte stream into responses: a list of (status, headers, body)."""
    answers = []
    while data:
        head, found, rest = data.partition(b"\r\n\r\n")
        assert found, data
        lines = head.split(b"\r\n")
        assert lines[0].startswith(b"HTTP/1.1 "), lines[0]
        status = int(lines[0].split()[1])
        headers = {k.strip().lower().decode(): v.strip().decode()
                   for k, _, v in (line.partition(b":") for line in lines[1:])}
        length = 0 if status == 100 else int(headers["content-length"])
        answers.append((status, headers, rest[:length]))
        assert len(rest) >= length
        data = rest[length:]
    return answers
