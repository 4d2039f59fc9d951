//! Configuration errors and the search for a service.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use protocol::policy::{
    Access, Found, InvalidStatus, MAX_PATH_LEN, PluginConfig, RequestView, Tls, Unit, Unmatched,
};
use serde_json::{Value, json};

use proptest::prelude::*;

#[path = "common/config.rs"]
mod config;

fn read(config: &Value) -> PluginConfig {
    match PluginConfig::from_json(config.to_string().as_bytes()) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

fn errors_of(text: &str) -> Vec<String> {
    let errors = PluginConfig::from_json(text.as_bytes()).err().unwrap();
    errors.iter().map(ToString::to_string).collect()
}

fn service(name: &str, matches: Value) -> Value {
    json!({"name": name, "match": matches, "price": {"sat": 1}})
}

fn with_services(services: &[Value]) -> PluginConfig {
    read(&json!({"sidecar": {"cluster": "c"}, "services": services}))
}

struct Request<'a> {
    authority: &'a str,
    path: &'a str,
    method: &'a str,
    headers: &'a [(&'a str, &'a str)],
}

const GET: Request<'_> = Request {
    authority: "a.com",
    path: "/",
    method: "GET",
    headers: &[],
};

/// What was found, as a word.
fn find(config: &PluginConfig, request: &Request<'_>) -> String {
    let lookup = |name: &str| {
        let found = request.headers.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.as_bytes().to_vec())
    };
    let view = RequestView {
        authority: request.authority.as_bytes(),
        path: request.path.as_bytes(),
        method: request.method.as_bytes(),
        headers: &lookup,
    };
    match config.policy.find(&view) {
        Found::Foreign => "foreign".to_owned(),
        Found::Unmatched => "unmatched".to_owned(),
        Found::TooLong => "too long".to_owned(),
        Found::Matched {
            service,
            access: Access::Priced,
            ..
        } => service.name().to_owned(),
        Found::Matched {
            service, access, ..
        } => format!("{} {access:?}", service.name()),
    }
}

fn found(config: &PluginConfig, authority: &str, path: &str) -> String {
    find(
        config,
        &Request {
            authority,
            path,
            ..GET
        },
    )
}

#[test]
fn what_is_absent_has_its_default() {
    let config = with_services(&[service("a", json!([{"hosts": ["a.com"]}]))]);
    assert_eq!(config.sidecar.offers_cluster, "c");
    assert_eq!(config.sidecar.token_env, "BOLTGATE_TOKEN");
    assert_eq!(config.sidecar.timeout, Duration::from_secs(3));
    assert_eq!(config.poll_interval, Duration::from_secs(2));
    assert_eq!(config.revocation_max_age, Duration::from_secs(60));
    assert_eq!(config.unmatched, Unmatched::Deny);
    assert_eq!(config.other_hosts, Unmatched::Pass);
    assert_eq!(config.l402_invalid_status, InvalidStatus::PaymentRequired);
    assert!(config.lsat_line);
    assert_eq!(config.client_limits.prefix_v6, 64);
    let service = &config.policy.services()[0];
    assert_eq!((service.price().get(), service.lifetime()), (1_000, None));
    assert!(service.template().capabilities.is_empty());
}

#[test]
fn the_full_example_is_read_as_written() {
    let config = read(&config::full());
    let weather = config.policy.services()[0].template();
    assert_eq!(weather.price_msat.get(), 10_000);
    assert_eq!(weather.lifetime_seconds, Some(86_400));
    assert_eq!(weather.capabilities, ["forecast"]);
    assert_eq!(
        weather.constraints,
        [("forecast_monthly_volume_sats".to_owned(), "1000".to_owned())]
    );
    assert_eq!(config.policy.services()[1].price().get(), 1_500);
}

