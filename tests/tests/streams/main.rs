//! Streams that a session pays for event by event, through real Envoy: whatever the upstream's
//! timing, not a byte is lost, doubled or out of order, and nothing is delivered unpaid.

mod shop;
mod upstream;

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;

use self::shop::{Kind, Shop, events, strip};
use self::upstream::Act;

/// Clients and upstreams of both versions of HTTP.
const KINDS: [Kind; 4] = [
    Kind {
        client: 1,
        upstream: 1,
    },
    Kind {
        client: 1,
        upstream: 2,
    },
    Kind {
        client: 2,
        upstream: 1,
    },
    Kind {
        client: 2,
        upstream: 2,
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_runs_dry_goes_on_in_the_same_connection_after_a_top_up() -> anyhow::Result<()>
{
    let shop = Shop::open("streams-story", "60s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "story");
        let input = events(12) + "data: [DONE]\n\n";
        let mut acts = Vec::new();
        for event in input.split_inclusive("\n\n") {
            acts.push(Act::Send(event.as_bytes().to_vec()));
            acts.push(Act::Pause(10));
        }
        acts.push(Act::End);
        shop.upstream.set(&path, &[], acts);
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        assert_eq!(shop.upstream.header(&path, "accept-encoding")?, "identity");
        assert!(reader.header("cache-control").contains("private"));
        assert!(!reader.header("payment-receipt").is_empty());
        reader.until("payment-need-topup").await?;
        reader.until("\n\n").await?;
        let (paid, word) = reader.text.split_at(events(10).len());
        assert_eq!(paid, events(10), "{kind:?}");
        let word = word.strip_prefix("event: payment-need-topup\ndata: ");
        let word: serde_json::Value = serde_json::from_str(word.context("no word")?.trim())?;
        assert_eq!(word["sessionId"], session.id()?);
        assert_eq!(
            (&word["balanceSpent"], &word["balanceRequired"]),
            (&10.into(), &1.into())
        );
        shop.top_up(&session, &path).await?;
        reader.read_to_end().await?;
        assert_eq!(strip(&reader.text), input, "{kind:?}");
        let receipt = reader.receipt()?;
        assert_eq!(
            (&receipt["spent"], &receipt["units"]),
            (&12.into(), &12.into())
        );
        assert_eq!(receipt["reference"], session.id()?);
        let before_done = reader
            .text
            .find("event: payment-receipt")
            .context("no receipt")?;
        assert!(reader.text[before_done..].ends_with("\n\ndata: [DONE]\n\n"));
        assert_eq!(shop.close(&session, &path).await?, 8);
    }
    shop.check().await
}

/// How the same 25 events come.
fn patterns() -> Vec<(&'static str, Vec<Act>)> {
    let all = events(25).into_bytes();
    let send = |bytes: &[u8]| Act::Send(bytes.to_vec());
    let cut = |size: usize, wait: u64| -> Vec<Act> {
        let pieces = all.chunks(size);
        pieces
            .flat_map(|piece| [send(piece), Act::Pause(wait)])
            .collect()
    };
    let one = events(1).len();
    let (paid, crossing) = all.split_at(events(8).len());
    let (crossing, later) = crossing.split_at(events(13).len() - paid.len());
    let with = |mut acts: Vec<Act>, more: Vec<Act>| {
        acts.extend(more);
        acts
    };
    vec![
        ("each", with(cut(one, 3), vec![Act::End])),
        ("each-at-once", with(cut(one, 0), vec![Act::End])),
        ("three-bytes", with(cut(3, 0), vec![Act::End])),
        ("odd", with(cut(31, 5), vec![Act::End])),
        ("five", with(cut(5 * one, 10), vec![Act::End])),
        ("one-chunk", vec![send(&all), Act::Pause(50), Act::End]),
        ("one-chunk-then-end", vec![send(&all), Act::End]),
        ("one-chunk-with-end", vec![Act::SendAndEnd(all.clone())]),
        ("trailers-at-once", vec![send(&all), Act::Trailers]),
        (
            "trailers-later",
            vec![send(&all), Act::Pause(100), Act::Trailers],
        ),
        (
            "crossing-with-end",
            vec![
                send(paid),
                Act::Pause(30),
                Act::SendAndEnd([crossing, later].concat()),
            ],
        ),
        (
            "crossing-with-trailers",
            vec![
                send(paid),
                Act::Pause(30),
                send(&[crossing, later].concat()),
                Act::Trailers,
            ],
        ),
        (
            "chunk-before-flush",
            vec![
                send(paid),
                Act::Pause(30),
                send(crossing),
                send(later),
                Act::End,
            ],
        ),
        (
            "chunk-after-flush",
            vec![
                send(paid),
                Act::Pause(30),
                send(crossing),
                Act::Pause(150),
                send(later),
                Act::Pause(150),
                Act::End,
            ],
        ),
        (
            "end-after-flush",
            vec![
                send(paid),
                Act::Pause(30),
                send(&[crossing, later].concat()),
                Act::Pause(150),
                Act::SendAndEnd(Vec::new()),
            ],
        ),
        (
            "unfinished",
            vec![
                send(events(25).trim_end_matches('\n').as_bytes()),
                Act::Pause(30),
                Act::End,
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_lost_doubled_or_moved_however_they_come() -> anyhow::Result<()> {
    let shop = Shop::open("streams-patterns", "60s").await?;
    let patterns = patterns();
    let all = KINDS
        .iter()
        .flat_map(|kind| patterns.iter().map(move |pattern| (kind, pattern)));
    let runs = all.map(|(kind, (name, acts))| {
        let shop = &shop;
        async move {
            let path = shop.path(*kind, name);
            shop.upstream.set(&path, &[], acts.clone());
            let run = async {
                let session = shop.session(&path).await?;
                let mut reader = shop.read(*kind, &path, &session.open()).await?;
                let mut tops_up = 0;
                while !reader.read_on().await? {
                    shop.top_up(&session, &path).await?;
                    tops_up += 1;
                    ensure!(tops_up < 5, "still not enough: {}", reader.text);
                }
                let all = events(25);
                let expected = match *name {
                    "unfinished" => all.trim_end_matches('\n'),
                    _ => &all,
                };
                ensure!(strip(&reader.text) == expected, "{}", reader.text);
                let receipt = reader.receipt()?;
                ensure!(receipt["units"] == 25, "{receipt}");
                let left = shop.close(&session, &path).await?;
                ensure!(left == 10 * (tops_up + 1) - 25, "{left} after {tops_up}");
                anyhow::Ok(())
            };
            run.await.with_context(|| format!("{name} {kind:?}"))
        }
    });
    try_join_all(runs).await?;
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_upstream_is_slowed_down_until_all_it_sent_is_paid() -> anyhow::Result<()> {
    let shop = Shop::open("streams-quick", "60s").await?;
    let event = format!("data: {}\n\n", "0123456789abcdef".repeat(64));
    let input: String = (0..5_000)
        .map(|number| format!("id: {number}\n{event}"))
        .collect();
    for kind in KINDS {
        let path = shop.path(kind, "quick");
        let pieces = input.as_bytes().chunks(50_000);
        let mut acts: Vec<_> = pieces.map(|piece| Act::Send(piece.to_vec())).collect();
        acts.push(Act::End);
        shop.upstream.set(&path, &[], acts);
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        reader.read_on().await?;
        // Too little to make much of a difference, then enough.
        shop.top_up(&session, &path).await?;
        shop.top_up(&session, "/much/x").await?;
        while !reader.read_on().await? {}
        assert!(
            strip(&reader.text) == input,
            "{kind:?}: bytes are lost or moved"
        );
        assert_eq!(reader.receipt()?["units"], 5_000);
        assert_eq!(shop.close(&session, &path).await?, 10 + 10 + 6_000 - 5_000);
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_streams_at_once_those_whose_clients_stay_are_whole() -> anyhow::Result<()> {
    let shop = Shop::open("streams-many", "60s").await?;
    let input = events(20);
    for kind in KINDS {
        let mut acts = Vec::new();
        for event in input.split_inclusive("\n\n") {
            acts.push(Act::Send(event.as_bytes().to_vec()));
            acts.push(Act::Pause(20));
        }
        acts.push(Act::End);
        shop.upstream.set(&shop.path(kind, "many"), &[], acts);
    }
    let kinds = KINDS.iter().cycle();
    let sessions = (0..10).map(|_| shop.session("/much/x"));
    let sessions = try_join_all(sessions).await?;
    for session in &sessions {
        shop.open_session(session, "/much/x").await?;
    }
    let streams = kinds.take(200).enumerate().map(|(number, kind)| {
        let (shop, input) = (&shop, &input);
        let session = &sessions[number % sessions.len()];
        async move {
            let path = shop.path(*kind, "many");
            let mut reader = shop.read(*kind, &path, &session.bearer()?).await?;
            if number / 10 % 2 == 1 {
                return reader.until("data: 003").await;
            }
            reader.read_to_end().await?;
            ensure!(strip(&reader.text) == *input, "{number}: {}", reader.text);
            let receipt = reader.receipt()?;
            ensure!(receipt["units"] == 20, "{receipt}");
            Ok(())
        }
    });
    try_join_all(streams).await?;
    for session in &sessions {
        let left = shop.close(session, "/much/x").await?;
        let spent = 6_000 - left;
        // Ten whole streams and ten of which at least three events were read.
        assert!((10 * 20 + 10 * 3..=20 * 20 + 1).contains(&spent), "{spent}");
    }
    shop.check().await
}

/// Envoy crashes if a stream is let go that has ended in the same turn of its loop.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_just_when_their_streams_go_on_do_no_harm() -> anyhow::Result<()> {
    let shop = Shop::open("streams-leave", "60s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "leave");
        shop.upstream
            .set(&path, &[], vec![Act::Send(events(20).into()), Act::Stay]);
    }
    let sessions = try_join_all((0..8).map(|_| shop.session("/much/x"))).await?;
    for session in &sessions {
        shop.open_session(session, "/much/x").await?;
    }
    for round in 0..10_u64 {
        let kinds = KINDS.iter().cycle();
        let streams = kinds.take(200).zip(0_u64..).map(|(kind, number)| {
            let (shop, session) = (&shop, &sessions[number as usize % sessions.len()]);
            async move {
                let path = shop.path(*kind, "leave");
                let mut reader = shop.read(*kind, &path, &session.bearer()?).await?;
                // Units come in ticks; spread the leaving over some of those.
                let stays = Duration::from_millis((number * 7 + round) % 60);
                let _ = tokio::time::timeout(stays, reader.read_to_end()).await;
                anyhow::Ok(())
            }
        });
        try_join_all(streams).await?;
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_of_one_session_that_run_dry_together_all_go_on() -> anyhow::Result<()> {
    let shop = Shop::open("streams-dry", "60s").await?;
    let input = events(20);
    for kind in KINDS {
        let acts = input
            .split_inclusive("\n\n")
            .map(|event| Act::Send(event.into()));
        let acts = acts.chain([Act::End]).collect();
        shop.upstream.set(&shop.path(kind, "dry"), &[], acts);
    }
    let path = shop.path(KINDS[0], "dry");
    let session = shop.session(&path).await?;
    let first = shop.read(KINDS[0], &path, &session.open()).await?;
    let (mut readers, mut deposits) = (vec![first], 1);
    for kind in KINDS.iter().cycle().skip(1).take(7) {
        let path = shop.path(*kind, "dry");
        loop {
            // Streams that wait may be quicker to take it.
            shop.top_up(&session, &path).await?;
            deposits += 1;
            ensure!(deposits < 50, "the others have taken it all");
            if let Ok(reader) = shop.read(*kind, &path, &session.bearer()?).await {
                readers.push(reader);
                break;
            }
        }
    }
    shop.top_up(&session, "/much/x").await?;
    for reader in &mut readers {
        reader.read_to_end().await?;
        assert_eq!(strip(&reader.text), input);
    }
    let paid_in = 10 * deposits + 6_000;
    assert_eq!(shop.close(&session, &path).await?, paid_in - 160);
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_tops_up_ends_and_says_so() -> anyhow::Result<()> {
    let shop = Shop::open("streams-hold", "1s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "hold");
        shop.upstream.set(
            &path,
            &[],
            vec![Act::Send(events(12).into_bytes()), Act::Stay],
        );
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        reader.until("session-timeout").await?;
        reader.until("}\n\n").await?;
        // The upstream stays, so there is no clean end.
        assert!(reader.read_to_end().await.is_err(), "{kind:?}");
        assert_eq!(strip(&reader.text), events(10), "{kind:?}");
        assert_eq!(reader.receipt()?["units"], 10);
        assert_eq!(shop.close(&session, &path).await?, 0);

        // An upstream that has ended: a clean end.
        let path = shop.path(kind, "hold-ended");
        let all = events(12);
        let (first, rest) = all.split_at(events(3).len());
        let acts = vec![
            Act::Send(first.into()),
            Act::Pause(50),
            Act::SendAndEnd(rest.into()),
        ];
        shop.upstream.set(&path, &[], acts);
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        reader.read_to_end().await?;
        assert_eq!(strip(&reader.text), events(10), "{kind:?}");
        assert!(reader.text.contains("session-timeout"));
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_session_is_closed_ends_and_says_so() -> anyhow::Result<()> {
    let shop = Shop::open("streams-closed", "60s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "closed");
        shop.upstream.set(
            &path,
            &[],
            vec![Act::Send(events(12).into_bytes()), Act::Stay],
        );
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        reader.until("payment-need-topup").await?;
        assert_eq!(shop.close(&session, &path).await?, 0);
        reader.until("session-timeout").await?;
        reader.until("}\n\n").await?;
        assert_eq!(strip(&reader.text), events(10));
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_counted_is_refused_and_costs_nothing() -> anyhow::Result<()> {
    let shop = Shop::open("streams-compressed", "60s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "compressed");
        let acts = vec![
            Act::Send(b"not to be read".to_vec()),
            Act::Pause(20),
            Act::End,
        ];
        shop.upstream
            .set(&path, &[("content-encoding", "br")], acts);
        let session = shop.session(&path).await?;
        let mut reader = shop.read_any(kind, &path, &session.open()).await?;
        reader.read_to_end().await?;
        assert_eq!(reader.status(), 502, "{kind:?}");
        assert_eq!(reader.header("payment-receipt"), "");
        assert!(reader.header("content-encoding").is_empty());
        assert!(reader.text.contains("compressed"), "{}", reader.text);
        assert_eq!(shop.close(&session, &path).await?, 10, "{kind:?}");
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_delivered_is_paid_when_either_side_goes() -> anyhow::Result<()> {
    let shop = Shop::open("streams-gone", "60s").await?;
    for kind in KINDS {
        // The upstream breaks off.
        let path = shop.path(kind, "reset");
        let acts = vec![
            Act::Send(events(4).into_bytes()),
            Act::Pause(50),
            Act::Reset,
        ];
        shop.upstream.set(&path, &[], acts);
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        assert!(reader.read_to_end().await.is_err(), "{kind:?}");
        // What was still waiting for its units is lost, and not paid.
        let delivered = reader.text.matches("data").count();
        assert_eq!(reader.text, events(delivered), "{kind:?}");
        let left = shop.close(&session, &path).await?;
        assert_eq!(left + delivered as u64, 10, "{kind:?}");

        // The client leaves while the stream is held.
        let path = shop.path(kind, "left");
        shop.upstream.set(
            &path,
            &[],
            vec![Act::Send(events(12).into_bytes()), Act::Stay],
        );
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        reader.until("payment-need-topup").await?;
        drop(reader);
        shop.top_up(&session, &path).await?;
        let left = shop.close(&session, &path).await?;
        // A unit may have been bought between the top-up and the end of the connection.
        assert!((8..=10).contains(&left), "{kind:?}: {left}");

        // A stream without events.
        let path = shop.path(kind, "empty");
        shop.upstream.set(
            &path,
            &[],
            vec![Act::Send(b": nothing\n\n".to_vec()), Act::End],
        );
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        reader.read_to_end().await?;
        assert_eq!(shop.close(&session, &path).await?, 10, "{kind:?}");
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_stream_of_events_costs_one_unit() -> anyhow::Result<()> {
    let shop = Shop::open("streams-whole", "60s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "whole");
        let headers = [("content-type", "text/plain"), ("content-encoding", "br")];
        shop.upstream.set(
            &path,
            &headers,
            vec![Act::Send(events(12).into_bytes()), Act::End],
        );
        let session = shop.session(&path).await?;
        let mut reader = shop.read_any(kind, &path, &session.open()).await?;
        reader.read_to_end().await?;
        assert_eq!(
            (reader.status(), &*reader.text),
            (200, &*events(12)),
            "{kind:?}"
        );
        assert_eq!(shop.close(&session, &path).await?, 9, "{kind:?}");
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_large_chunk_a_top_up_lets_all_go_without_more_from_the_upstream()
-> anyhow::Result<()> {
    let shop = Shop::open("streams-large", "60s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "large");
        let event = format!("data: {}\n\n", "x".repeat(1_500));
        let acts = vec![Act::Send(event.repeat(14).into_bytes()), Act::Stay];
        shop.upstream.set(&path, &[], acts);
        let session = shop.session(&path).await?;
        let mut reader = shop.read(kind, &path, &session.open()).await?;
        reader.until("event: payment-need-topup\n").await?;
        let count = |reader: &shop::Reader| reader.text.matches("data: x").count();
        assert_eq!(count(&reader), 10, "{kind:?}");
        shop.top_up(&session, &path).await?;
        while count(&reader) < 14 {
            reader.until("data: x").await?;
        }
        drop(reader);
        assert_eq!(shop.close(&session, &path).await?, 6, "{kind:?}");
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_head_request_costs_one_unit() -> anyhow::Result<()> {
    let shop = Shop::open("streams-head", "60s").await?;
    for kind in KINDS {
        let path = shop.path(kind, "head");
        let session = shop.session(&path).await?;
        shop.open_session(&session, &path).await?;
        shop.upstream.set(&path, &[], vec![Act::End]);
        let bearer = session.bearer()?;
        for _ in 0..3 {
            assert_eq!(shop.head(kind, &path, &bearer).await?, 200, "{kind:?}");
        }
        assert_eq!(shop.close(&session, &path).await?, 7, "{kind:?}");
    }
    shop.check().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_keeps_its_session_from_being_closed_as_idle() -> anyhow::Result<()> {
    let shop = Shop::open("streams-long", "60s").await?;
    let path = shop.path(KINDS[0], "long");
    let acts = vec![
        Act::Send(b"one".to_vec()),
        Act::Pause(16_000),
        Act::Send(b", two".to_vec()),
        Act::End,
    ];
    let headers = [("content-type", "text/plain")];
    shop.upstream.set(&path, &headers, acts);
    let session = shop.session(&path).await?;
    let mut reader = shop.read(KINDS[0], &path, &session.open()).await?;
    reader.within(Duration::from_secs(30)).read_to_end().await?;
    assert_eq!(reader.text, "one, two");
    assert_eq!(shop.close(&session, &path).await?, 9);
    shop.check().await
}

/// Only a stream keeps the session alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_keeps_its_session_from_being_closed_as_idle() -> anyhow::Result<()> {
    let shop = Shop::open("streams-idle", "60s").await?;
    let path = shop.path(KINDS[0], "idle");
    // Idle sessions are closed after ten seconds here.
    let acts = vec![
        Act::Send(events(1).into_bytes()),
        Act::Pause(16_000),
        Act::Send(b"data: 2\n\n".to_vec()),
        Act::End,
    ];
    shop.upstream.set(&path, &[], acts);
    let session = shop.session(&path).await?;
    let mut reader = shop.read(KINDS[0], &path, &session.open()).await?;
    reader.within(Duration::from_secs(30)).read_to_end().await?;
    assert_eq!(reader.receipt()?["units"], 2);
    assert_eq!(shop.close(&session, &path).await?, 8);
    shop.check().await
}
