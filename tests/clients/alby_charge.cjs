// npm @getalby/lightning-tools buying charges: fetch402, or fetchWithMpp if the second argument says
// so. It keeps nothing itself. A charge is used up by its answer, so a credential is kept only for
// as long as what it paid for has not come.

const { fetch402, fetchWithMpp } = require("@getalby/lightning-tools/402");
const { pay, converse } = require("./buyer.cjs");

const fetchPaid = process.argv[3] === "fetchWithMpp" ? fetchWithMpp : fetch402;
const wallet = { payInvoice: async ({ invoice }) => ({ preimage: await pay(invoice) }) };
const unserved = new Map();

converse(async (url) => {
  const answer = await fetchPaid(url, {}, { wallet, credentials: unserved.get(url) });
  unserved.delete(url);
  if (answer.status >= 500 && answer.payment) {
    unserved.set(url, answer.payment.credentials);
  }
  return { status: answer.status, body: await answer.text() };
});
