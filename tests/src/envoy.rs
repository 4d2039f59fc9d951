//! Envoy with a configuration rendered for one test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::http_client::Http;
use crate::process::Process;
use crate::{eventually, paths, ports};

/// How Envoy changes paths before filters see them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Normalisation {
    /// Not at all: Envoy's default.
    None,
    /// `normalize_path` alone, as Istio sets it.
    Istio,
    /// As Envoy Gateway sets it: `normalize_path`, `merge_slashes`, escaped slashes unescaped and
    /// redirected.
    EnvoyGateway,
    /// What we recommend: `normalize_path`, `merge_slashes`, escaped slashes rejected.
    #[default]
    Recommended,
}

/// What one Envoy runs. Change the public fields before [`Envoy::start`], or later with
/// [`Envoy::reload`] (all that concerns the listener).
#[derive(Clone, Debug)]
pub struct EnvoyConfig {
    /// Worker threads.
    pub concurrency: u32,
    /// Path normalisation.
    pub normalisation: Normalisation,
    /// The module that is loaded: [`paths::filter_wasm`], [`paths::l402_wasm`] or
    /// [`paths::trap_wasm`].
    pub module: PathBuf,
    /// Plugin configuration, as text so that bad ones can be said too.
    pub plugin: String,
    /// Plugin configuration of a second listener that is the same in all else.
    pub second: Option<String>,
    /// The filter is left out entirely.
    pub bare: bool,
    /// Where requests are sent that are not gRPC.
    pub upstream: SocketAddr,
    /// Where gRPC requests are sent, by HTTP/2.
    pub grpc_upstream: SocketAddr,
    /// The sidecar's API.
    pub sidecar: SocketAddr,
    /// A second sidecar on the same ledger; Envoy asks whichever of them is there.
    pub second_sidecar: Option<SocketAddr>,
    /// The sidecar's bearer token, handed over in the environment.
    pub token: String,
    /// `stream_idle_timeout`.
    pub stream_idle_timeout: String,
    /// `xff_num_trusted_hops`; with 1 the last address of `X-Forwarded-For` is the client's.
    pub trusted_hops: u32,
    /// HTTP/1.0 is accepted.
    pub http10: bool,
    /// Websocket upgrades and CONNECT are let through to the filter and the upstream.
    pub upgrades: bool,
    /// `max_request_headers_kb`; Envoy's own default is 60.
    pub max_header_kb: u32,
    /// JSON merged over the clusters of both upstreams, last.
    pub upstream_clusters: Value,
    /// JSON merged over `HttpConnectionManager`, last.
    pub manager: Value,
    /// JSON merged over the filter's `PluginConfig`, last.
    pub wasm: Value,
    /// CPUs that Envoy is bound to, as `taskset -c` takes them.
    pub pin: Option<String>,
    /// Envoy's log level.
    pub log_level: String,
    /// Log levels of some of its parts, such as `wasm:trace`; empty: the same.
    pub component_log_level: String,
}

