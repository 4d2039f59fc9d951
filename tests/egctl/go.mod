// Go tools that the manifest tests run: Envoy Gateway's translator and kustomize.
module boltgate/tests/egctl

go 1.26.0

tool (
	github.com/envoyproxy/gateway/cmd/egctl
	sigs.k8s.io/kustomize/kustomize/v5
)

require (
	github.com/envoyproxy/gateway v1.9.1
	sigs.k8s.io/kustomize/kustomize/v5 v5.8.0
)
