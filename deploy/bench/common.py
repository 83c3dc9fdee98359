# SPDX-License-Identifier: MIT
"""What the parts of the benchmark share: processes, and rows of the tables."""
import json
import os
import resource
import socket
import subprocess
import sys


def run(*command, **kwargs):
    """Standard output of a command that succeeds."""
    print("+", *command, file=sys.stderr)
    return subprocess.run([str(c) for c in command], check=True, text=True,
                          stdout=subprocess.PIPE, **kwargs).stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(args, **more):
    """For lorica's commands, on the benchmark's own data directory."""
    return dict(os.environ, LORICA_DATA=str(args.data), **more)


def lorica_json(args, *words, **more):
    """What a lorica command prints with --json."""
    return json.loads(run(args.lorica, *words, "--json", env=environment(args, **more)))


def peak_mb():
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
