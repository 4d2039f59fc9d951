"""What the Python clients share: a wallet that really pays, and the conversation with the test.

The same as in buyer.cjs: one URL per line on standard input, one line of JSON in answer.
"""

import dataclasses
import json
import sys

import httpx


class Purse:
    """Pays at the wallet that the test offers, and counts."""

    def __init__(self):
        self.url = sys.argv[1]
        self.payments = 0

    def pay(self, invoice):
        """Pays a BOLT 11 invoice and gives the preimage in hexadecimal."""
        answer = httpx.post(self.url, json={"invoice": invoice}, timeout=60)
        answer.raise_for_status()
        self.payments += 1
        return answer.json()["preimage"]

    def return_invoice(self):
        """An invoice without an amount of the same wallet, for what is paid back."""
        answer = httpx.post(httpx.URL(self.url).join("return-invoice"), timeout=60)
        answer.raise_for_status()
        return answer.json()["invoice"]


def converse(purse, get):
    """Answers each URL on standard input by what `get` made of it: an httpx response.

    A client that reads receipts has left its reading in `payment_receipt`.
    """
    for line in sys.stdin:
        try:
            answer = get(line.strip())
            said = {"status": answer.status_code, "body": answer.text}
            if receipt := getattr(answer, "payment_receipt", None):
                said["receipt"] = dataclasses.asdict(receipt)
        except Exception as error:  # Whatever goes wrong in a client is a finding of the test.
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({**said, "payments": purse.payments}, default=str), flush=True)
