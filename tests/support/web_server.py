"""A web server with range requests, in threads, that misbehaves where a test says so. HTTP/1.1, with TLS if asked."""
import base64
import hashlib
import http.server
import re
import socket
import ssl
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.server.owner.connections.add(self.connection)

    def finish(self):
        self.server.owner.connections.discard(self.connection)
        try:
            super().finish()
        except (OSError, ValueError):
            pass

    def handle(self):
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_GET(self):
        owner = self.server.owner
        asked = self.headers.get("Range")
        with owner.lock:
            owner.requests.append((self.path, asked, dict(self.headers)))
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        first, last = (int(match[1]), int(match[2])) if match else (0, None)
        if owner.misbehave(self, first, last):
            return
        path = self.path.split("?")[0]
        if path in owner.redirects:
            self.reply(302, b"elsewhere", Location=owner.redirects[path])
        elif not self.may_read():
            self.reply(401, b"no", WWW_Authenticate='Basic realm="x"')
        elif path not in owner.objects:
            self.reply(404, b"nothing")
        elif last is None:
            self.reply(200, owner.objects[path])
        else:
            self.part(owner.objects[path], first, last)

    def do_HEAD(self):
        """For other clients; weir asks nothing of the kind."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.owner.objects[self.path])))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def may_read(self):
        owner = self.server.owner
        if owner.cookie and self.headers.get("Cookie") != owner.cookie:
            return False
        if not owner.login:
            return True
        return self.headers.get("Authorization") == "Basic " + base64.b64encode(owner.login.encode()).decode()

    def part(self, content, first, last, **headers):
        """The bytes from first to last."""
        last = min(last, len(content) - 1)
        if first > last:
            return self.reply(416, b"", Content_Range=f"bytes */{len(content)}")
        return self.reply(206, content[first:last + 1], **{
            "Content_Range": f"bytes {first}-{last}/{len(content)}", "ETag": self.server.owner.etag_of(content), **headers})

    def reply(self, status, body, **headers):
        """A header of None is left out."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        return True


class WebServer:
    """`objects` is what is served, by path; `misbehave(handler, first, last)` returns True if it has answered."""

    def __init__(self, case, objects=None, certificates=None, login=None, cookie=None):
        self.objects = objects or {}
        self.certificates, self.login, self.cookie = certificates, login, cookie
        self.redirects = {}
        self.requests = []
        self.connections = set()
        self.misbehave = lambda *_: False
        self.lock = threading.Lock()
        self.tags = {}
        self.port = 0
        self.server = None
        case.addCleanup(self.stop)
        self.start()

    def start(self):
        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

            def handle_error(self, *_):
                pass
        self.server = Listener(("127.0.0.1", self.port), Handler)
        self.server.owner = self
        self.port = self.server.server_port
        if self.certificates:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{self.certificates}/server-cert.pem", f"{self.certificates}/server-key.pem")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """As if the process was killed: connections are cut, the port is closed."""
        if self.server is None:
            return
        self.server.shutdown()
        self.server.server_close()
        self.server = None
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def etag_of(self, content):
        with self.lock:
            if id(content) not in self.tags:
                self.tags[id(content)] = (content, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
            return self.tags[id(content)][1]

    def url(self, path="/disk", login=""):
        return f"{'https' if self.certificates else 'http'}://{login}127.0.0.1:{self.port}{path}"
