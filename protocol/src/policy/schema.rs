//! JSON schema of the plugin configuration, for editors and admission checks.
//!
//! These types are never filled: the configuration is read by `config`, which reports every error
//! at once. A test holds the two together.
#![allow(dead_code)]

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};

/// The schema as committed in `envoy/plugin-config.schema.json`, with a line break at the end.
#[must_use]
pub fn schema_text() -> String {
    // A schema is a JSON value, which always serialises.
    let mut text = serde_json::to_string_pretty(&schema_for!(Plugin)).unwrap_or_default();
    text.push('\n');
    text
}

/// Configuration of the Boltgate filter.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "camelCase",
    deny_unknown_fields,
    title = "Boltgate plugin configuration"
)]
struct Plugin {
    /// How the sidecar is reached.
    sidecar: Sidecar,
    /// How often keys and revocations are asked for: 100ms to 10s. Default `2s`.
    poll_interval: Option<DurationText>,
    /// With a deny list older than this nothing paid is served (503). Longer than `pollInterval`,
    /// 1s to 24h. Default `60s`.
    revocation_max_age: Option<DurationText>,
    /// A request on a host of ours that no service matches: `deny` (default) is 404, `pass` lets
    /// it through without payment.
    unmatched: Option<Unmatched>,
    /// A request on a host that no service names: `pass` (default) lets it through, less our
    /// headers and credentials; `deny` is 404, for an Envoy that serves nothing but what is sold.
    other_hosts: Option<Unmatched>,
    /// Send the `LSAT` header line before the `L402` line, for older clients. Default `true`.
    lsat_line: Option<bool>,
    /// Status for a credential that does not hold. Default 402.
    #[schemars(range(min = 401, max = 402))]
    l402_invalid_status: Option<u16>,
    /// How long requests wait for the first keys before they get 503: at most 30s. Default `2s`.
    bootstrap_wait: Option<DurationText>,
    /// Most requests of one VM that wait for the sidecar at a time, half of them for keys or offers. Default 5000.
    #[schemars(range(max = 100_000))]
    max_waiting: Option<u32>,
    /// Limits per client prefix and VM.
    client_limits: Option<Limits>,
    /// The Payment scheme: needed if a service sells by it.
    payment: Option<Payment>,
    /// What is sold. The first match in the order of this list decides.
    #[schemars(length(min = 1, max = 10_000))]
    services: Vec<Service>,
}

/// How the sidecar is reached.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Sidecar {
    /// Envoy cluster for keys and revocations.
    cluster: PlainText,
    /// Envoy cluster for offers, with circuit breakers of its own. Default: `cluster`.
    offers_cluster: Option<PlainText>,
    /// `:authority` of the calls. Default `boltgate`.
    authority: Option<PlainText>,
    /// Longest time for one call: 10ms to 60s. Default `3s`.
    timeout: Option<DurationText>,
    /// Environment variable that holds the bearer token. Default `BOLTGATE_TOKEN`.
    token_env: Option<PlainText>,
}

/// Limits on challenges, per client prefix and VM.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Limits {
    /// Bits of an IPv4 address that make a client. Default 32.
    #[schemars(range(min = 8, max = 32))]
    prefix_v4: Option<u8>,
    /// Bits of an IPv6 address that make a client. Default 64.
    #[schemars(range(min = 16, max = 128))]
    prefix_v6: Option<u8>,
    /// Challenges per minute in the long run. Default 60.
    #[schemars(range(min = 1, max = 1_000_000))]
    challenges_per_minute: Option<u32>,
    /// Challenges at once. Default 60.
    #[schemars(range(min = 1, max = 1_000_000))]
    burst: Option<u32>,
    /// How many times these limits a client gets that has paid. Default 10.
    #[schemars(range(min = 1, max = 1_000))]
    paid_factor: Option<u32>,
}

/// The Payment scheme, as far as it is the same for all services.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Payment {
    /// Protection space that challenges name, e.g. the name of the API's host. Challenges issued
    /// under another one are refused.
    realm: Realm,
    /// `required` (default): nothing is sold by this scheme to requests whose `:scheme` is not
    /// `https`. `terminated`: a hop before this Envoy ends TLS for all of them.
    tls: Option<Tls>,
    /// A session that nobody used for so long is closed, and the rest is paid back: whole seconds,
    /// 10s to 30d. Default `300s`.
    idle_timeout: Option<DurationText>,
    /// How long a stream waits for more money before it ends: 1s to 10m. Default `60s`.
    stream_hold: Option<DurationText>,
}

