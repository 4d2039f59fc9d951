// npm mppx, an engine of the Payment scheme. It brings no lightning of its own: this plugs a charge
// in. It keeps nothing; each request begins with a 402.

const { pathToFileURL } = require("node:url");
const { pay, converse } = require("./buyer.cjs");

// The package has ECMAScript modules only, and `import` alone does not look where it is installed.
const load = (name) => import(pathToFileURL(require.resolve(name)).href);

async function buyer() {
  const { Credential, Method, Receipt, z } = await load("mppx");
  const { Fetch } = await load("mppx/client");
  const charge = Method.from({
    name: "lightning",
    intent: "charge",
    schema: {
      credential: { payload: z.object({ preimage: z.string() }) },
      request: z.object({
        amount: z.string(),
        currency: z.literal("sat"),
        methodDetails: z.object({ invoice: z.string() }),
      }),
    },
  });
  const method = Method.toClient(charge, {
    async createCredential({ challenge }) {
      const preimage = await pay(challenge.request.methodDetails.invoice);
      return Credential.serialize({ challenge, payload: { preimage } });
    },
  });
  const fetchPaid = Fetch.from({ methods: [method] });
  return async (url) => {
    const answer = await fetchPaid(url);
    const receipt = answer.headers.has("payment-receipt") ? Receipt.fromResponse(answer) : undefined;
    return { status: answer.status, body: await answer.text(), receipt };
  };
}

buyer().then(converse);
