"""mosec's echo service with two worker processes: ``python -m benchmarks.rpc.mosec_echo --port N``."""

from __future__ import annotations

from mosec import Server, Worker


class Echo(Worker):
    """Gives back the bytes that came, without JSON."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Echo, num=2)
    server.run()
