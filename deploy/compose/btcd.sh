#!/bin/bash
# btcd, and the first blocks of its chain: LND that sees a chain grow from nothing sometimes never gets
# ready, so none starts before they are there (see the health check). btcd's regtest forgets its chain
# at each start: whatever else shall be mined, this one stays up.
set -euo pipefail

# The key of BIP 173's examples: nobody needs these coins.
nobody=bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080

mine_first_blocks() {
  # Segwit is on after three periods of 144 blocks.
  until btcctl --regtest --configfile=/dev/null "--rpcserver=$BTCD" "--rpccert=$CHAIN/rpc.cert" \
    "--rpcuser=$RPC_USER" "--rpcpass=$RPC_PASSWORD" generate 450 >/dev/null 2>&1; do
    sleep 0.2
  done
}

mine_first_blocks &
exec btcd --regtest --txindex --nodnsseed --configfile=/dev/null "--miningaddr=$nobody" \
  "--datadir=$CHAIN/data" "--logdir=$CHAIN/logs" "--rpccert=$CHAIN/rpc.cert" "--rpckey=$CHAIN/rpc.key" \
  "--rpcuser=$RPC_USER" "--rpcpass=$RPC_PASSWORD" "$@"
