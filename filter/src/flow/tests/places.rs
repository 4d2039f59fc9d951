//! Where a request belongs, and what is cleaned out of it.

use super::fixture::*;
use crate::flow::*;

#[test]
fn other_hosts_pass_less_our_headers_and_credentials() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    let sent = Sent::get("/anything")
        .host("other.example")
        .with("authorization", &paid)
        .with("x-boltgate-tier", "9")
        .with("x_boltgate_service", "evil")
        .with("cookie", "a=b");
    let forwarded = gate.forwarded(&sent);
    assert_eq!(forwarded.note.outcome, Outcome::Foreign);
    assert_eq!(
        forwarded.names,
        [":method", ":path", ":authority", "cookie"]
    );
}

#[test]
fn other_hosts_are_refused_where_the_operator_serves_none() {
    let mut gate = Fixture::with_settings(r#""otherHosts":"deny""#);
    gate.bootstrap();
    let paid = gate.token("weather", None);
    for host in ["other.example", "example.com", "x"] {
        for sent in [
            Sent::get("/v1/forecast"),
            Sent::get("/").with("authorization", &paid),
        ] {
            let reply = gate.reply(&sent.host(host));
            let found = (reply.status, reply.note.outcome);
            assert_eq!(found, (404, Outcome::Unmatched), "{host}");
        }
    }
    gate.forwarded(&Sent::get("/v1/x").with("authorization", &paid));
}

#[test]
fn other_hosts_keep_macaroons_that_are_not_of_our_kind() {
    let mut gate = Fixture::ready();
    let sent = Sent::get("/")
        .host("lnd.example")
        .with("grpc-metadata-macaroon", "0201036c6e64");
    assert!(
        gate.forwarded(&sent)
            .names
            .contains(&"grpc-metadata-macaroon".to_owned())
    );
}

#[test]
fn foreign_parts_of_an_authorization_stay() {
    let mut gate = Fixture::ready();
    let both = format!("Basic YTpi, {}", gate.token("weather", None));
    for path in ["/v1/forecast", "/v1/health"] {
        let forwarded = gate.forwarded(&Sent::get(path).with("authorization", &both));
        assert_eq!(
            forwarded.value("authorization"),
            Some("Basic YTpi"),
            "{path}"
        );
    }
}

#[test]
fn a_free_path_needs_nothing_and_no_keys() {
    let mut gate = Fixture::new();
    assert_eq!(
        gate.forwarded(&Sent::get("/v1/health")).note.outcome,
        Outcome::Free
    );
}

#[test]
fn a_path_that_could_be_read_as_a_paid_one_is_not_free() {
    let mut gate = Fixture::with(
        r#"[{"name":"paid","match":[{"hosts":["*"],"path":{"prefix":"/paid"}}],"price":{"sat":1}},
            {"name":"rest","match":[{"hosts":["*"]}],"price":{"sat":1},
             "freePaths":[{"prefix":"/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/PAID",
        "/paid;a=b",
        "/%70aid",
        "/PAID/;x",
        "/pAiD/x?y",
        "/;a/paid",
        "/;/;a/paid/x",
    ] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        assert!(
            !matches!(decision, Decision::Forward { .. }),
            "{path}: {decision:?}"
        );
    }
    for path in ["/Free", "/free;a=b"] {
        assert_eq!(
            gate.forwarded(&Sent::get(path)).note.outcome,
            Outcome::Free,
            "{path}"
        );
    }
}

#[test]
fn a_free_path_is_free_as_the_configuration_spells_it() {
    let mut gate = Fixture::with(
        r#"[{"name":"all","match":[{"hosts":["*"]}],"price":{"sat":1},"freePaths":[
            {"prefix":"/grpc.health.v1.Health/"},{"prefix":"/docs/"},{"exact":"/Start/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/grpc.health.v1.Health/check",
        "/docs/",
        "/docs/a",
        "/Start/",
    ] {
        let note = gate.forwarded(&Sent::get(path)).note;
        assert_eq!(note.outcome, Outcome::Free, "{path}");
    }
    for path in ["/grpc.health.v1.health/check", "/DOCS/", "/docs", "/start/"] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        let is_forwarded = matches!(decision, Decision::Forward { .. });
        assert!(!is_forwarded, "{path}: {decision:?}");
    }
}

#[test]
fn a_paid_path_with_capitals_is_paid_in_any_case() {
    let mut gate = Fixture::with(
        r#"[{"name":"paid","match":[
              {"hosts":["*"],"path":{"prefix":"/Paid/"}},
              {"hosts":["*"],"path":{"exact":"/One"}},
              {"hosts":["*"],"path":{"regex":"/Item/[A-F]+"}}],
             "price":{"sat":1},"freePaths":[{"prefix":"/Paid/Docs/"}]},
            {"name":"rest","match":[{"hosts":["*"]}],"price":{"sat":1},
             "freePaths":[{"prefix":"/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/Paid/x",
        "/paid/x",
        "/PAID/;y/x",
        "/one",
        "/ONE?a",
        "/item/ab",
        "/paid/docs/",
    ] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        assert!(
            !matches!(decision, Decision::Forward { .. }),
            "{path}: {decision:?}"
        );
    }
    for path in ["/Paid/Docs/x", "/Free", "/items/ab", "/ones"] {
        let note = gate.forwarded(&Sent::get(path)).note;
        assert_eq!(note.outcome, Outcome::Free, "{path}");
    }
}

#[test]
fn an_escaped_question_mark_hides_no_exact_path() {
    let mut gate = Fixture::with(
        r#"[{"name":"paid","match":[{"hosts":["*"],"path":{"exact":"/paid"}}],"price":{"sat":1}},
            {"name":"rest","match":[{"hosts":["*"]}],"price":{"sat":1},
             "freePaths":[{"prefix":"/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/paid%3fa",
        "/paid%3F",
        "/paid%23a",
        "/paid/;x%3f",
        "/PAID%23/b",
    ] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        let is_forwarded = matches!(decision, Decision::Forward { .. });
        assert!(!is_forwarded, "{path}: {decision:?}");
    }
}

#[test]
fn ambiguous_requests_on_our_hosts_are_refused_and_elsewhere_pass() {
    let mut gate = Fixture::ready();
    for path in ["//v1", "/v1/../x", "/v1/%2e%2e/x", "/v1\\x", "*", "/v1/%ff"] {
        assert_eq!(gate.reply(&Sent::get(path)).status, 400, "{path}");
        let elsewhere = gate.forwarded(&Sent::get(path).host("other.example"));
        assert_eq!(elsewhere.note.outcome, Outcome::Foreign);
    }
    for host in ["", "api.example.com,x", "u@api.example.com"] {
        assert_eq!(
            gate.reply(&Sent::get("/v1/x").host(host)).status,
            400,
            "{host}"
        );
    }
    let connect = Sent::raw(&[
        (":method", "CONNECT"),
        (":authority", "api.example.com:443"),
    ]);
    assert_eq!(gate.reply(&connect).status, 400);
}

#[test]
fn what_no_service_matches_is_refused_unless_the_policy_lets_it_pass() {
    let mut gate = Fixture::ready();
    assert_eq!(gate.reply(&Sent::get("/nothing")).status, 404);
    let mut open = Fixture::with_settings(r#""unmatched":"pass""#);
    assert_eq!(
        open.forwarded(&Sent::get("/nothing")).note.outcome,
        Outcome::Passed
    );
    let sent = Sent::get("/V1/forecast");
    let decision = open.request(&sent);
    assert!(
        !matches!(decision, Decision::Forward { .. }),
        "another case of a paid path"
    );
}

#[test]
fn a_preflight_is_answered_here() {
    let mut gate = Fixture::new();
    let sent = Sent::raw(&[
        (":method", "OPTIONS"),
        (":path", "/v1/forecast"),
        (":authority", "api.example.com"),
        ("origin", "https://a.example"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "x-a, x-b"),
    ]);
    let reply = gate.reply(&sent);
    assert_eq!(
        (reply.status, reply.note.outcome),
        (204, Outcome::Preflight)
    );
    let allowed = reply
        .headers
        .iter()
        .find(|(name, _)| *name == "access-control-allow-headers");
    assert_eq!(allowed.unwrap().1, "authorization, x-a, x-b");
}
