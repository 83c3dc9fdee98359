# SPDX-License-Identifier: MIT
"""A real `mlflow server` with basic auth, and a proxy before it that can fail in chosen ways."""
import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

USER, PASSWORD, TOKEN = "admin", "a long passw0rd", "a-token.of_some~kind"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
START_SECONDS = 180


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Tracking:
    """Runs the server; asks it as an administrator."""

    def __init__(self, directory):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        (directory / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{directory}/auth.db\n"
            f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n")
        self.log = open(directory / "mlflow.log", "wb")
        self.process = subprocess.Popen(
            [pathlib.Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1",
             "--port", str(self.port), "--workers", "1", "--app-name", "basic-auth",
             "--backend-store-uri", f"sqlite:///{directory}/mlflow.db",
             "--artifacts-destination", str(directory / "artifacts")],
            cwd=directory, stdout=self.log, stderr=self.log, start_new_session=True,
            env={**os.environ, "MLFLOW_AUTH_CONFIG_PATH": str(directory / "auth.ini"),
                 "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests", "DO_NOT_TRACK": "true",
                 "MLFLOW_DISABLE_TELEMETRY": "true"})
        self._wait()
        self._hash_fast(directory)

    def _hash_fast(self, directory):
        """Each request proves the password anew. What is slow on purpose is made fast: one round."""
        digest = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", 1).hex()
        with contextlib.closing(sqlite3.connect(directory / "auth.db", timeout=60)) as users:
            users.execute("UPDATE users SET password_hash = ?", (f"pbkdf2:sha256:1$salt${digest}",))
            users.commit()

    def _wait(self):
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health", raw=True)[0] == 200:
                    return
            assert self.process.poll() is None and time.monotonic() < end, "mlflow did not start"
            time.sleep(0.2)

    def stop(self):
        """It has workers of its own, all in one session."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def ask(self, method, path, body=None, raw=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"authorization": BASIC}
        if body is not None:
            body, headers["content-type"] = json.dumps(body), "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if raw:
            return answer.status, data
        assert answer.status == 200, (path, answer.status, data)
        return json.loads(data)

    def get(self, path, **query):
        return self.ask("GET", f"/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}")

    def post(self, path, **body):
        return self.ask("POST", f"/api/2.0/mlflow/{path}", body)

    def runs(self, experiment):
        found = self.get("experiments/get-by-name", experiment_name=experiment)["experiment"]
        return self.post("runs/search", experiment_ids=[found["experiment_id"]]).get("runs", [])

    def run(self, experiment):
        """The only run of an experiment."""
        runs = self.runs(experiment)
        assert len(runs) == 1, runs
        return runs[0]

    def history(self, run, metric):
        """All values of a metric as a list of (step, value), in the order in which they stand."""
        found = self.get("metrics/get-history", run_id=run["info"]["run_id"], metric_key=metric)
        return [(m.get("step", 0), m["value"]) for m in found.get("metrics", [])]

    def artifact(self, run, path):
        """Bytes of a run's artifact, or None."""
        place = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:")
        status, data = self.ask(
            "GET", f"/api/2.0/mlflow-artifacts/artifacts{place}/{urllib.parse.quote(path)}",
            raw=True)
        return data if status == 200 else None


class Proxy:
    """Hands requests on to a tracking server, until told otherwise: `fault(method, path)` may say
    "refuse" (503), "stall" (no answer comes), "lose" (the request arrives, the answer does not).
    With a token it demands that as bearer, and shows the server its own credentials."""

    def __init__(self, tracking, token=None, tls=None):
        self.fault, self.token, self.seen = lambda method, path: None, token, []
        self.released = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                proxy.handle(self, tracking)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, request, tracking):
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        self.seen.append((request.command, request.path))
        fault = self.fault(request.command, request.path)
        request.close_connection = True
        if fault == "refuse":
            request.send_error(503)
            return
        if fault == "stall":
            self.released.wait(120)
            return
        headers = {"authorization": request.headers.get("authorization", "")}
        if request.headers.get("content-type"):
            headers["content-type"] = request.headers["content-type"]
        if self.token:
            if headers["authorization"] != f"Bearer {self.token}":
                request.send_error(401)
                return
            headers["authorization"] = BASIC
        connection = http.client.HTTPConnection("127.0.0.1", tracking.port, timeout=60)
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if fault == "lose":
            return
        request.send_response(answer.status)
        request.send_header("content-type", answer.headers.get("content-type", "text/plain"))
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def stop(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