#[test]
fn every_error_is_reported_at_once_with_its_path() {
    let errors = errors_of(
        r#"{
        "sidecar": {"cluster": 7, "timeout": "3 weeks", "tokn": "x"},
        "unmatched": "open", "extra": {}, "revocationMaxAge": "1s", "clientLimits": {"burst": 0},
        "services": [
            {"name": "a b", "match": [], "price": {"sat": 0}},
            {"name": "ok", "match": [{"hosts": ["x.com:80", "", "*"]}], "price": {"sat": 1},
             "tier": 1.5, "tier": 3},
            {"name": "ok", "match": [{"hosts": ["y.com"], "path": {}, "pfad": 1,
                                      "headers": [{"name": "x", "present": false}]}],
             "price": {"sat": 1, "msat": 1}, "freePaths": [{"regex": "("}],
             "capabilities": ["c", "c"], "constraints": {"services": "x", "d_e": "1", "c_d": 5}},
            "seven"
        ]}"#,
    );
    let expected = [
        "sidecar.cluster: expected a string, found a number",
        "sidecar.timeout: expected a duration",
        "sidecar.tokn: unknown key, known are cluster, offersCluster",
        "revocationMaxAge: must be longer than pollInterval",
        "unmatched: expected \"deny\" or \"pass\"",
        "clientLimits.burst: expected a whole number from 1 to 1000000",
        "services[0].name: expected 1 to 64 ASCII letters",
        "services[0].match: expected 1 to 256 entries, found 0",
        "services[0].price.sat: expected a whole number from 1",
        "services[1].tier: given twice",
        "services[1].match[0].hosts[0]: expected a host name without port",
        "services[1].match[0].hosts[1]: expected a host name without port",
        "services[1].tier: expected a whole number from 0 to 255",
        "services[2].name: service \"ok\" is given twice",
        "services[2].capabilities[1]: capability \"c\" is given twice",
        "services[2].match[0].path: expected exactly one of exact, prefix and regex",
        "services[2].match[0].headers[0].present: expected true",
        "services[2].match[0].pfad: unknown key",
        "services[2].price: expected exactly one of sat and msat",
        "services[2].constraints.services: this caveat has a meaning of its own",
        "services[2].constraints.d_e: must begin with a capability of the service",
        "services[2].constraints.c_d: expected a string, found a number",
        "services[2].freePaths[0].regex: invalid regular expression",
        "services[3]: expected an object, found a string",
        "extra: unknown key",
    ];
    for (index, expected) in expected.iter().enumerate() {
        let found = errors.get(index).map_or("nothing", String::as_str);
        assert!(
            found.starts_with(expected),
            "{index}: {expected}\nfound {found}\nin {errors:#?}"
        );
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn a_service_is_sold_by_the_schemes_that_it_names() {
    let config = read(&config::full());
    let [weather, maps] = config.policy.services() else {
        panic!("two services")
    };
    let terms = weather.charge().unwrap();
    assert_eq!((terms.amount.get(), terms.settled), (10, false));
    assert!(weather.sells_l402() && maps.sells_l402() && maps.charge().is_none());
    let payment = config.payment.unwrap();
    assert_eq!(
        (payment.realm.as_str(), payment.tls),
        ("api.example.com", Tls::Required)
    );
}

#[test]
fn what_cannot_be_sold_by_charge_is_an_error() {
    let errors = |payment: &str, service: &str| {
        let text = format!(
            r#"{{"sidecar":{{"cluster":"c"}},{payment}"services":[{{"name":"a",
                "match":[{{"hosts":["a.com"]}}],{service}}}]}}"#
        );
        errors_of(&text).join("\n")
    };
    let realm = r#""payment":{"realm":"r"},"#;
    let charge = r#""schemes":["charge"],"price":{"sat":1}"#;
    for (payment, service, expected) in [
        ("", charge, "payment: missing"),
        (r#""payment":{},"#, charge, "payment.realm: missing"),
        (
            r#""payment":{"realm":"a|b"},"#,
            charge,
            "payment.realm: must not contain '|'",
        ),
        (
            r#""payment":{"realm":"a\u0007"},"#,
            charge,
            "payment.realm: must be printable",
        ),
        (
            r#""payment":{"realm":"r","tls":"no"},"#,
            charge,
            "payment.tls: expected \"required\"",
        ),
        (
            realm,
            r#""schemes":[],"price":{"sat":1}"#,
            "services[0].schemes: expected 1 to 3",
        ),
        (
            realm,
            r#""schemes":["charge","charge"],"price":{"sat":1}"#,
            "services[0].schemes[1]: scheme \"charge\" is given twice",
        ),
        (
            realm,
            r#""schemes":["bundle"],"price":{"sat":1}"#,
            "services[0].schemes[0]: expected \"l402\" or \"charge\" or \"session\"",
        ),
        (
            realm,
            r#""schemes":["charge"],"price":{"msat":1500}"#,
            "services[0].price: must be whole satoshis",
        ),
    ] {
        let found = errors(payment, service);
        assert!(found.starts_with(expected), "{expected}\nfound {found}");
    }
}

