"""An issuer of tokens for tests: a server on this machine, with keys that can be replaced."""

import base64
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "twinforce"


class SigningPair:
    """A private key, and its public half as a member of a JWKS."""

    def __init__(self, name, algorithm="ES256", size=2048):
        self.name, self.algorithm = name, algorithm
        if algorithm.startswith("ES"):
            curve = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
            self.private = ec.generate_private_key(curve[algorithm]())
        elif algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = rsa.generate_private_key(65537, size)
        self.public = self.private.public_key()
        made = jwt.get_algorithm_by_name(algorithm).to_jwk(self.public, as_dict=True)
        self.jwk = {n: made[n] for n in ("kty", "crv", "n", "e", "x", "y") if n in made}
        self.jwk |= {"kid": name, "use": "sig", "alg": algorithm}

    def sign(self, claims, **header):
        return jwt.encode(claims, self.private, self.algorithm, {"kid": self.name} | header)


class Issuer:
    """An issuer of tokens.

    Attributes:
        url: Its address, which is the claim `iss`.
        pairs: Keys that sign; the last one signs new tokens.
        is_down: True to answer all requests with an error.
        asked: Paths that were asked for.
    """

    def __init__(self):
        self.pairs = [SigningPair("first")]
        self.is_down, self.asked, self.headers = False, [], []
        self.answers = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def jwks(self):
        return {"keys": [pair.jwk for pair in self.pairs]}

    def rotate(self, name, algorithm="ES256"):
        """Sign with a new key from now on; tokens of the last one stay valid."""
        self.pairs = [*self.pairs[-1:], SigningPair(name, algorithm)]

    def claims(self, **claims):
        now = time.time()
        given = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "exp": now + 600, "iat": now}
        return {name: v for name, v in (given | claims).items() if v is not None}

    def token(self, **claims):
        """Return a token; claims that are None are left out."""
        return self.pairs[-1].sign(self.claims(**claims))

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer_to(self, path):
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return self.jwks if path == "/keys" else None

    def _handler(issuer):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked.append(self.path)
                issuer.headers.append(dict(self.headers))
                answer = None if issuer.is_down else issuer.answer_to(self.path)
                if isinstance(answer, str):
                    self.send_response(302)
                    self.send_header("Location", answer)
                    self.end_headers()
                    return
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(503 if answer is None else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        return Handler


@contextmanager
def issuing():
    issuer = Issuer()
    try:
        yield issuer
    finally:
        issuer.stop()


def part(value):
    """Return a part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
