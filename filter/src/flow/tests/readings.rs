//! What an upstream could read otherwise than the gate does.

use super::fixture::*;
use crate::flow::*;

fn ambiguous(gate: &mut Fixture, sent: &Sent) {
    let reply = gate.reply(sent);
    let found = (reply.status, reply.note.outcome);
    assert_eq!(found, (400, Outcome::Ambiguous), "{sent:?}");
}

fn service(gate: &mut Fixture, sent: &Sent) -> String {
    match gate.request(sent) {
        Decision::Reply(reply) => format!("{:?}", reply.status),
        Decision::Hold | Decision::HoldCleaned(_) => "held".to_owned(),
        Decision::Forward { note, .. } => note
            .service
            .map_or_else(String::new, |tag| tag.name.to_string()),
    }
}

#[test]
fn a_dear_path_in_disguise_is_not_sold_for_a_cheap_one() {
    let mut gate = Fixture::with(
        r#"[{"name":"report","match":[{"hosts":["*"],"path":{"exact":"/report"}},
                                      {"hosts":["*"],"path":{"prefix":"/Big/"}}],"price":{"sat":1000}},
            {"name":"weather","match":[{"hosts":["*"]}],"price":{"sat":1}}]"#,
    );
    gate.bootstrap();
    let cheap = gate.token("weather", None);
    for path in [
        "/report/",
        "/REPORT",
        "/report;x",
        "/Report/;x=y",
        "/;a/report",
        "/report%3Fx",
        "/re%70ort/",
        "/big/x",
        "/BIG/x",
    ] {
        ambiguous(&mut gate, &Sent::get(path).with("authorization", &cheap));
        ambiguous(&mut gate, &Sent::get(path));
    }
    for path in [
        "/",
        "/other",
        "/OTHER;a/b/",
        "/reports/",
        "/report/x",
        "/big",
    ] {
        let sent = Sent::get(path).with("authorization", &cheap);
        assert_eq!(service(&mut gate, &sent), "weather", "{path}");
    }
    let dear = gate.token("report", None);
    for path in ["/report", "/report?a/", "/re%70ort", "/Big/x", "/Big/X/;y/"] {
        let sent = Sent::get(path).with("authorization", &dear);
        assert_eq!(service(&mut gate, &sent), "report", "{path}");
    }
}

#[test]
fn a_path_in_disguise_needs_the_capability_of_what_it_hides() {
    let mut gate = Fixture::with(
        r#"[{"name":"weather","match":[{"hosts":["*"],"path":{"exact":"/status"}},
                {"hosts":["*"],"path":{"prefix":"/admin"},"capability":"admin"},
                {"hosts":["*"],"capability":"read"}],"price":{"sat":1}}]"#,
    );
    gate.bootstrap();
    let token = gate.token("weather", None);
    for path in ["/ADMIN", "/;x/admin/"] {
        ambiguous(&mut gate, &Sent::get(path).with("authorization", &token));
    }
    // Any token is good there, and one with a capability is asked for here.
    for path in ["/status/", "/admin/", "/x/ADMIN"] {
        gate.forwarded(&Sent::get(path).with("authorization", &token));
    }
}

#[test]
fn what_a_regular_expression_says_is_no_disguise() {
    let mut gate = Fixture::with(
        r#"[{"name":"weather","match":[{"hosts":["*"],"path":{"regex":"/item/[A-Z]+"}}],"price":{"sat":1}},
            {"name":"other","match":[{"hosts":["*"]}],"price":{"sat":1}}]"#,
    );
    gate.bootstrap();
    let token = gate.token("weather", None);
    gate.forwarded(&Sent::get("/item/AB").with("authorization", &token));
    ambiguous(&mut gate, &Sent::get("/item/ab"));
}

#[test]
fn one_service_alone_has_nothing_to_hide() {
    let mut gate = Fixture::ready();
    let token = gate.token("weather", None);
    for path in ["/v1/Forecast/;x/", "/v1/forecast/", "/v1/a%3Fb"] {
        gate.forwarded(&Sent::get(path).with("authorization", &token));
    }
}