#[test]
fn a_session_has_a_price_a_deposit_and_a_unit() {
    let terms = |service: &str| {
        let text = format!(
            r#"{{"sidecar":{{"cluster":"c"}},"payment":{{"realm":"r"}},"services":[{{"name":"a",
                "match":[{{"hosts":["a.com"]}}],{service}}}]}}"#
        );
        let config = PluginConfig::from_json(text.as_bytes())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let terms = config.policy.services()[0].session();
        Ok(terms.map(|terms| (terms.price.get(), terms.deposit.get(), terms.unit)))
    };
    let session = r#""schemes":["session"]"#;
    for (rest, expected) in [
        (r#""price":{"sat":3}"#, (3, 60, Unit::Request)),
        (
            r#""price":{"sat":3},"session":{"unit":"event"}"#,
            (3, 60, Unit::Event),
        ),
        (
            r#""price":{"msat":1500},"session":{"price":{"sat":2},"deposit":{"sat":2}}"#,
            (2, 2, Unit::Request),
        ),
    ] {
        let found: Result<_, Vec<String>> = terms(&format!("{session},{rest}"));
        assert_eq!(found, Ok(Some(expected)), "{rest}");
    }
    for (service, expected) in [
        (
            r#""schemes":["l402"],"price":{"sat":1},"session":{"price":{"sat":1}}"#,
            "services[0].session: the service does not sell by session: see schemes",
        ),
        (
            r#""schemes":["session"],"price":{"msat":1500}"#,
            "services[0]: session needs a price of whole satoshis",
        ),
        (
            r#""schemes":["session"],"price":{"sat":5},"session":{"deposit":{"sat":4}}"#,
            "services[0].session: deposit must cover at least one unit",
        ),
        (
            r#""schemes":["session"],"price":{"sat":5},"session":{"deposit":{"msat":4000}}"#,
            "services[0].session.deposit.sat: missing",
        ),
    ] {
        let found = terms(service);
        assert_eq!(
            found
                .as_ref()
                .err()
                .and_then(|errors| errors.first())
                .map(String::as_str),
            Some(expected),
            "{service}: {found:?}"
        );
    }
}

#[test]
fn paths_that_no_request_has_are_refused() {
    let rule = |path: Value| {
        let services = json!([service("a", json!([{"hosts": ["*"], "path": path}]))]);
        let config = json!({"sidecar": {"cluster": "c"}, "services": services});
        PluginConfig::from_json(config.to_string().as_bytes())
    };
    for (path, why) in [
        ("/a%21b", "write \"/a!b\""),
        ("/%70aid", "write \"/paid\""),
        ("/caf%c3%a9", "write \"/caf%C3%A9\""),
        ("//x", "empty segment"),
        ("/a/../b", "dot segment"),
        ("/a%2Fb", "escaped delimiter"),
        ("/a\\b", "must be escaped"),
        ("/a%2", "incomplete escape"),
    ] {
        for kind in ["exact", "prefix"] {
            let errors = rule(json!({ kind: path })).err().unwrap().to_string();
            assert!(
                errors.contains(why) && errors.contains("path"),
                "{path}: {errors}"
            );
        }
    }
    for path in ["/caf%C3%A9", "/a!b", "/A;b=c/", "/.well-known", "/"] {
        for kind in ["exact", "prefix"] {
            assert!(rule(json!({ kind: path })).is_ok(), "{path}");
        }
    }
    assert!(rule(json!({"prefix": "/."})).is_ok() && rule(json!({"exact": "/."})).is_err());
}