impl EnvoyConfig {
    /// The recommended settings around `plugin`.
    ///
    /// # Errors
    /// When the filter is not built.
    pub fn new(
        plugin: &Value,
        upstream: SocketAddr,
        sidecar: SocketAddr,
        token: &str,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            concurrency: 2,
            normalisation: Normalisation::default(),
            module: paths::filter_wasm()?,
            plugin: plugin.to_string(),
            second: None,
            bare: false,
            upstream,
            grpc_upstream: upstream,
            sidecar,
            second_sidecar: None,
            token: token.to_owned(),
            stream_idle_timeout: "15s".to_owned(),
            trusted_hops: 0,
            http10: false,
            upgrades: false,
            max_header_kb: 60,
            upstream_clusters: json!({}),
            manager: json!({}),
            wasm: json!({}),
            pin: None,
            log_level: "info".to_owned(),
            component_log_level: String::new(),
        })
    }

    fn listeners(&self, ports: [u16; 2], access_log: &Path) -> Vec<Value> {
        let all = [
            ("ingress", Some(&self.plugin)),
            ("second", self.second.as_ref()),
        ];
        all.into_iter()
            .zip(ports)
            .filter_map(|((name, plugin), port)| {
                Some(self.listener(name, plugin?, port, access_log))
            })
            .collect()
    }

    fn listener(&self, name: &str, plugin: &str, port: u16, access_log: &Path) -> Value {
        let mut filters = Vec::new();
        if !self.bare {
            let mut config = json!({
                "name": "boltgate",
                "root_id": "boltgate",
                "failure_policy": "FAIL_RELOAD",
                "vm_config": {
                    "vm_id": "boltgate",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": self.module } },
                    "environment_variables": { "host_env_keys": ["BOLTGATE_TOKEN"] },
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": plugin,
                },
            });
            merge(&mut config, self.wasm.clone());
            filters.push(json!({
                "name": "envoy.filters.http.wasm",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                    "config": config,
                },
            }));
        }
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            },
        }));
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "ingress",
            "codec_type": "AUTO",
            "stream_idle_timeout": self.stream_idle_timeout,
            "max_request_headers_kb": self.max_header_kb,
            "use_remote_address": true,
            "xff_num_trusted_hops": self.trusted_hops,
            "http_protocol_options": { "accept_http_10": self.http10 },
            "http_filters": filters,
            "route_config": self.routes(),
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": access_log,
                    "log_format": { "json_format": {
                        "method": "%REQ(:METHOD)%",
                        "path": "%REQ(:PATH)%",
                        "status": "%RESPONSE_CODE%",
                        "flags": "%RESPONSE_FLAGS%",
                        "details": "%RESPONSE_CODE_DETAILS%",
                        "outcome": "%FILTER_STATE(wasm.boltgate.outcome:PLAIN)%",
                        "service": "%FILTER_STATE(wasm.boltgate.service:PLAIN)%",
                        "token_id": "%REQ(X-BOLTGATE-TOKEN-ID)%",
                    } },
                },
            }],
        });
        merge(&mut manager, self.normalisation.settings());
        if self.upgrades {
            let upgrades = json!([{ "upgrade_type": "websocket" }, { "upgrade_type": "CONNECT" }]);
            merge(
                &mut manager,
                json!({
                    "upgrade_configs": upgrades,
                    "http2_protocol_options": { "allow_connect": true },
                }),
            );
        }
        merge(&mut manager, self.manager.clone());
        json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": name,
            "address": socket(SocketAddr::from(([127, 0, 0, 1], port))),
            // A port that is taken by accident shall be an error.
            "enable_reuse_port": false,
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }] }],
        })
    }

    fn routes(&self) -> Value {
        let mut routes = vec![
            json!({ "match": { "prefix": "/", "grpc": {} },
                    "route": { "cluster": "grpc_upstream", "timeout": "0s" } }),
            json!({ "match": { "prefix": "/" },
                    "route": { "cluster": "upstream", "timeout": "0s" } }),
        ];
        if self.upgrades {
            routes.push(json!({ "match": { "connect_matcher": {} }, "route": {
                "cluster": "upstream",
                "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
            } }));
        }
        json!({ "name": "local",
                "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] })
    }

    fn upstream_cluster(&self, name: &str, address: SocketAddr, h2: bool, more: Value) -> Value {
        let mut cluster = cluster(name, address, h2, more);
        merge(&mut cluster, self.upstream_clusters.clone());
        cluster
    }

    fn sidecar_cluster(&self, name: &str, mut more: Value) -> Value {
        if let Some(second) = self.second_sidecar {
            let endpoint = |address| json!({ "endpoint": { "address": socket(address) } });
            let endpoints = [self.sidecar, second].map(endpoint);
            let both = json!({
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{ "lb_endpoints": endpoints }],
                },
                "health_checks": [{
                    "timeout": "1s", "interval": "1s", "unhealthy_threshold": 1,
                    "healthy_threshold": 1, "tcp_health_check": {},
                }],
            });
            merge(&mut more, both);
        }
        cluster(name, self.sidecar, true, more)
    }

    fn bootstrap(&self, admin: u16, listeners: &Path) -> Value {
        json!({
            "node": { "id": "test", "cluster": "test" },
            "admin": { "address": socket(SocketAddr::from(([127, 0, 0, 1], admin))) },
            "dynamic_resources": { "lds_config": {
                "resource_api_version": "V3",
                "path_config_source": { "path": listeners },
            } },
            "static_resources": { "clusters": [
                self.upstream_cluster("upstream", self.upstream, false, json!({})),
                self.upstream_cluster(
                    "grpc_upstream",
                    self.grpc_upstream,
                    true,
                    few_streams(breakers(4096)),
                ),
                self.sidecar_cluster("boltgate", breakers(1024)),
                self.sidecar_cluster("boltgate_offers", breakers(64)),
            ] },
        })
    }
}

