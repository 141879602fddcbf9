"""An S3 server of one's own on the loopback: moto.

`python -m tests.s3 SOCKET LOG` serves on an open file descriptor until it is
killed, and writes a line to the file LOG for every object that begins to be
put, and one when it is there.
"""

import contextlib
import io
import logging
import os
import pathlib
import socket
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).parents[1]
BUCKET = "tests"


def environment(port):
    """The variables with which S3's clients find the server."""
    return {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


@contextlib.contextmanager
def serving(log=os.devnull):
    """Yields the variables of a server in a process of its own."""
    # Open from here on: nobody else gets the port, and requests wait for the
    # server instead of being refused.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        number = listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3", str(number), str(log)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[number],
        )
    try:
        _make_bucket(port)
        yield environment(port)
    finally:
        process.kill()
        process.wait()


def _make_bucket(port):
    url = f"http://127.0.0.1:{port}/{BUCKET}"
    request = urllib.request.Request(url, method="PUT")
    urllib.request.urlopen(request, timeout=180).close()


def _serve(listening, log):
    from moto.server import create_backend_app
    from moto.server import DomainDispatcherApplication
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = DomainDispatcherApplication(create_backend_app)
    file = open(log, "a", buffering=1)

    def noting(environ, start_response):
        if environ["REQUEST_METHOD"] != "PUT":
            return moto(environ, start_response)
        file.write(f"begun {environ['PATH_INFO']}\n")
        # As S3 does: what is cut off on its way is not kept.
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(size)
        if len(body) < size:
            start_response("400 Bad Request", [])
            return []
        environ["wsgi.input"] = io.BytesIO(body)
        answer = moto(environ, start_response)
        file.write(f"ended {environ['PATH_INFO']}\n")
        return answer

    server = make_server("127.0.0.1", 0, noting, threaded=True, fd=listening)
    server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