#[test]
fn text_that_is_no_json_says_where() {
    for text in ["", "{", "{\"a\": 1} x", "\u{0}"] {
        let errors = errors_of(text);
        assert!(errors[0].starts_with("invalid JSON: "), "{errors:?}");
    }
    assert_eq!(errors_of("[]"), ["expected an object, found a list"]);
    assert_eq!(errors_of("{}"), ["sidecar: missing", "services: missing"]);
}

#[test]
fn whole_numbers_may_have_been_doubles_on_the_way() {
    let text = r#"{"sidecar": {"cluster": "c"}, "maxWaiting": 5e3, "services": [
        {"name": "a", "match": [{"hosts": ["a.com"]}], "price": {"sat": 10.0}}]}"#;
    let config = PluginConfig::from_json(text.as_bytes()).ok().unwrap();
    assert_eq!(config.policy.services()[0].price().get(), 10_000);
    assert_eq!(config.max_waiting, 5_000);
}

#[test]
fn regular_expressions_are_bounded_and_match_the_whole_path() {
    let by = |regex: &str| json!([{"hosts": ["a.com"], "path": {"regex": regex}}]);
    let config = with_services(&[service("a", by("/x|/y/[0-9]+"))]);
    for (path, expected) in [
        ("/x", "a"),
        ("/y/12?z", "a"),
        ("/xx", "unmatched"),
        ("/y/1\n", "unmatched"),
    ] {
        assert_eq!(found(&config, "a.com", path), expected, "{path}");
    }
    for regex in ["a)|(b", "(", &"a".repeat(300), "((a{1,99}){1,99}){1,99}"] {
        let config = json!({"sidecar": {"cluster": "c"}, "services": [service("a", by(regex))]});
        let errors = errors_of(&config.to_string());
        assert!(
            errors[0].starts_with("services[0].match[0].path.regex: "),
            "{errors:?}"
        );
    }
}

#[test]
fn the_first_match_wins_whatever_its_kind() {
    let config = with_services(&[
        service(
            "exact",
            json!([{"hosts": ["a.com"], "path": {"exact": "/v1/x"}}]),
        ),
        service(
            "regex",
            json!([{"hosts": ["*.com"], "path": {"regex": "/v1/[a-f]+"}}]),
        ),
        service(
            "long",
            json!([{"hosts": ["a.com"], "path": {"prefix": "/v1/a/"}}]),
        ),
        service(
            "short",
            json!([{"hosts": ["a.com"], "path": {"prefix": "/v1"}}]),
        ),
        service(
            "never",
            json!([{"hosts": ["a.com"], "path": {"prefix": "/v1/b"}}]),
        ),
        service("rest", json!([{"hosts": ["*"]}])),
        service(
            "exact2",
            json!([{"hosts": ["a.com"], "path": {"exact": "/z"}}]),
        ),
    ]);
    for (path, expected) in [
        ("/v1/x", "exact"),
        ("/v1/x?q=/v1/a/", "exact"),
        ("/v1/abc", "regex"),
        ("/v1/a/b", "long"),
        ("/v1/a", "regex"),
        ("/v1/bz", "short"),
        ("/v1", "short"),
        ("/v2", "rest"),
        ("/z", "rest"),
        ("", "rest"),
    ] {
        assert_eq!(found(&config, "a.com", path), expected, "{path}");
    }
}

