//! Keys, polls, and requests that wait for them.

use super::fixture::*;
use crate::flow::*;

#[test]
fn requests_before_the_first_keys_wait_and_are_decided_afresh() {
    let mut gate = Fixture::new();
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    assert_eq!(gate.request(&sent), Decision::Hold);
    assert!(gate.gate.next_due().is_none());
    gate.bootstrap();
    let due = gate.gate.next_due().unwrap();
    assert!(gate.gate.answer(due).is_none(), "to be decided anew");
    assert_eq!(gate.forwarded(&sent).note.outcome, Outcome::Paid);
}

#[test]
fn a_new_configuration_takes_over_the_keys_of_the_one_before() {
    let mut old = Fixture::ready();
    let paid = old.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    let mut new = Fixture::with_settings(r#""unmatched":"pass""#);
    new.gate.inherit(&old.gate, old.now());
    assert_eq!(new.forwarded(&sent).note.outcome, Outcome::Paid);

    let mut elsewhere = Fixture::of_another_sidecar();
    elsewhere.gate.inherit(&old.gate, old.now());
    assert_eq!(elsewhere.request(&sent), Decision::Hold);
}

#[test]
fn who_waits_too_long_gets_503() {
    let mut gate = Fixture::new();
    assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
    gate.now_ms += 1_999;
    gate.gate.tick(gate.now());
    assert!(!gate.gate.has_backlog());
    gate.now_ms += 1;
    gate.gate.tick(gate.now());
    assert_eq!(gate.due_statuses(), [503]);

    let mut gate = Fixture::ready();
    assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
    gate.now_ms += 3_250;
    gate.gate.tick(gate.now());
    assert_eq!(gate.due_statuses(), [503]);
}

#[test]
fn no_more_than_so_many_wait() {
    let mut gate = Fixture::with_settings(r#""maxWaiting":4"#);
    assert_eq!(gate.request(&Sent::get("/v1/a")), Decision::Hold);
    assert_eq!(gate.request(&Sent::get("/v1/b")), Decision::Hold);
    assert_eq!(gate.reply(&Sent::get("/v1/c")).status, 503);
}

#[test]
fn a_first_poll_that_fails_is_repeated_at_once() {
    let mut gate = Fixture::new();
    assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
    let start = gate.now_ms;
    let (mut polls, mut notices) = (Vec::new(), Vec::new());
    // Ticks come every 100 ms; a call that cannot be made is answered at once.
    for _ in 0..11 {
        gate.gate.tick(gate.now());
        while let Some(call) = gate.gate.next_call() {
            polls.push(gate.now_ms - start);
            gate.gate
                .answered(call.kind, &Answer::default(), gate.now());
        }
        notices.extend(gate.gate.next_notice().map(|_| gate.now_ms - start));
        gate.now_ms += 100;
    }
    assert_eq!(notices, [100], "the first is as at every start");
    assert_eq!(polls, [0, 100, 200, 400, 600, 800, 1_000]);
    gate.bootstrap();
    let due = gate.gate.next_due().unwrap();
    assert!(
        gate.gate.answer(due).is_none(),
        "it has waited and is decided"
    );
}

/// What is said while calls cannot be made for so many milliseconds, and when.
fn said_without(no_cluster: bool, for_ms: u64) -> Vec<(u64, Notice)> {
    let mut gate = Fixture::new();
    let start = gate.now_ms;
    let mut said = Vec::new();
    while gate.now_ms < start + for_ms {
        gate.gate.tick(gate.now());
        while let Some(call) = gate.gate.next_call() {
            let answer = Answer {
                no_cluster,
                ..Answer::default()
            };
            gate.gate.answered(call.kind, &answer, gate.now());
        }
        while let Some(notice) = gate.gate.next_notice() {
            said.push((gate.now_ms - start, notice));
        }
        gate.now_ms += 100;
    }
    said
}

#[test]
fn a_cluster_that_envoy_does_not_know_is_named_and_is_an_error_after_the_start() {
    let said = said_without(true, 20_000);
    let [(100, Notice::Info(early)), (after, Notice::Error(fault))] = &said[..] else {
        panic!("{said:?}")
    };
    let why = r#"Envoy knows no cluster "boltgate" (sidecar.cluster)"#;
    assert_eq!(early, &format!("no keys from the sidecar yet: {why}"));
    assert_eq!(fault, &format!("no keys from the sidecar: {why}"));
    assert!((5_000..5_500).contains(after), "{after}");

    let said = said_without(false, 20_000);
    assert!(
        matches!(&said[..], [(_, Notice::Info(_)), (_, Notice::Error(text))]
        if text.ends_with("the call could not be made"))
    );
}

#[test]
fn a_sidecar_that_refuses_is_an_error_at_once() {
    let mut gate = Fixture::new();
    gate.answer_bootstrap(401, true, "");
    assert!(matches!(gate.gate.next_notice(), Some(Notice::Error(text)) if text.contains("token")));
}

#[test]
fn offers_without_a_cluster_name_the_setting_once() {
    let services = r#"[{"name":"weather","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v1/"}}],"price":{"sat":1}}]"#;
    for (settings, setting) in [
        (
            r#""cluster":"a","offersCluster":"b""#,
            r#""b" (sidecar.offersCluster)"#,
        ),
        (r#""cluster":"a""#, r#""a" (sidecar.cluster)"#),
    ] {
        let mut gate = Fixture::whole(&format!(
            r#"{{"sidecar":{{{settings}}},"services":{services}}}"#
        ));
        gate.bootstrap();
        gate.now_ms += 10_000;
        gate.bootstrap();
        while gate.gate.next_notice().is_some() {}
        for _ in 0..2 {
            assert_eq!(gate.request(&Sent::get("/v1/x")), Decision::Hold);
            let (kind, _) = gate.offers_call();
            let answer = Answer {
                no_cluster: true,
                ..Answer::default()
            };
            gate.gate.answered(kind, &answer, gate.now());
            assert_eq!(gate.due_statuses(), [503]);
            gate.now_ms += 1_000;
        }
        let text = format!("no offers from the sidecar: Envoy knows no cluster {setting}");
        assert_eq!(gate.gate.next_notice(), Some(Notice::Error(text)));
        assert_eq!(gate.gate.next_notice(), None);
    }
}

#[test]
fn keys_that_are_too_old_are_told_about_once_a_minute() {
    let mut gate = Fixture::ready();
    while gate.gate.next_notice().is_some() {}
    let start = gate.now_ms;
    let mut said = Vec::new();
    while gate.now_ms < start + 200_000 {
        gate.now_ms += 500;
        gate.gate.tick(gate.now());
        while gate.gate.next_call().is_some() {}
        while let Some(notice) = gate.gate.next_notice() {
            let Notice::Error(text) = notice else {
                panic!("{notice:?}")
            };
            said.push((gate.now_ms - start, text));
        }
    }
    let times: Vec<_> = said.iter().map(|(time, _)| *time).collect();
    assert_eq!(times, [60_500, 120_500, 180_500]);
    assert_eq!(
        said[0].1,
        "keys and revocations are 60 s old: paid requests are answered 503 until the sidecar \
         answers (cluster \"boltgate\")"
    );
}

#[test]
fn it_is_said_that_charges_need_https() {
    let services = r#"[{"name":"weather","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v1/"}}],"price":{"sat":1},
                       "schemes":["charge"]}]"#;
    for (tls, is_said) in [("required", true), ("terminated", false)] {
        let settings = format!(r#""payment":{{"realm":"api.example.com","tls":"{tls}"}}"#);
        let mut gate = Fixture::of(&settings, services);
        let notice = gate.gate.next_notice();
        let found = matches!(&notice, Some(Notice::Info(text)) if text.contains("payment.tls"));
        assert_eq!(found, is_said && payment::IS_BUILT_IN, "{notice:?}");
    }
}

#[test]
fn wrong_bootstraps_are_refused_whole() {
    for body in [
        "",
        "{}",
        r#"{"version":"1","keys":[],"revocations":{"full":true,"add":[],"remove":[]}}"#,
        r#"{"version":"1","keys":[{"generation":1,"state":"current","l402":"ab"}],"revocations":{"full":true,"add":[],"remove":[]}}"#,
    ] {
        let mut gate = Fixture::new();
        gate.answer_bootstrap(200, true, body);
        assert_eq!(gate.request(&Sent::get("/v1/x")), Decision::Hold, "{body}");
    }
    let mut gate = Fixture::new();
    let body = Fixture::bootstrap_body(&[(1, KEY)], &[], "1");
    gate.answer_bootstrap(200, false, &body);
    assert_eq!(
        gate.request(&Sent::get("/v1/x")),
        Decision::Hold,
        "not marked"
    );
    let partial = body.replace("true", "false");
    gate.answer_bootstrap(200, true, &partial);
    assert_eq!(
        gate.request(&Sent::get("/v1/x")),
        Decision::Hold,
        "no full deny list"
    );
}

#[test]
fn an_unchanged_bootstrap_renews_the_age_of_the_deny_list() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/x").with("authorization", &paid);
    for _ in 0..5 {
        gate.now_ms += 50_000;
        gate.answer_bootstrap(304, true, "");
        assert_eq!(gate.forwarded(&sent).note.outcome, Outcome::Paid);
    }
}

#[test]
fn a_clock_that_is_set_back_makes_the_deny_list_old_and_the_poll_due() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    gate.now_ms -= 3_600_000;
    assert_eq!(
        gate.reply(&Sent::get("/v1/x").with("authorization", &paid))
            .status,
        503
    );
    gate.bootstrap();
    gate.forwarded(&Sent::get("/v1/x").with("authorization", &paid));
}