impl Normalisation {
    fn settings(self) -> Value {
        match self {
            Self::None => json!({ "normalize_path": false }),
            Self::Istio => json!({ "normalize_path": true }),
            Self::EnvoyGateway => json!({
                "normalize_path": true,
                "merge_slashes": true,
                "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
            }),
            Self::Recommended => json!({
                "normalize_path": true,
                "merge_slashes": true,
                "path_with_escaped_slashes_action": "REJECT_REQUEST",
            }),
        }
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": {
        "address": address.ip().to_string(), "port_value": address.port(),
    } })
}

fn breakers(most: u32) -> Value {
    json!({ "circuit_breakers": { "thresholds": [{
        "max_connections": 64, "max_pending_requests": most, "max_requests": most,
    }] } })
}

/// No more streams on one connection than the upstream takes: Envoy would send more before it has
/// read the upstream's settings, and the upstream would refuse those.
fn few_streams(mut cluster: Value) -> Value {
    let protocol = json!({ "http2_protocol_options": { "max_concurrent_streams": 128 } });
    merge(
        &mut cluster,
        json!({ "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                { "explicit_http_config": protocol },
        } }),
    );
    cluster
}

fn cluster(name: &str, address: SocketAddr, h2: bool, more: Value) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": socket(address) } },
        ] }] },
    });
    if h2 {
        merge(
            &mut cluster,
            json!({ "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        } }),
        );
    }
    merge(&mut cluster, more);
    cluster
}

/// Lays `over` upon `base`: objects are merged member by member, all else is replaced.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// What it runs; changed by [`Self::reload`].
    pub config: EnvoyConfig,
    /// The program.
    pub process: Process,
    folder: PathBuf,
    port: u16,
    second: u16,
    admin: u16,
}

impl Envoy {
    /// Starts one that keeps its files in `folder`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start; its last words are in the error.
    pub async fn start(folder: &Path, config: EnvoyConfig) -> anyhow::Result<Self> {
        let (port, second, admin) = (ports::free()?, ports::free()?, ports::free()?);
        let bootstrap = folder.join("envoy.json");
        fs::write(
            &bootstrap,
            config
                .bootstrap(admin, &folder.join("listeners.json"))
                .to_string(),
        )?;
        write_listeners(folder, &config, [port, second])?;
        let process = spawn(folder, &config)?;
        let mut envoy = Self {
            config,
            process,
            folder: folder.to_path_buf(),
            port,
            second,
            admin,
        };
        envoy.wait().await?;
        Ok(envoy)
    }

    async fn wait(&mut self) -> anyhow::Result<()> {
        let (address, admin, log) = (self.address(), self.admin(), self.process.log().to_owned());
        let process = std::sync::Mutex::new(&mut self.process);
        // What cannot change by waiting ends the wait: the inner result.
        eventually("Envoy listens", Duration::from_secs(30), || {
            let running = process
                .lock()
                .map_or(Ok(()), |mut process| process.check_running());
            let (ready, stats) = (admin.get("/ready"), admin.get("/stats"));
            let log = &log;
            async move {
                if let Err(ended) = running {
                    return Ok(Err(ended));
                }
                ensure!(ready.send().await?.status == 200, "Envoy is not ready");
                if tokio::net::TcpStream::connect(address).await.is_ok() {
                    return Ok(Ok(()));
                }
                let stats = stats.send().await?.text();
                let rejected = stats
                    .lines()
                    .find_map(|line| line.strip_prefix("listener_manager.lds.update_rejected: "));
                ensure!(rejected.is_some_and(|count| count != "0"), "no listener");
                let said = fs::read_to_string(log).unwrap_or_default();
                let why: Vec<&str> = said
                    .lines()
                    .filter(|line| line.contains("][error]") || line.contains("][critical]"))
                    .collect();
                Ok(Err(anyhow::anyhow!(
                    "Envoy refuses the listener:\n{}",
                    why.join("\n")
                )))
            }
        })
        .await?
    }

