"""PyPI l402-requests: keeps tokens by host and the first two segments of the path, and charges not
at all."""

from buyer import Purse, converse
from l402_requests import L402Client
from l402_requests.wallets import WalletBase


class Wallet(WalletBase):
    name = "test"

    def __init__(self, purse):
        self.purse = purse

    async def pay_invoice(self, bolt11):
        return self.purse.pay(bolt11)

    def pay_invoice_sync(self, bolt11):
        return self.purse.pay(bolt11)


purse = Purse()
# A test holds some answers back for longer than the five seconds that it waits by default.
client = L402Client(wallet=Wallet(purse), timeout=60)
converse(purse, client.get)