#[test]
fn hosts_are_compared_without_case_port_and_trailing_dot() {
    let config = with_services(&[
        service("exact", json!([{"hosts": ["API.example.com"]}])),
        service("below", json!([{"hosts": ["*.example.com"]}])),
        service("address", json!([{"hosts": ["[::1]"]}])),
    ]);
    for (authority, expected) in [
        ("api.example.com", "exact"),
        ("Api.Example.Com:8443", "exact"),
        ("api.example.com.", "exact"),
        ("x.example.com", "below"),
        ("x.y.example.com", "below"),
        ("[::1]:80", "address"),
        ("example.com", "foreign"),
        ("xexample.com", "foreign"),
        ("api.example.com.evil", "foreign"),
        ("other", "foreign"),
        // What an upstream could read as a host of ours never passes as somebody else's.
        ("", "unmatched"),
        ("api.example.com,x", "unmatched"),
        ("x@api.example.com", "unmatched"),
        ("api.example.com/", "unmatched"),
        ("api.example.com:80:80", "unmatched"),
    ] {
        assert_eq!(found(&config, authority, "/"), expected, "{authority}");
    }
}

#[test]
fn methods_and_headers_have_to_hold_too() {
    let config = with_services(&[
        service(
            "gold",
            json!([{"hosts": ["a.com"], "methods": ["POST"],
                    "headers": [{"name": "X-Plan", "exact": "gold"}]}]),
        ),
        service(
            "plan",
            json!([{"hosts": ["a.com"], "headers": [{"name": "x-plan", "present": true}]}]),
        ),
        service(
            "read",
            json!([{"hosts": ["a.com"], "methods": ["GET", "HEAD"]},
                   {"hosts": ["a.com"], "headers": [{"name": "t", "prefix": "00-"}]}]),
        ),
    ]);
    let none = ("other", "");
    for (method, header, expected) in [
        ("POST", ("x-plan", "gold"), "gold"),
        ("post", ("x-plan", "gold"), "gold"),
        ("POST", ("x-plan", "silver"), "plan"),
        ("GET", none, "read"),
        ("POST", none, "unmatched"),
        ("POST", ("t", "00-1"), "read"),
    ] {
        let headers = &[header];
        let request = Request {
            method,
            headers,
            ..GET
        };
        assert_eq!(find(&config, &request), expected, "{method} {header:?}");
    }
}

#[test]
fn free_and_no_invoice_paths_are_told_apart_and_closed_wins() {
    let mut service = service("a", json!([{"hosts": ["a.com"]}]));
    service["freePaths"] = json!([{"prefix": "/free/"}, {"regex": "/f[0-9]"}]);
    service["noInvoicePaths"] = json!([{"exact": "/free/not"}]);
    let config = with_services(&[service]);
    for (path, expected) in [
        ("/free/x", "a Free"),
        ("/f1?x", "a Free"),
        ("/f1/x", "a"),
        ("/free/not", "a NoInvoice"),
        ("/free", "a"),
    ] {
        assert_eq!(found(&config, "a.com", path), expected, "{path}");
    }
}

