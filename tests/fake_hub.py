"""A Hugging Face Hub in memory, behind a real socket: the real client talks to it."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Keeps what is uploaded, and gives it back; one commit per repository.

    Attributes:
        files: Contents by repository and path.
        private: Whether a repository was made private.
        requests: What was asked, in order.
        refuses: Whether every token is refused.
    """

    def __init__(self):
        self.files, self.private, self.requests = {}, {}, []
        self.refuses = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments):
                pass

            def do_GET(self):
                hub.get(self)

            def do_HEAD(self):
                hub.get(self)

            def do_POST(self):
                hub.post(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def get(self, handler):
        path = handler.path.partition("?")[0]
        self.requests.append(f"{handler.command} {path}")
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        repository = next((match[1] for match in (info, tree, file) if match), None)
        files = self.files.get(repository)
        if files is None:
            return self._answer(handler, 404, {}, {"X-Error-Code": "RepoNotFound"})
        if info:
            siblings = [{"rfilename": name} for name in files]
            return self._answer(
                handler, 200, {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
            )
        if tree:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                for name, content in files.items()
            ]
            return self._answer(handler, 200, entries)
        content = files.get(file[2])
        if content is None:
            return self._answer(handler, 404, {}, {"X-Error-Code": "EntryNotFound"})
        told = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT}
        return self._answer(handler, 200, content, told)

    def post(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.requests.append(f"POST {handler.path.partition('?')[0]}")
        if self.refuses:
            return self._answer(handler, 401, {"error": "Invalid username or password."})
        if handler.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            name = f"spaces/{name}" if asked.get("type") == "space" else name
            self.files.setdefault(name, {})
            self.private.setdefault(name, asked.get("visibility") == "private")
            return self._answer(handler, 200, {"url": f"{self.url}/{name}", "id": name})
        if handler.path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1]) or {}
            return self._answer(handler, 200 if isinstance(front, dict) else 400, {})
        kind, repository = re.match(r"/api/(models|spaces)/([^/]+/[^/]+)/", handler.path).groups()
        repository = f"spaces/{repository}" if kind == "spaces" else repository
        if "/preupload/" in handler.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(handler, 200, {"files": files})
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                content = base64.b64decode(item["value"]["content"])
                self.files[repository][item["value"]["path"]] = content
        address = f"{self.url}/{repository}/commit/{COMMIT}"
        return self._answer(handler, 200, {"commitUrl": address, "commitOid": COMMIT})

    def _answer(self, handler, status, content, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)


def _oid(content):
    """The name that git has for a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
