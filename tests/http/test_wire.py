# SPDX-License-Identifier: MIT
"""Bytes that a careful server must not guess about, limits, and deadlines: each case is one answer
as RFC 9112 has it, or a refusal and the end of the connection."""
import json
import socket
import ssl
import time

import pytest

from api import Api, parse_answers, read_all

GET = "GET /livez HTTP/1.1\r\nHost: a\r\n"
END = GET + "Connection: close\r\n\r\n"
POST = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer KEY\r\n" \
       "Content-Type: application/json\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps({"model": "base", "prompt": "a", "max_tokens": 1})
SIZE = len(BODY)

# name, bytes, statuses of the answers; the last one closes.
CASES = [
    ("one request", END, [200]),
    ("two in one piece", GET + "\r\n" + END, [200, 200]),
    ("an empty line before", "\r\n" + END, [200]),
    ("head", END.replace("GET", "HEAD"), ["HEAD"]),
    ("HTTP/1.0 closes", "GET /livez HTTP/1.0\r\n\r\n", [200]),
    ("HTTP/1.0 keeps alive when asked", "GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + END,
     [200, 200]),
    ("absolute target", END.replace("/livez", "https://a/livez"), [200]),
    ("body by length", POST + f"Content-Length: {SIZE}\r\nConnection: close\r\n\r\n{BODY}", [200]),
    ("body by length, then another", POST + f"Content-Length: {SIZE}\r\n\r\n{BODY}" + END, [200, 200]),
    ("body in chunks, then another", CHUNKED + f"{SIZE:x}\r\n{BODY}\r\n0\r\n\r\n" + END, [200, 200]),
    ("body in chunks with trailer",
     CHUNKED + f"{SIZE:x};x=y\r\n{BODY}\r\n0\r\nAuthorization: Bearer x\r\n\r\n" + END, [200, 200]),
    ("expect continue with the body at once",
     POST + f"Expect: 100-continue\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n{BODY}",
     [200]),
    ("unknown path keeps the connection", GET.replace("livez", "x") + "\r\n" + END, [404, 200]),
    ("a body where none belongs", GET + "Content-Length: 3\r\n\r\nabc" + END, [413]),
    ("bare LF in the request line", "GET /livez HTTP/1.1\nHost: a\r\n\r\n" + END, [400]),
    ("bare LF everywhere", END.replace("\r\n", "\n"), [400]),
    ("bare LF after a header", GET + "X: a\nY: b\r\n\r\n" + END, [400]),
    ("bare CR in a header", GET + "X: a\rY: b\r\n\r\n" + END, [400]),
    ("NUL in a header", GET + "X: a\0b\r\n\r\n" + END, [400]),
    ("folded header", GET + "X: a\r\n b\r\n\r\n" + END, [400]),
    ("space before the colon", GET + "X : a\r\n\r\n" + END, [400]),
    ("no name", GET + ": a\r\n\r\n" + END, [400]),
    ("no colon", GET + "X\r\n\r\n" + END, [400]),
    ("HTTP/0.9", "GET /livez\r\n" + END, [505]),
    ("HTTP/0.9 with an empty line", "GET /livez\r\n\r\n" + END, [505]),
    ("HTTP/2 in words", END.replace("HTTP/1.1", "HTTP/2.0"), [505]),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    ("HTTP/1.2", END.replace("HTTP/1.1", "HTTP/1.2"), [505]),
    ("two spaces", END.replace("GET ", "GET  "), [400]),
    ("tab for a space", END.replace("GET ", "GET\t"), [400]),
    ("no Host", "GET /livez HTTP/1.1\r\n\r\n" + END, [400]),
    ("two Hosts", GET + "Host: b\r\n\r\n" + END, [400]),
    ("list in Host", END.replace("Host: a", "Host: a, b"), [400]),
    ("unknown method", END.replace("GET", "FROB"), [501]),
    ("TRACE", END.replace("GET", "TRACE"), [501]),
    ("CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + END, [400]),
    ("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + END, [501]),
    ("wrong method", END.replace("GET", "DELETE"), [405]),
    ("upgrade", GET + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + END, [400]),
    ("two lengths alike", POST + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + END, [400]),
    ("two lengths", POST + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + END, [400]),
    ("list of lengths", POST + "Content-Length: 3, 3\r\n\r\nabc" + END, [400]),
    ("signed length", POST + "Content-Length: +3\r\n\r\nabc" + END, [400]),
    ("negative length", POST + "Content-Length: -3\r\n\r\nabc" + END, [400]),
    ("hexadecimal length", POST + "Content-Length: 0x3\r\n\r\nabc" + END, [400]),
    ("huge length", POST + "Content-Length: 18446744073709551619\r\n\r\nabc" + END, [400]),
    ("length and chunks", POST + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + END,
     [400]),
    ("chunks and length", POST + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + END,
     [400]),
    ("chunks twice", POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     [400]),
    ("gzip, chunked", POST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + END, [400]),
    ("chunked, identity", POST + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + END, [400]),
    ("identity", POST + "Transfer-Encoding: identity\r\n\r\n" + END, [400]),
    ("xchunked", POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + END, [400]),
    ("vertical tab before chunked", POST + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + END,
     [400]),
    ("chunks under HTTP/1.0", CHUNKED.replace("1.1", "1.0") + "0\r\n\r\n" + END, [400]),
    ("bare LF behind a chunk size", CHUNKED + f"{SIZE:x}\n{BODY}\r\n0\r\n\r\n" + END, [400]),
    ("bare LF in an extension", CHUNKED + f"{SIZE:x};a\n{BODY}\r\n0\r\n\r\n" + END, [400]),
    ("chunk longer than said", CHUNKED + f"{SIZE:x}\r\n{BODY}x\r\n0\r\n\r\n" + END, [400]),
    ("chunk size with 0x", CHUNKED + f"0x{SIZE:x}\r\n{BODY}\r\n0\r\n\r\n" + END, [400]),
    ("chunk size too large", CHUNKED + f"ffffffffffffffff1\r\n{BODY}\r\n0\r\n\r\n" + END, [400]),
    ("chunk size with space", CHUNKED + f"{SIZE:x} \r\n{BODY}\r\n0\r\n\r\n" + END, [400]),
    ("fragment", END.replace("/livez", "/livez#a"), [400]),
    ("bad escape", END.replace("/livez", "/v1/models/%zz"), [400]),
    ("hidden slash", END.replace("/livez", "/v1/models/a%2fb"), [400]),
    ("other expectation", POST + "Expect: a miracle\r\nContent-Length: 3\r\n\r\nabc" + END, [417]),
    ("coded body", POST + "Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc" + END, [415]),
    ("body of another type",
     POST.replace("application/json", "text/plain") + "Content-Length: 3\r\n\r\nabc" + END, [415]),
]


def exchange(api, text, split=None):
    data = text.replace("KEY", api.key).encode("latin-1")
    with api.raw() as connection:
        if split:
            for i in range(0, len(data), split):
                connection.sendall(data[i:i + split])
        else:
            connection.sendall(data)
        return read_all(connection)


@pytest.mark.parametrize("split", [None, 7])
@pytest.mark.parametrize("name,text,wanted", CASES, ids=[case[0] for case in CASES])
def test_bytes_come_to_the_answers_that_rfc_9112_has_for_them(server, name, text, wanted, split):
    data, closed = exchange(Api(server), text, split)
    assert closed, data
    if wanted == ["HEAD"]:
        assert data.endswith(b"\r\n\r\n") and b"content-length: 6" in data
        return
    answers = parse_answers(data)
    if split:  # sent in pieces, a client asks for the 100 by being slow
        answers = [a for a in answers if a[0] != 100]
    assert [a[0] for a in answers] == wanted, data
    assert answers[-1][1]["connection"] == "close"
    for status, headers, body in answers:
        assert headers["x-request-id"]
        if status >= 400:
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_expect_continue_is_answered_before_the_body(server):
    api = Api(server)
    head = POST + f"Expect: 100-continue\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"
    with api.raw() as connection:
        connection.sendall(head.replace("KEY", api.key).encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY.encode())
        data, closed = read_all(connection)
    assert closed and parse_answers(data)[0][0] == 200


def test_expect_continue_without_a_key_is_refused_before_the_body(server):
    head = POST + f"Expect: 100-continue\r\nContent-Length: {SIZE}\r\n\r\n"
    data, closed = exchange(Api(server), head.replace("Bearer KEY", "Bearer wrong"))
    assert closed and [a[0] for a in parse_answers(data)] == [401]


def test_body_at_the_limit_and_one_over(server):
    limit = 1 << 20
    api = Api(server)
    for size, status in ((limit - 1, 400), (limit, 400), (limit + 1, 413)):
        text = BODY[:-1] + " " * (size - SIZE - 1) + "}x"
        assert len(text) == size
        answer = api("POST", "/v1/completions", text[:size], content_type="application/json")
        assert answer.status == status, size


def test_chunked_body_over_the_limit_is_refused(server):
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    data, closed = exchange(Api(server), CHUNKED + (piece * 17).decode() + "0\r\n\r\n")
    assert closed and [a[0] for a in parse_answers(data)] == [413]


def test_tiny_chunks_are_refused_when_they_outweigh_the_body(server):
    data, closed = exchange(Api(server), CHUNKED + "1\r\n \r\n" * 25000 + "0\r\n\r\n")
    assert closed and [a[0] for a in parse_answers(data)] == [400]


def test_request_id_is_echoed_when_fit_and_made_when_not(server):
    api = Api(server)
    assert api.get("/livez", x_request_id="a" * 128).headers["x-request-id"] == "a" * 128
    for bad in ("a" * 129, 'a"b', "a b"):
        assert api.get("/livez", x_request_id=bad).headers["x-request-id"].startswith("req-")


def test_a_thousand_requests_on_one_connection_and_no_more(server):
    api = Api(server)
    with api.raw() as connection:
        connection.sendall((GET + "\r\n").encode() * 500)
        time.sleep(0.2)
        connection.sendall((GET + "\r\n").encode() * 501)
        data, closed = read_all(connection)
    answers = parse_answers(data)
    assert closed and [a[0] for a in answers] == [200] * 1000
    assert [a[1]["connection"] for a in answers] == ["keep-alive"] * 999 + ["close"]


def test_tls_below_1_2_is_refused_and_1_2_is_served(server):
    api = Api(server)
    for version, served in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
                            (ssl.TLSVersion.TLSv1_3, True)):
        context = ssl.create_default_context(cafile=str(server.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        api.context = context
        if served:
            assert api.get("/livez").status == 200
        else:
            with pytest.raises(ssl.SSLError):
                api.get("/livez")


def test_no_session_is_kept(server):
    api = Api(server)
    with api.raw() as connection:
        connection.sendall(END.encode())
        assert b"200 OK" in read_all(connection)[0]
        assert connection.session is None or not connection.session.has_ticket


def test_plain_http_gets_no_answer_and_harms_nobody(server):
    api = Api(server)
    with socket.create_connection((api.host, api.port), timeout=10) as plain:
        plain.sendall(END.encode())
        data, _ = read_all(plain)
    assert b"HTTP/" not in data
    assert api.get("/livez").status == 200


def test_many_silent_connections_leave_room_for_the_others(server):
    api = Api(server)
    silent = [socket.create_connection((api.host, api.port)) for _ in range(200)]
    try:
        begin = time.monotonic()
        assert api.get("/livez").status == 200
        assert time.monotonic() - begin < 2
    finally:
        for connection in silent:
            connection.close()


def test_a_head_that_never_ends_is_cut_off_in_time(server):
    api = Api(server)
    with api.raw(timeout=30) as connection:
        begin = time.monotonic()
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        data, closed = read_all(connection)
    assert closed and parse_answers(data)[0][0] == 408
    assert 8 < time.monotonic() - begin < 14
