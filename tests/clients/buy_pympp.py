"""PyPI pympp, an engine of the Payment scheme without lightning.

This plugs in a charge, or a session if the second argument says so. Each request begins with a 402.
In a session that 402 is echoed, and its deposit invoice is paid for the first request and for a
top-up only. A line of the conversation may name an action after the URL: `topUp` or `close`.
"""

import asyncio
import sys

from buyer import Purse, converse
from mpp import Credential, Receipt
from mpp.client import ClientMethod, Method, Mpp
from pydantic import BaseModel


class Payload(BaseModel, extra="allow"):
    pass


class Details(BaseModel):
    invoice: str


class ChargeRequest(BaseModel):
    amount: str
    currency: str
    methodDetails: Details


class SessionRequest(BaseModel):
    amount: str
    currency: str
    depositInvoice: str
    paymentHash: str


class Charge:
    request_model = ChargeRequest

    def payload(self, request, action):
        return {"preimage": purse.pay(request.methodDetails.invoice)}


class Session:
    request_model = SessionRequest
    opened = None

    def payload(self, request, action):
        if self.opened is None:
            preimage = purse.pay(request.depositInvoice)
            self.opened = {"sessionId": request.paymentHash, "preimage": preimage}
            returned = purse.return_invoice()
            return {"action": "open", "preimage": preimage, "returnInvoice": returned}
        if action == "topUp":
            preimage = purse.pay(request.depositInvoice)
            session_id = self.opened["sessionId"]
            return {"action": action, "sessionId": session_id, "topUpPreimage": preimage}
        return {"action": action, **self.opened}


class Buyer:
    def __init__(self, intent):
        self.plug = Session() if intent == "session" else Charge()
        self.action = "bearer"
        self.loop = asyncio.new_event_loop()
        method = Method(
            name="lightning",
            intent=intent,
            request_model=self.plug.request_model,
            payload_model=Payload,
        )
        self.client = Mpp(methods=[ClientMethod(method=method, create_credential=self.create)])

    async def create(self, params):
        request = self.plug.request_model.model_validate(params.challenge.request)
        payload = await asyncio.to_thread(self.plug.payload, request, self.action)
        credential = Credential(challenge=params.challenge.to_echo(), payload=payload)
        return credential.to_authorization()

    def get(self, line):
        url, _, action = line.partition(" ")
        self.action = action or "bearer"
        answer = self.loop.run_until_complete(self.client.fetch(url, timeout=60))
        receipt = answer.headers.get("payment-receipt")
        answer.payment_receipt = receipt and Receipt.from_payment_receipt(receipt)
        return answer


purse = Purse()
converse(purse, Buyer(sys.argv[2] if len(sys.argv) > 2 else "charge").get)