    /// Ends it at once and starts it again on the same ports.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        self.process = spawn(&self.folder, &self.config)?;
        self.wait().await
    }

    /// Replaces the listener's configuration by what [`Self::config`] says now, without a restart.
    /// Envoy takes it or refuses it: see `listener_manager.lds.update_success` and
    /// `…update_rejected`, which [`Self::reload`] waits for. Gives whether it was taken.
    ///
    /// # Errors
    /// When Envoy does neither.
    pub async fn reload(&self) -> anyhow::Result<bool> {
        let names = [
            "listener_manager.lds.update_success",
            "listener_manager.lds.update_rejected",
        ];
        let [taken, refused] = names;
        let before = (self.stat(taken).await?, self.stat(refused).await?);
        write_listeners(&self.folder, &self.config, [self.port, self.second])?;
        eventually(
            "Envoy looks at the new listener",
            Duration::from_secs(20),
            || async {
                let after = (self.stat(taken).await?, self.stat(refused).await?);
                ensure!(after != before, "no update seen");
                Ok(after.0 > before.0)
            },
        )
        .await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where the second listener is, if there is one.
    #[must_use]
    pub fn second_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.second))
    }

    /// A client of the admin interface.
    #[must_use]
    pub fn admin(&self) -> Http {
        Http::new(SocketAddr::from(([127, 0, 0, 1], self.admin)))
    }

    /// Value of one counter or gauge; 0 if there is none of that name (yet).
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let all = self.stats(name).await?;
        Ok(all
            .into_iter()
            .find(|(stat, _)| stat == name)
            .map_or(0, |(_, value)| value))
    }

    /// Counters and gauges whose name holds `part`.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn stats(&self, part: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let text = self.admin().get("/stats").send().await?.text();
        let stats = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(stats.filter(|(name, _)| name.contains(part)).collect())
    }

    /// Lines of the access log so far.
    #[must_use]
    pub fn access_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(access_log(&self.folder)).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

fn access_log(folder: &Path) -> PathBuf {
    folder.join("access.log")
}

/// Puts the listener file in place in one step; Envoy watches for files moved there.
fn write_listeners(folder: &Path, config: &EnvoyConfig, ports: [u16; 2]) -> anyhow::Result<()> {
    let resources = json!({ "resources": config.listeners(ports, &access_log(folder)) });
    fs::write(folder.join("listeners.json.new"), resources.to_string())?;
    fs::rename(
        folder.join("listeners.json.new"),
        folder.join("listeners.json"),
    )?;
    Ok(())
}

fn spawn(folder: &Path, config: &EnvoyConfig) -> anyhow::Result<Process> {
    let envoy = paths::envoy()?;
    let mut command = match &config.pin {
        Some(cpus) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cpus]).arg(envoy);
            command
        }
        None => Command::new(envoy),
    };
    command
        .arg("--config-path")
        .arg(folder.join("envoy.json"))
        .args(["--concurrency", &config.concurrency.to_string()])
        .args(["--disable-hot-restart", "--log-level", &config.log_level])
        .args(["--file-flush-interval-msec", "50"])
        .env("BOLTGATE_TOKEN", &config.token);
    if !config.component_log_level.is_empty() {
        command.args(["--component-log-level", &config.component_log_level]);
    }
    Process::spawn("envoy", &folder.join("envoy.log"), &command)
}