const PLANS: &str = r#"[
    {"name":"dear","match":[{"hosts":["a.example"],"path":{"prefix":"/v1/"},
        "headers":[{"name":"x-plan","exact":"premium"}]}],"price":{"sat":1000}},
    {"name":"weather","match":[{"hosts":["a.example","b.example"]}],"price":{"sat":1}}]"#;

#[test]
fn a_header_that_decides_the_price_is_there_once() {
    let mut gate = Fixture::with(PLANS);
    gate.bootstrap();
    let cheap = gate.token("weather", None);
    let sent = |host, path| Sent::get(path).host(host).with("authorization", &cheap);
    for fields in [
        [("x-plan", "basic"), ("x-plan", "premium")],
        [("x-plan", "basic"), ("x_plan", "premium")],
        [("x_plan", "premium"), ("x-other", "1")],
        [("x.plan", "premium"), ("x-other", "1")],
    ] {
        let with = |sent: Sent| fields.iter().fold(sent, |sent, (n, v)| sent.with(n, v));
        ambiguous(&mut gate, &with(sent("a.example", "/v1/x")));
        // Where no rule looks at it, it may be there as often as it likes.
        gate.forwarded(&with(sent("b.example", "/v1/x")));
        gate.forwarded(&with(sent("a.example", "/v2/x")));
    }
    gate.forwarded(&sent("a.example", "/v1/x").with("x-plan", "basic"));
    gate.forwarded(&sent("a.example", "/v1/x"));
    let dear = gate.token("dear", None);
    let sent = Sent::get("/v1/x")
        .host("a.example")
        .with("authorization", &dear);
    gate.forwarded(&sent.with("x-plan", "premium"));
}

#[test]
fn fields_that_name_another_path_or_method_do_not_reach_our_upstreams() {
    const NAMES: [&str; 9] = [
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x_original_url",
        "x.http_method",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-retry-on",
    ];
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    for (path, host) in [
        ("/v1/health", "api.example.com"),
        ("/v1/x", "api.example.com"),
        ("/", "other.example"),
    ] {
        let sent = Sent::get(path)
            .host(host)
            .with("authorization", &paid)
            .with("x-url", "1");
        let sent = NAMES
            .iter()
            .fold(sent, |sent, name| sent.with(name, "/v1/forecast"));
        let forwarded = gate.forwarded(&sent);
        let is_there = |name: &&str| forwarded.value(name).is_some();
        let expected = if host == "other.example" {
            NAMES.len()
        } else {
            0
        };
        assert_eq!(
            NAMES.iter().filter(|n| is_there(n)).count(),
            expected,
            "{host}{path}"
        );
        assert!(is_there(&"x-url"));
    }
}

#[test]
fn a_preflight_does_not_pass_where_its_own_method_is_paid() {
    let preflight = |method, path| {
        Sent::raw(&[
            (":method", "OPTIONS"),
            (":path", path),
            (":authority", "api.example.com"),
            ("origin", "https://a.example"),
            ("access-control-request-method", method),
        ])
    };
    let mut gate = Fixture::of(
        r#""unmatched":"pass""#,
        r#"[{"name":"weather","match":[{"hosts":["*"],"path":{"prefix":"/v1"},
                "methods":["GET","OPTIONS"]}],"price":{"sat":1}},
            {"name":"own","match":[{"hosts":["*"],"path":{"prefix":"/v1"},"methods":["PUT"]},
                {"hosts":["*"],"path":{"prefix":"/v2"}}],"price":{"sat":1},"corsPassthrough":true}]"#,
    );
    gate.bootstrap();
    for method in ["X", "GET", "PUT"] {
        let reply = gate.reply(&preflight(method, "/v1/x"));
        assert_eq!(
            (reply.status, reply.note.outcome),
            (204, Outcome::Preflight),
            "{method}"
        );
    }
    for path in ["/v2/x", "/v3"] {
        gate.forwarded(&preflight("GET", path));
    }
}
