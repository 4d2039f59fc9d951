// npm @getalby/lightning-tools: fetch402, or fetchWithL402 if the second argument says so. It keeps
// nothing itself: it hands out a credential and takes it back for the next request.

const { fetch402, fetchWithL402 } = require("@getalby/lightning-tools/402");
const { pay, converse } = require("./buyer.cjs");

const fetchPaid = process.argv[3] === "fetchWithL402" ? fetchWithL402 : fetch402;
const wallet = { payInvoice: async ({ invoice }) => ({ preimage: await pay(invoice) }) };
const bought = new Map();

converse(async (url) => {
  const credentials = bought.get(url);
  const answer = await fetchPaid(url, {}, { wallet, credentials });
  if (answer.payment) {
    bought.set(url, answer.payment.credentials);
  }
  if (answer.status === 402) {
    // With a credential in hand it never pays again by itself: a next request shall.
    bought.delete(url);
  }
  return { status: answer.status, body: await answer.text() };
});