#[test]
fn free_paths_that_no_match_reaches_are_refused() {
    let errors = |path: Value, free: Value| {
        let mut service = service("a", json!([{"hosts": ["a.com"], "path": path}]));
        service["freePaths"] = json!([free]);
        service["noInvoicePaths"] = json!([free]);
        let text = json!({"sidecar": {"cluster": "c"}, "services": [service]}).to_string();
        match PluginConfig::from_json(text.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    };
    let [a, b] = ["freePaths", "noInvoicePaths"]
        .map(|key| format!("services[0].{key}[0]: no match of this service reaches it"));
    for (path, free) in [
        (json!({"prefix": "/v1/"}), json!({"exact": "/health"})),
        (json!({"prefix": "/v1/"}), json!({"prefix": "/v2/"})),
        (json!({"exact": "/v1"}), json!({"exact": "/v1/x"})),
        (json!({"exact": "/v1"}), json!({"prefix": "/v1/"})),
    ] {
        assert_eq!(errors(path, free), [a.as_str(), &b]);
    }
    let none: [&str; 0] = [];
    for (path, free) in [
        (json!({"prefix": "/v1/"}), json!({"exact": "/v1/health"})),
        (json!({"prefix": "/v1/"}), json!({"exact": "/V1/health"})),
        (json!({"prefix": "/v1/"}), json!({"prefix": "/"})),
        (json!({"prefix": "/v1"}), json!({"prefix": "/v1/x"})),
        (json!({"exact": "/v1/x"}), json!({"prefix": "/v1/"})),
        (json!({"exact": "/v1/x"}), json!({"exact": "/v1/x"})),
        (json!({"regex": "/v1"}), json!({"exact": "/health"})),
        (json!({"prefix": "/v1/"}), json!({"regex": "/health"})),
        (Value::Null, json!({"exact": "/health"})),
    ] {
        assert_eq!(errors(path, free), none);
    }
    // One wrong match is one error: what it would have reached is not known.
    let found = errors(json!({"prefix": "v1"}), json!({"exact": "/v1"}));
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn a_path_too_long_is_refused_on_our_hosts_only() {
    let config = with_services(&[service("a", json!([{"hosts": ["a.com"]}]))]);
    let long = format!("/{}", "x".repeat(MAX_PATH_LEN));
    assert_eq!(found(&config, "a.com", &long), "too long");
    assert_eq!(found(&config, "b.com", &long), "foreign");
    assert_eq!(found(&config, "a.com", &format!("/?{long}")), "a");
}

#[test]
fn a_thousand_services_find_their_requests() {
    let services: Vec<_> = (0..1_000)
        .map(|index| {
            let path = match index % 3 {
                0 => json!({"exact": format!("/s/{index}")}),
                1 => json!({"prefix": format!("/s/{index}/")}),
                _ => json!({"prefix": format!("/s/{index}")}),
            };
            let host = if index < 500 {
                "a.com".to_owned()
            } else {
                format!("h{index}.com")
            };
            service(
                &format!("s{index}"),
                json!([{"hosts": [host], "path": path}]),
            )
        })
        .collect();
    let config = with_services(&services);
    for index in 0..1_000 {
        let host = if index < 500 {
            "a.com".to_owned()
        } else {
            format!("h{index}.com")
        };
        let path = if index % 3 == 1 {
            format!("/s/{index}/x")
        } else {
            format!("/s/{index}")
        };
        // A shorter number may be a prefix of this one and then comes first.
        let found = found(&config, &host, &path);
        let first: usize = found.strip_prefix('s').unwrap().parse().unwrap();
        assert!(
            first == index || index.to_string().starts_with(&first.to_string()),
            "{found}"
        );
        assert!(first <= index);
    }
}

/// One match of the model below: host pattern, path kind and path.
fn rule() -> impl Strategy<Value = (&'static str, &'static str, String)> {
    let host = prop_oneof![
        Just("a.b"),
        Just("b"),
        Just("*.b"),
        Just("*.a.b"),
        Just("*"),
        Just("c.b")
    ];
    let kind = prop_oneof![Just("exact"), Just("prefix"), Just("regex"), Just("any")];
    (host, kind, "/([ab]{1,2}/)?[ab]{0,2}")
}

fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => pattern == host,
    }
}

fn path_matches(kind: &str, pattern: &str, path: &str) -> bool {
    match kind {
        "exact" | "regex" => path == pattern,
        "prefix" => path.starts_with(pattern),
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The index finds what looking at one rule after the other would find.
    #[test]
    fn the_index_agrees_with_a_plain_search(
        rules in prop::collection::vec(rule(), 1..12),
        host in "(a|b|c|ab)(\\.(a|b))?",
        path in "/([ab]{1,2}/){0,2}[ab]{0,2}",
    ) {
        let services: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(index, (host, kind, path))| {
                let mut rule = json!({"hosts": [host]});
                if *kind != "any" {
                    rule["path"] = json!({*kind: path});
                }
                service(&index.to_string(), json!([rule]))
            })
            .collect();
        let first = rules.iter().position(|(pattern, kind, text)| {
            host_matches(pattern, &host) && path_matches(kind, text, &path)
        });
        let is_ours = rules.iter().any(|(pattern, ..)| host_matches(pattern, &host));
        let expected = match first {
            Some(index) => index.to_string(),
            None if is_ours => "unmatched".to_owned(),
            None => "foreign".to_owned(),
        };
        prop_assert_eq!(found(&with_services(&services), &host, &path), expected);
    }
}
