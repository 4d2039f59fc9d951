// npm mppx, an engine of the Payment scheme. It brings no lightning of its own: this plugs in a
// charge, or a session if the second argument says so. Each request begins with a 402.
//
// In a session that 402 is echoed, and its deposit invoice is paid for the first request and for a
// top-up only. A line of the conversation may name an action after the URL: `topUp` or `close`.

const { pathToFileURL } = require("node:url");
const { pay, returnInvoice, converse } = require("./buyer.cjs");

// The package has ECMAScript modules only, and `import` alone does not look where it is installed.
const load = (name) => import(pathToFileURL(require.resolve(name)).href);

let action = "bearer";
let open;

const plugs = {
  charge: {
    request: (z) => ({ methodDetails: z.object({ invoice: z.string() }) }),
    async pay({ methodDetails }) {
      return { preimage: await pay(methodDetails.invoice) };
    },
  },
  session: {
    request: (z) => ({ depositInvoice: z.string(), paymentHash: z.string() }),
    async pay({ depositInvoice, paymentHash }) {
      if (!open) {
        const preimage = await pay(depositInvoice);
        open = { sessionId: paymentHash, preimage };
        return { action: "open", preimage, returnInvoice: await returnInvoice() };
      }
      if (action === "topUp") {
        return { action, sessionId: open.sessionId, topUpPreimage: await pay(depositInvoice) };
      }
      return { action, ...open };
    },
  },
};

async function buyer(intent) {
  const { Credential, Method, Receipt, z } = await load("mppx");
  const { Fetch } = await load("mppx/client");
  const plug = plugs[intent];
  const definition = Method.from({
    name: "lightning",
    intent,
    schema: {
      credential: { payload: z.looseObject({}) },
      request: z.object({ amount: z.string(), currency: z.literal("sat"), ...plug.request(z) }),
    },
  });
  const method = Method.toClient(definition, {
    async createCredential({ challenge }) {
      return Credential.serialize({ challenge, payload: await plug.pay(challenge.request) });
    },
  });
  const fetchPaid = Fetch.from({ methods: [method] });
  return async (line) => {
    const [url, named] = line.split(" ");
    action = named ?? "bearer";
    const answer = await fetchPaid(url);
    const receipt = answer.headers.has("payment-receipt") ? Receipt.fromResponse(answer) : undefined;
    return { status: answer.status, body: await answer.text(), receipt };
  };
}

buyer(process.argv[3] ?? "charge").then(converse);
