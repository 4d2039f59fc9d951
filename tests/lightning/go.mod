// The Lightning node and the Bitcoin node that the end-to-end tests run, built from source by `cargo xtask`.
module boltgate.test/lightning

go 1.24.11

tool (
	github.com/btcsuite/btcd
	github.com/btcsuite/btcd/cmd/btcctl
	github.com/lightningnetwork/lnd/cmd/lncli
	github.com/lightningnetwork/lnd/cmd/lnd
)

require github.com/lightningnetwork/lnd v0.20.1-beta

// LND's own replacements: a module that depends on LND does not inherit them.
replace github.com/ulikunitz/xz => github.com/ulikunitz/xz v0.5.11

replace github.com/gogo/protobuf => github.com/gogo/protobuf v1.3.2

replace google.golang.org/protobuf => github.com/lightninglabs/protobuf-go-hex-display v1.33.0-hex-display
