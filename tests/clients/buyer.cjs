// What the JavaScript clients share: a wallet that really pays, and the conversation with the test.
//
// The test writes one line per request (a URL); each is answered by one line of JSON:
// {"status": 200, "payments": 1, "body": "…"}, or {"error": "…", "payments": 0}. `payments` counts
// all that this process has paid; `receipt` is there if the client itself has read one. One process
// is one client, with whatever it keeps in memory.

const readline = require("node:readline");

const [payUrl] = process.argv.slice(2);
let payments = 0;

/** Pays a BOLT 11 invoice at the wallet that the test offers and gives the preimage. */
async function pay(invoice) {
  const answer = await fetch(payUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ invoice }),
  });
  if (!answer.ok) {
    throw new Error(`not paid: ${answer.status} ${await answer.text()}`);
  }
  payments += 1;
  return (await answer.json()).preimage;
}

/** An invoice without an amount of the same wallet, for what is paid back. */
async function returnInvoice() {
  const answer = await fetch(new URL("return-invoice", payUrl), { method: "POST" });
  if (!answer.ok) {
    throw new Error(`no invoice: ${answer.status} ${await answer.text()}`);
  }
  return (await answer.json()).invoice;
}

/** Answers each URL on standard input by what `get` made of it: {status, body, receipt?}. */
async function converse(get) {
  for await (const url of readline.createInterface({ input: process.stdin })) {
    let said;
    try {
      said = await get(url);
    } catch (error) {
      said = { error: String(error) };
    }
    process.stdout.write(`${JSON.stringify({ ...said, payments })}\n`);
  }
}

module.exports = { pay, returnInvoice, converse };