/// Printable ASCII without `|`, `"` and `\`.
#[derive(JsonSchema)]
struct Realm(#[schemars(regex(pattern = "^[ !#-\\[\\]-{}~]{1,255}$"))] String);

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Tls {
    Required,
    Terminated,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Scheme {
    L402,
    Charge,
    Session,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Unmatched {
    Deny,
    Pass,
}

/// Something that is sold at one price.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Service {
    /// Unique name; becomes part of tokens, trusted headers and metrics.
    name: Name,
    /// Which requests belong to this service.
    #[schemars(length(min = 1, max = 256))]
    r#match: Vec<Match>,
    /// Price of one token, and of one response by `charge`, which takes whole satoshis only.
    price: Price,
    /// What is offered and accepted: `l402` tokens, single responses by `charge` of the Payment
    /// scheme, and units paid from the balance of a `session`. Default `["l402"]`.
    #[schemars(length(min = 1, max = 3))]
    schemes: Option<Vec<Scheme>>,
    /// How sessions pay here; only where `schemes` has `session`.
    session: Option<Session>,
    /// A charge counts only once the Lightning node says that it is settled. Default `false`: the
    /// preimage is proof enough.
    charge_settled: Option<bool>,
    /// Life of a token in whole seconds, e.g. `24h`. Absent: for ever.
    lifetime: Option<DurationText>,
    /// Tier in the `services` caveat. Default 0.
    tier: Option<u8>,
    /// Capabilities that a token is sold with. Absent or empty: all.
    #[schemars(length(max = 64))]
    capabilities: Option<Vec<Name>>,
    /// Further caveats, `<capability>_<constraint>` and its value.
    constraints: Option<BTreeMap<Name, ConstraintText>>,
    /// Paths that cost nothing.
    #[schemars(length(max = 256))]
    free_paths: Option<Vec<PathMatch>>,
    /// Paths that need a token for which no invoice is made: 401 without a challenge. Win over
    /// `freePaths`.
    #[schemars(length(max = 256))]
    no_invoice_paths: Option<Vec<PathMatch>>,
    /// Pass CORS preflights on instead of answering them. Default `false`.
    cors_passthrough: Option<bool>,
}

/// How sessions pay at a service.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Session {
    /// Price of one unit. Default: `price` of the service, which must be whole satoshis then.
    price: Option<Sats>,
    /// Amount of a deposit, at least one unit. Default: 20 units.
    deposit: Option<Sats>,
    /// What one unit is: a `request` (default), or an `event` with data of a stream of server-sent
    /// events.
    unit: Option<Unit>,
}

/// An amount of whole satoshis.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Sats {
    /// Satoshis.
    #[schemars(range(min = 1, max = 2_100_000_000_000_000_u64))]
    sat: u64,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Unit {
    Request,
    Event,
}

/// Requests that belong to a service: all of what is given has to hold.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
struct Match {
    /// Host names without port, `*.example.org` for all names below one, or `*`.
    #[schemars(length(min = 1, max = 256))]
    hosts: Vec<String>,
    /// Absent: any path.
    path: Option<PathMatch>,
    /// Compared without case. Absent or empty: any method.
    #[schemars(length(max = 32))]
    methods: Option<Vec<String>>,
    /// All of these have to hold.
    #[schemars(length(max = 16))]
    headers: Option<Vec<HeaderMatch>>,
    /// Capability that a token needs here.
    capability: Option<Name>,
}

/// Compares the path without its query.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
enum PathMatch {
    /// The whole path.
    Exact(Path),
    /// The path begins with this text.
    Prefix(Path),
    /// The regular expression matches the whole path.
    Regex(#[schemars(length(max = 256))] String),
}

/// Compares one request header.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum HeaderMatch {
    /// The value is exactly this.
    Exact(HeaderExact),
    /// The value begins with this text.
    Prefix(HeaderPrefix),
    /// The header is there.
    Present(HeaderPresent),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HeaderExact {
    /// Name of the header, in any case.
    name: String,
    /// The whole value.
    #[schemars(length(max = 1_024))]
    exact: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HeaderPrefix {
    /// Name of the header, in any case.
    name: String,
    /// Begin of the value.
    #[schemars(length(max = 1_024))]
    prefix: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HeaderPresent {
    /// Name of the header, in any case.
    name: String,
    /// Only `true`.
    #[schemars(extend("const" = true))]
    present: bool,
}

/// Either satoshis or millisatoshis.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
enum Price {
    /// Whole satoshis.
    Sat(#[schemars(range(min = 1, max = 2_100_000_000_000_000_u64))] u64),
    /// Millisatoshis.
    Msat(#[schemars(range(min = 1, max = 2_100_000_000_000_000_000_u64))] u64),
}

/// A number and one of the units `ms`, `s`, `m`, `h`, `d`.
#[derive(JsonSchema)]
struct DurationText(#[schemars(regex(pattern = "^[0-9]+(ms|s|m|h|d)$"))] String);

/// ASCII letters, digits, `-` and `_`.
#[derive(Eq, JsonSchema, Ord, PartialEq, PartialOrd)]
struct Name(#[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$"))] String);

/// Visible ASCII.
#[derive(JsonSchema)]
struct PlainText(#[schemars(regex(pattern = "^[!-~]{1,256}$"))] String);

/// Begins with `/`, has no query.
#[derive(JsonSchema)]
struct Path(#[schemars(regex(pattern = "^/[!-\"$->@-~]{0,1023}$"))] String);

/// No control characters.
#[derive(JsonSchema)]
struct ConstraintText(#[schemars(length(max = 256))] String);
