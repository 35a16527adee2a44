"""What the wire's checks cost, beside the bare libraries that they stand on."""

from __future__ import annotations

from datetime import UTC, datetime

import msgpack

from bench.measure import interleaved, show
from evac_common.messages.codec import Envelope, decode, encode
from evac_common.messages.commands import DiskSpec, InstanceSpec, Start
from evac_common.model.states import PoolKind


def run() -> None:
    start = Start(
        node_id="a" * 32,
        command_id="b" * 32,
        term=1,
        incarnation=7,
        instance_id="c" * 32,
        epoch=3,
        run=1,
        deadline=datetime(2026, 1, 1, tzinfo=UTC),
        spec=InstanceSpec(
            name="web-1",
            vcpus=4,
            memory_mib=8192,
            disks=[
                DiskSpec(
                    pool_kind=PoolKind.NFS, source="/srv/vm", volume="web-1-0.raw", format="raw"
                )
            ],
        ),
    )
    envelope = Envelope(id="d" * 32, source="/evac/scheduler/bench", time=datetime.now(UTC))
    wire = encode(start, envelope)
    plain = start.model_dump(mode="json")
    show(
        f"encode a start command ({len(wire.body)} bytes)",
        interleaved(
            {
                "msgpack alone": lambda: msgpack.packb(plain),
                "pydantic and msgpack": lambda: msgpack.packb(start.model_dump(mode="json")),
                "evac (CloudEvents headers, limits)": lambda: encode(start, envelope),
            },
            calls=2000,
        ),
        peer="pydantic and msgpack",
    )
    show(
        "decode it",
        interleaved(
            {
                "msgpack alone": lambda: msgpack.unpackb(wire.body),
                "pydantic and msgpack": lambda: Start.model_validate(msgpack.unpackb(wire.body)),
                "evac (CloudEvents headers, limits)": lambda: decode(
                    wire.headers, wire.content_type, wire.body
                ),
            },
            calls=2000,
        ),
        peer="pydantic and msgpack",
    )
