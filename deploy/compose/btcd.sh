#!/bin/bash
# btcd takes the address that its blocks pay only on the command line, and the address comes from a
# node that needs btcd. So it starts without one, and again when init.sh has left one in $CHAIN.
set -euo pipefail

run=(btcd --regtest --txindex --nodnsseed --configfile=/dev/null
  "--datadir=$CHAIN/data" "--logdir=$CHAIN/logs" "--rpccert=$CHAIN/rpc.cert" "--rpckey=$CHAIN/rpc.key"
  "--rpcuser=$RPC_USER" "--rpcpass=$RPC_PASSWORD" "$@")

if [ ! -s "$CHAIN/mining-address" ]; then
  "${run[@]}" &
  pid=$!
  trap 'kill "$pid"; wait "$pid"; exit 0' TERM INT
  while [ ! -s "$CHAIN/mining-address" ]; do
    kill -0 "$pid"
    sleep 0.2
  done
  kill -TERM "$pid"
  wait "$pid" || true
  trap - TERM INT
fi
exec "${run[@]}" "--miningaddr=$(cat "$CHAIN/mining-address")"