#[test]
fn the_known_version_is_named_in_the_next_poll() {
    let mut gate = Fixture::ready();
    gate.now_ms += 5_000;
    gate.gate.tick(gate.now());
    let path = gate.bootstrap_path().unwrap();
    assert!(
        path.starts_with("/v1/bootstrap?vm=") && path.ends_with("&known=v-1"),
        "{path}"
    );
}

#[test]
fn a_missing_token_is_named_once_and_nobody_is_asked() {
    let mut gate = Fixture::without_token();
    let Some(Notice::Error(text)) = gate.gate.next_notice() else {
        panic!("no notice")
    };
    assert!(text.contains("BOLTGATE_TOKEN"), "{text}");
    gate.gate.tick(gate.now());
    assert!(gate.gate.next_call().is_none());
}

#[test]
fn no_secret_is_in_a_notice() {
    let mut gate = Fixture::new();
    gate.answer_bootstrap(401, true, "");
    while let Some(notice) = gate.gate.next_notice() {
        assert!(!format!("{notice:?}").contains(TOKEN));
    }
}

#[test]
fn outcomes_have_distinct_words() {
    let words: std::collections::HashSet<_> = Outcome::ALL.iter().map(|o| o.word()).collect();
    assert_eq!(words.len(), Outcome::ALL.len());
    assert_eq!(outcome(&Decision::Hold), None);
}
