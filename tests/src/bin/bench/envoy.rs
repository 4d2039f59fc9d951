//! Envoy configurations, one for each way of gating. All alike but for the filter before the
//! router, and without access log, TLS or statistics: bare Envoy is as cheap as it gets, so the
//! fractions are the worst case.

use serde_json::{Value, json};

/// What stands before the router.
pub(crate) enum Gate<'a> {
    /// Nothing.
    Bare,
    /// A wasm module with a plugin configuration.
    Wasm { module: &'a str, config: Value },
    /// Envoy's own JWT filter with an inline key set.
    Jwt { jwks: &'a str },
    /// Envoy's external authorization over HTTP/2.
    ExtAuthz,
}

/// Where everything listens.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) listen: u16,
    pub(crate) admin: u16,
    pub(crate) upstream: u16,
    /// The sidecar, or the authorization server.
    pub(crate) helper: u16,
}

/// A whole bootstrap configuration; JSON is YAML.
pub(crate) fn config(gate: &Gate<'_>, ports: Ports) -> Value {
    let mut filters = match gate {
        Gate::Bare => vec![],
        Gate::Wasm { module, config } => vec![wasm(module, config)],
        Gate::Jwt { jwks } => vec![jwt(jwks)],
        Gate::ExtAuthz => vec![ext_authz()],
    };
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    }));
    json!({
        "admin": { "address": address(ports.admin) },
        "static_resources": {
            "listeners": [{
                "name": "bench",
                "address": address(ports.listen),
                "filter_chains": [{ "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "bench",
                        "use_remote_address": true,
                        "xff_num_trusted_hops": 1,
                        "normalize_path": true,
                        "merge_slashes": true,
                        "path_with_escaped_slashes_action": "REJECT_REQUEST",
                        "route_config": { "virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "upstream" } }],
                        }] },
                        "http_filters": filters,
                    },
                }] }],
            }],
            "clusters": [
                cluster("upstream", ports.upstream, false),
                cluster("boltgate", ports.helper, true),
                cluster("boltgate_offers", ports.helper, true),
            ],
        },
    })
}

fn wasm(module: &str, config: &Value) -> Value {
    json!({
        "name": "envoy.filters.http.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "boltgate",
                "root_id": "boltgate",
                "failure_policy": "FAIL_RELOAD",
                "vm_config": {
                    "vm_id": "boltgate",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": module } },
                    "environment_variables": { "host_env_keys": ["BOLTGATE_TOKEN"] },
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": config.to_string(),
                },
            },
        },
    })
}

fn jwt(jwks: &str) -> Value {
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": { "bench": { "local_jwks": { "inline_string": jwks } } },
            "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "bench" } }],
        },
    })
}

fn ext_authz() -> Value {
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "http_service": {
                "server_uri": { "uri": "http://boltgate", "cluster": "boltgate", "timeout": "3s" },
            },
        },
    })
}

fn cluster(name: &str, port: u16, http2: bool) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(port) } }] }],
        },
    });
    if http2 && let Some(cluster) = cluster.as_object_mut() {
        cluster.insert(
            "typed_extension_protocol_options".to_owned(),
            json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            } }),
        );
    }
    cluster
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}
