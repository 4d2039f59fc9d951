"""PyPI l402kit: keeps tokens by URL; with a budget it reads the price from the body of the 402."""

from buyer import Purse, converse
from l402kit.client import L402Client, L402Wallet


class Wallet(L402Wallet):
    def __init__(self, purse):
        self.purse = purse

    def pay_invoice(self, bolt11):
        return self.purse.pay(bolt11)


purse = Purse()
client = L402Client(wallet=Wallet(purse), budget_sats=100)
converse(purse, client.get)
