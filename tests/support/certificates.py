"""Certificates for TLS tests, made on the spot."""
import os

from tools import run, system_tool


def make_certificates(folder):
    """A certificate authority of its own and a server's certificate for 127.0.0.1, in a new directory."""
    os.mkdir(folder)
    openssl = system_tool("openssl")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(openssl, "req", "-x509", *new_key, "-days", "2", "-subj", "/CN=test authority",
        "-keyout", "ca-key.pem", "-out", "ca-cert.pem", cwd=folder)
    run(openssl, "req", *new_key, "-subj", "/CN=server", "-keyout", "server-key.pem", "-out",
        "server.csr", cwd=folder)
    with open(f"{folder}/names", "w", encoding="utf-8") as file:
        file.write("subjectAltName=IP:127.0.0.1\n")
    run(openssl, "x509", "-req", "-in", "server.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
        "-days", "2", "-extfile", "names", "-out", "server-cert.pem", cwd=folder)
    return folder
