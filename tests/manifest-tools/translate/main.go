// Command translate prints, as JSON, what Envoy Gateway makes of Gateway API manifests: the
// Envoy resources that a cluster's proxies would get, and the conditions it would write to each
// object's status.
//
// It is `egctl x translate --from gateway-api --to xds` with one part added. egctl has no wasm
// module cache, so it answers every route under a wasm policy with 500 ("wasm cache is not
// initialized"). Here the cache is Envoy Gateway's own: images are pulled and unpacked by the
// code that runs in a cluster.
//
//	translate --plain-registry 127.0.0.1:5000 < manifests.yaml
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	gwapiv1 "sigs.k8s.io/gateway-api/apis/v1"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	egv1a1 "github.com/envoyproxy/gateway/api/v1alpha1"
	"github.com/envoyproxy/gateway/internal/gatewayapi"
	"github.com/envoyproxy/gateway/internal/gatewayapi/resource"
	"github.com/envoyproxy/gateway/internal/logging"
	"github.com/envoyproxy/gateway/internal/wasm"
	"github.com/envoyproxy/gateway/internal/xds/bootstrap"
	"github.com/envoyproxy/gateway/internal/xds/translator"
)

// controllerNamespace is where Envoy Gateway runs by default.
const controllerNamespace = "envoy-gateway-system"

// condition is one line of an object's status.
type condition struct {
	Object  string `json:"object"`
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// output is what this command prints.
type output struct {
	Bootstrap  string            `json:"bootstrap"`
	Listeners  []json.RawMessage `json:"listeners"`
	Routes     []json.RawMessage `json:"routes"`
	Clusters   []json.RawMessage `json:"clusters"`
	Endpoints  []json.RawMessage `json:"endpoints"`
	Conditions []condition       `json:"conditions"`
}

func main() {
	registry := flag.String("plain-registry", "", "host:port of an image registry without TLS")
	flag.Parse()
	if err := run(*registry); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(registry string) error {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	resources, err := resource.LoadResourcesFromYAMLBytes(input, true, nil)
	if err != nil {
		return err
	}
	if resources.GatewayClass == nil {
		return fmt.Errorf("no GatewayClass in the manifests")
	}
	cacheDir, err := os.MkdirTemp("", "envoy-gateway-wasm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cacheDir)
	logger := logging.DefaultLogger(os.Stderr, egv1a1.LogLevelError)
	cache := wasm.NewHTTPServerWithFileCache(
		wasm.ServerOptions{Salt: []byte("fixed: nobody else reads this cache")},
		wasm.CacheOptions{CacheDir: cacheDir, InsecureRegistries: sets.New(registry)},
		controllerNamespace, logger)

	// What Envoy Gateway's installation makes for its own calls to that cache.
	resources.Secrets = append(resources.Secrets, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: controllerNamespace, Name: "envoy"},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			"ca.crt": {}, corev1.TLSCertKey: {}, corev1.TLSPrivateKeyKey: {},
		},
	})

	// No feature that must be switched on: what is off in a fresh install is off here.
	gateways := &gatewayapi.Translator{
		GatewayControllerName:   string(resources.GatewayClass.Spec.ControllerName),
		GatewayClassName:        gwapiv1.ObjectName(resources.GatewayClass.Name),
		ControllerNamespace:     controllerNamespace,
		EndpointRoutingDisabled: true,
		WasmCache:               cache,
		Logger:                  logger,
	}
	translated, err := gateways.Translate(context.Background(), resources)
	if err != nil {
		return err
	}

	out := output{Conditions: conditions(translated)}
	if out.Bootstrap, err = bootstrap.GetRenderedBootstrapConfig(nil); err != nil {
		return err
	}
	if proxy := resources.EnvoyProxyForGatewayClass; proxy != nil && proxy.Spec.Bootstrap != nil {
		if out.Bootstrap, err = bootstrap.ApplyBootstrapConfig(proxy.Spec.Bootstrap, out.Bootstrap); err != nil {
			return err
		}
	}
	for _, xds := range translated.XdsIR {
		table, err := (&translator.Translator{
			ControllerNamespace: controllerNamespace, Logger: logger,
		}).Translate(context.Background(), xds)
		if err != nil {
			return err
		}
		for _, part := range []struct {
			kind string
			into *[]json.RawMessage
		}{
			{resourcev3.ListenerType, &out.Listeners},
			{resourcev3.RouteType, &out.Routes},
			{resourcev3.ClusterType, &out.Clusters},
			{resourcev3.EndpointType, &out.Endpoints},
		} {
			for _, item := range table.XdsResources[part.kind] {
				text, err := protojson.Marshal(item.(proto.Message))
				if err != nil {
					return err
				}
				*part.into = append(*part.into, text)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// conditions gathers the status of everything that has one.
func conditions(result *gatewayapi.TranslateResult) []condition {
	all := []condition{}
	add := func(kind string, object metav1.Object, list []metav1.Condition) {
		for _, c := range list {
			all = append(all, condition{
				Object: fmt.Sprintf("%s/%s/%s", kind, object.GetNamespace(), object.GetName()),
				Type:   c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message,
			})
		}
	}
	for _, gateway := range result.Gateways {
		for _, listener := range gateway.Status.Listeners {
			add("Gateway", gateway, listener.Conditions)
		}
	}
	for _, route := range result.HTTPRoutes {
		for _, parent := range route.Status.Parents {
			add("HTTPRoute", route, parent.Conditions)
		}
	}
	ancestors := func(kind string, object metav1.Object, list []gwapiv1.PolicyAncestorStatus) {
		for _, ancestor := range list {
			add(kind, object, ancestor.Conditions)
		}
	}
	for _, policy := range result.EnvoyExtensionPolicies {
		ancestors("EnvoyExtensionPolicy", policy, policy.Status.Ancestors)
	}
	for _, policy := range result.ClientTrafficPolicies {
		ancestors("ClientTrafficPolicy", policy, policy.Status.Ancestors)
	}
	for _, policy := range result.BackendTrafficPolicies {
		ancestors("BackendTrafficPolicy", policy, policy.Status.Ancestors)
	}
	for _, policy := range result.SecurityPolicies {
		ancestors("SecurityPolicy", policy, policy.Status.Ancestors)
	}
	return all
}
