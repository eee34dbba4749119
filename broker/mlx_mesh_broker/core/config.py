"""The numbers that the core decides by; the ``[broker]`` section of ``mesh.toml``."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_mesh_wire.settings import setting

MIB = 1024 * 1024


@dataclass(frozen=True)
class Config:
    """Limits and intervals of the core. Times are in seconds, sizes in bytes."""

    queue_max_requests: int = setting(
        1024, low=1, high=10**7, help="requests waiting for one op and model; NATS and Envoy default to about as many"
    )
    queue_max_bytes: int = setting(
        256 * MIB, low=1, help="bytes of bodies waiting for one op and model, four messages of the largest size"
    )
    client_max_outstanding: int = setting(
        64, low=1, high=10**6, help="requests of one client that have no answer yet, so that none fills a queue alone"
    )
    client_max_request_bytes: int = setting(
        128 * MIB,
        low=1,
        help="bytes of bodies over 2 KiB of one client's requests that have no answer yet: one message of the largest "
        "size can be sent while another is computed",
    )
    requests_max_bytes: int = setting(
        1024 * MIB,
        low=1,
        help="bytes of all requests that have no answer yet, waiting or computed, each with 4 KiB at least: "
        "eight clients at their bound, or a quarter of a million small requests",
    )
    client_max_bytes: int = setting(
        64 * MIB, low=1, help="bytes of answers kept for a client that is away or does not read: one largest message"
    )
    prefetch: int = setting(
        1, low=0, high=64, help="jobs given to a worker beyond its slots, to hide one round trip between two jobs"
    )
    suspect_s: float = setting(3.0, low=0.1, high=3600, help="silence after which a worker gets no new work: 3 beats")
    lost_s: float = setting(5.0, low=0.2, high=3600, help="silence after which a local worker counts as lost: 5 beats")
    lost_remote_s: float = setting(15.0, low=0.2, high=3600, help="the same for a worker on another machine")
    stall_s: float = setting(30.0, low=0.2, high=86400, help="time without progress after which a worker is stalled")
    load_max_s: float = setting(600.0, low=1, high=86400, help="longest time that a worker may say it is loading")
    rejoin_s: float = setting(
        5.0, low=0, high=3600, help="how long work waits for a worker to come back after the last one of its op left"
    )
    away_s: float = setting(
        5.0, low=0, high=3600, help="how long answers are kept for a client that lost its connection"
    )
    session_idle_s: float = setting(90.0, low=1, high=86400, help="silence after which a client is forgotten")
    credit_s: float = setting(10.0, low=0.1, high=3600, help="how long a stream may wait for its reader")
    deaths_max: int = setting(2, low=1, high=10, help="workers that may die computing a request before it is poison")
    attempts_max: int = setting(16, low=1, high=1000, help="workers that a request is given to in vain")
    quarantine_s: float = setting(600.0, low=0, high=86400, help="how long a poisonous body is refused at once")
    cache_max_bytes: int = setting(64 * MIB, low=0, help="bytes of results kept for repeated requests; 0 turns it off")
    cache_ttl_s: float = setting(300.0, low=0, high=86400, help="how long such a result is used")
    single_flight: bool = setting(True, help="compute equal requests for pure ops once")
    beat_s: float = setting(1.0, low=0.05, high=60, help="interval of worker beats")
    ping_s: float = setting(1.0, low=0.05, high=60, help="silence after which a peer with work under way is pinged")
    silent_s: float = setting(5.0, low=0.1, high=3600, help="silence after which a client makes a new connection")

    def intervals(self) -> dict[str, int]:
        """Return what WELCOME announces, in milliseconds."""
        names = ("ping", "silent", "away", "beat", "suspect", "lost", "stall", "credit")
        return {f"{name}_ms": round(getattr(self, f"{name}_s") * 1000) for name in names}
