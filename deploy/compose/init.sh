#!/bin/bash
# Funds the seller's node, opens a channel to the buyer's with money on both sides, and leaves in
# $SECRETS what the sidecar needs to speak to the seller's node. Run again beside the same nodes, it
# does only the last.
set -euo pipefail

lncli_of() { # folder, host:port, command…
  local folder=$1 server=$2
  shift 2
  lncli --network=regtest "--lnddir=$folder" "--rpcserver=$server" "$@"
}
seller() { lncli_of "$SELLER_DIR" "$SELLER" "$@"; }
buyer() { lncli_of "$BUYER_DIR" "$BUYER" "$@"; }
bitcoin() { # host:port, command…
  local server=$1
  shift
  btcctl --regtest --configfile=/dev/null "--rpcserver=$server" "--rpccert=$CHAIN/rpc.cert" \
    "--rpcuser=$RPC_USER" "--rpcpass=$RPC_PASSWORD" "$@"
}
field() { sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" | head -n 1; }
wait_for() { # what, command…
  local what=$1
  shift
  echo "waiting until $what"
  for _ in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  echo "not within a minute: $what" >&2
  "$@"
  exit 1
}

has_channel() { "$1" listchannels --active_only | grep -q '"chan_id"'; }
synced() { [ "$("$1" getinfo | field synced_to_chain)" = true ]; }

# By a second btcd: whom blocks pay is said on the command line, and the first one, which the nodes
# follow, must not start again for that.
mine_for() { # address, blocks
  local folder
  folder=$(mktemp -d)
  btcd --regtest --nodnsseed --configfile=/dev/null "--miningaddr=$1" "--connect=$BTCD_PEER" --nolisten \
    "--datadir=$folder/data" "--logdir=$folder/logs" "--rpclisten=$MINER" "--rpccert=$CHAIN/rpc.cert" \
    "--rpckey=$CHAIN/rpc.key" "--rpcuser=$RPC_USER" "--rpcpass=$RPC_PASSWORD" >/dev/null &
  # shellcheck disable=SC2064 # as they are now
  trap "kill $!; wait $! || true; rm -rf '$folder'" EXIT
  wait_for "the miner has the chain" same_chain
  bitcoin "$MINER" generate "$2" >/dev/null
  wait_for "its blocks have spread" same_chain
  kill $!
  wait $! || true
  trap - EXIT
  rm -rf "$folder"
}
same_chain() { [ "$(bitcoin "$MINER" getbestblockhash)" = "$(bitcoin "$BTCD" getbestblockhash)" ]; }
has_coins() { [ "$(seller walletbalance | field confirmed_balance)" != 0 ]; }
# A channel is active a moment before payments find it.
can_pay() {
  local invoice
  invoice=$(seller addinvoice --amt=1 --memo="can the buyer pay?" | field payment_request)
  buyer payinvoice --force "$invoice"
}
connected() { seller listpeers | grep -q "$buyer_key" || seller connect "$buyer_key@$BUYER_PEER"; }

if ! has_channel seller; then
  address=$(seller newaddress p2wkh | field address)
  # A block's coins may be spent after a hundred more.
  mine_for "$address" 110
  wait_for "the seller follows the chain" synced seller
  wait_for "the buyer follows the chain" synced buyer
  wait_for "the seller has coins" has_coins
  buyer_key=$(buyer getinfo | field identity_pubkey)
  wait_for "the nodes are connected" connected
  wait_for "the channel is opened" seller openchannel \
    --local_amt 16000000 --push_amt 12000000 --node_key "$buyer_key"
  bitcoin "$BTCD" generate 6 >/dev/null
fi
wait_for "the seller's channel is active" has_channel seller
wait_for "the buyer's channel is active" has_channel buyer
wait_for "the buyer can pay" can_pay

# What the sidecar may do at the node, and no more.
seller bakemacaroon "--save_to=$SECRETS/boltgate.macaroon" \
  uri:/lnrpc.Lightning/AddInvoice uri:/lnrpc.Lightning/SubscribeInvoices \
  uri:/lnrpc.Lightning/LookupInvoice uri:/lnrpc.Lightning/GetInfo \
  uri:/invoicesrpc.Invoices/CancelInvoice \
  uri:/routerrpc.Router/SendPaymentV2 uri:/routerrpc.Router/TrackPaymentV2
cp "$SELLER_DIR/tls.cert" "$SECRETS/tls.cert"
echo "the Lightning network is ready"
