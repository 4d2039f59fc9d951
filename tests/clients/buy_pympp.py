"""PyPI pympp, an engine of the Payment scheme without lightning: a charge is plugged in here.

It keeps nothing; each request begins with a 402.
"""

import asyncio

from buyer import Purse, converse
from mpp import Credential, Receipt
from mpp.client import ClientMethod, Method, Mpp
from pydantic import BaseModel


class Details(BaseModel):
    invoice: str


class Request(BaseModel):
    amount: str
    currency: str
    methodDetails: Details


class Payload(BaseModel):
    preimage: str


async def create_credential(params):
    request = Request.model_validate(params.challenge.request)
    preimage = await asyncio.to_thread(purse.pay, request.methodDetails.invoice)
    credential = Credential(challenge=params.challenge.to_echo(), payload={"preimage": preimage})
    return credential.to_authorization()


def get(url):
    answer = loop.run_until_complete(client.fetch(url, timeout=60))
    receipt = answer.headers.get("payment-receipt")
    answer.payment_receipt = receipt and Receipt.from_payment_receipt(receipt)
    return answer


purse = Purse()
loop = asyncio.new_event_loop()
charge = Method(name="lightning", intent="charge", request_model=Request, payload_model=Payload)
client = Mpp(methods=[ClientMethod(method=charge, create_credential=create_credential)])
converse(purse, get)
