#!/usr/bin/env python3
"""pymacaroons and our macaroons, in both directions.

    python3 pymacaroons_check.py PATH/TO/macaroon_tool

Needs requirements.txt of this folder; the tool is `cargo build -p protocol --example macaroon_tool`.
Exits 0 and prints a count when every comparison holds.
"""
import base64
import json
import os
import random
import subprocess
import sys

from pymacaroons import MACAROON_V2, Macaroon, Verifier

HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = os.path.join(HERE, "..", "vectors", "l402.json")


class Tool:
    def __init__(self, path):
        self.process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0


def theirs(root_key, location, identifier, caveats):
    macaroon = Macaroon(
        location=location, identifier=identifier, key=root_key, version=MACAROON_V2
    )
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    return macaroon


def they_accept(token, root_key):
    verifier = Verifier()
    verifier.satisfy_general(lambda _: True)
    try:
        return verifier.verify(Macaroon.deserialize(token), root_key)
    except Exception:
        return False


def flipped(token):
    raw = bytearray(base64.b64decode(token))
    raw[-1] ^= 1
    return base64.b64encode(raw).decode()


def compare(tool, root_key, location, identifier, caveats):
    ours = tool(
        op="mint",
        root_key=root_key.hex(),
        location=location,
        identifier=identifier.hex(),
        caveats=caveats,
    )["token"]
    macaroon = theirs(root_key, location, identifier, caveats)
    token = macaroon.serialize()

    # Their view of ours.
    assert they_accept(ours, root_key), ours
    assert not they_accept(flipped(ours), root_key), ours
    read = Macaroon.deserialize(ours)
    assert read.identifier_bytes == identifier
    assert [caveat.caveat_id_bytes.decode() for caveat in read.caveats] == caveats
    assert read.signature == macaroon.signature

    # Our view of theirs, which is URL-safe base64 and has a location even if it is empty.
    seen = tool(op="verify", root_key=root_key.hex(), token=token)
    assert seen == {
        "valid": True,
        "location": location,
        "identifier": identifier.hex(),
        "caveats": caveats,
    }, seen
    assert tool(op="verify", root_key=bytes(32).hex(), token=token)["valid"] is False

    # A holder attenuates with the one library, the other one checks.
    narrowed = tool(op="attenuate", token=token, caveats=["x=1"])["token"]
    assert they_accept(narrowed, root_key)
    macaroon.add_first_party_caveat("x=1")
    seen = tool(op="verify", root_key=root_key.hex(), token=macaroon.serialize())
    assert seen["valid"] and seen["caveats"] == caveats + ["x=1"], seen
    assert Macaroon.deserialize(narrowed).signature == macaroon.signature


def main():
    tool = Tool(sys.argv[1])
    cases = []
    with open(VECTORS, encoding="utf-8") as file:
        for case in json.load(file)["macaroons"]:
            cases.append(
                (
                    bytes.fromhex(case["root_key"]),
                    case["location"],
                    bytes.fromhex(case["identifier"]),
                    case["caveats"],
                )
            )
    source = random.Random(402)
    for _ in range(200):
        caveats = [
            "c%d=%s" % (index, "v" * source.randrange(200))
            for index in range(source.randrange(8))
        ]
        location = "" if source.random() < 0.5 else "lsat"
        cases.append((source.randbytes(32), location, source.randbytes(66), caveats))
    for case in cases:
        compare(tool, *case)
    tool.close()
    print(f"{len(cases)} macaroons agree in both directions")


if __name__ == "__main__":
    main()
