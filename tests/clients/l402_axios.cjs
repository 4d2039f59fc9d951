// npm l402: an interceptor for axios, with a token store of its own.

const axios = require("axios");
const { MemoryTokenStore, setupL402Interceptor } = require("l402");
const { pay, converse } = require("./buyer.cjs");

const client = axios.create({ responseType: "text", transformResponse: (body) => body });
const wallet = {
  payInvoice: async (invoice) => ({ preimage: await pay(invoice), success: true }),
};
setupL402Interceptor(client, wallet, new MemoryTokenStore());

converse(async (url) => {
  try {
    const answer = await client.get(url);
    return { status: answer.status, body: answer.data };
  } catch (error) {
    if (!error.response) {
      throw error;
    }
    return { status: error.response.status, body: error.response.data };
  }
});
