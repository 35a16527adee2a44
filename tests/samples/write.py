"""Write the samples that are missing. One that exists is a promise to readers and is left alone."""

from __future__ import annotations

import json
from pathlib import Path

from evac_common.messages.catalogue import all_messages
from evac_common.messages.codec import encode
from evac_common.messages.examples import example, example_envelope

HERE = Path(__file__).resolve().parent


def main() -> None:
    for cls in all_messages():
        path = HERE / f"{cls.type()}.json"
        if path.exists():
            continue
        message = example(cls)
        wire = encode(message, example_envelope(cls))
        sample = {
            "exchange": cls.family.exchange,
            "routing_key": message.routing_key(),
            "content_type": wire.content_type,
            "headers": dict(wire.headers),
            "body": message.model_dump(mode="json"),
        }
        path.write_text(json.dumps(sample, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
