# SPDX-License-Identifier: MIT
"""The registry: alone with many adapters, and in a running server."""
import adapters
import live
from common import lorica_json
from servers import serve_lorica


def measure(args, arch):
    """(what, figure, promise)."""
    size = ["--names", 1000] if args.quick else []
    seen = lorica_json(args, "bench", "registry", *size, TMPDIR=str(args.work))
    calls = {call["call"]: call for call in seen["calls"]}
    each = seen["adapters"] * seen["versions"]
    figures = [(f"{name}, {seen['adapters']:,} adapters x {seen['versions']} versions of "
                f"{seen['weights_bytes'] // 1024} KB, p99",
                f"{calls[name]['p99_seconds'] * 1e3:.3f} ms", "1 s" if name == "open" else "")
               for name in ("publish", "promote", "list a page of 100", "open")]
    figures.append(("file, beside the weights themselves, a version",
                    f"{(seen['file_bytes'] / each - seen['weights_bytes']) / 1024:.1f} KB", ""))
    server, headers, _ = serve_lorica(args)
    with server:
        figures += live.measure(server, {"authorization": headers["authorization"]},
                                adapters.make(args.work, arch, 0), args.quick)
    return figures
