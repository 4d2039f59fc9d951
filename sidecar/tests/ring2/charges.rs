//! Charges: invoices, claims, and claims that are abandoned.

use std::collections::HashSet;
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use protocol::amount::Sat;
use protocol::api::charge::{
    ABANDON_PATH, AbandonRequest, Attempt, CHARGE_OFFERS_PATH, CLAIM_PATH, ChargeOffer,
    ChargeOffers, ChargeOffersRequest, Claim, ClaimRequest, ClaimsAnswer, MAX_ABANDONED,
    MAX_CLAIMS,
};
use protocol::hash::Preimage;
use protocol::time::UnixSeconds;
use serde::Serialize;
use serde_json::{Value, json};
use sidecar::domain::claim::CALLOUT_TIMEOUT;
use sidecar::domain::ports::Ledger as _;
use tempfile::TempDir;

use crate::process::{Program, write_config_on};
use crate::support::{Answer, Api, Sidecar, Store, VM, claims, eventually, on_each_ledger, pay};

on_each_ledger! {
    a_paid_charge_is_won_once_and_is_a_sale,
    no_invoice_is_for_a_charge_and_for_a_token,
    of_many_presentations_at_once_one_wins,
    claims_in_one_call_are_decided_in_their_order_each_for_itself,
    an_abandoned_attempt_costs_the_buyer_nothing,
    what_must_be_settled_is_won_only_when_the_node_says_so,
    the_longest_list_of_abandoned_attempts_is_read,
    a_kill_keeps_claims_and_what_was_abandoned_and_no_secret_is_left_behind,
}

/// The price of `support::template` in the other unit.
const PRICE: u64 = 10;

fn wish(count: u16) -> ChargeOffersRequest {
    ChargeOffersRequest {
        vm: VM.to_owned(),
        request_id: VM.to_owned(),
        count,
        service: "weather".to_owned(),
        amount: Sat::new(PRICE).unwrap(),
        client: None,
    }
}

pub(crate) fn claim_of(offer: &ChargeOffer, attempt: u8) -> ClaimRequest {
    ClaimRequest {
        attempt: format!("{attempt:032x}"),
        payment_hash: offer.payment_hash,
        challenge_id: "7LCHF9ff5XBms3Src3hlyNwshUVNwr4sGcurbKhCdWQ".to_owned(),
        service: "weather".to_owned(),
        amount: Sat::new(PRICE).unwrap(),
        expires: offer.expires,
        settled: false,
    }
}

fn abandon_of(claims: &[ClaimRequest]) -> AbandonRequest {
    let attempt = |claim: &ClaimRequest| Attempt {
        attempt: claim.attempt.clone(),
        payment_hash: claim.payment_hash,
    };
    AbandonRequest {
        vm: VM.to_owned(),
        attempts: claims.iter().map(attempt).collect(),
    }
}

async fn post(api: Api, path: &str, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).unwrap();
    api.send(api.request("POST", path, body)).await
}

pub(crate) async fn offer(api: Api) -> ChargeOffer {
    let answer = post(api, CHARGE_OFFERS_PATH, &wish(1)).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let mut offers: ChargeOffers = serde_json::from_slice(&answer.body).unwrap();
    offers.offers.remove(0)
}

pub(crate) async fn claim(api: Api, request: &ClaimRequest) -> Claim {
    let claims = claim_all(api, from_ref(request)).await;
    let [claim] = claims[..] else {
        panic!("{claims:?}")
    };
    claim
}

async fn claim_all(api: Api, requests: &[ClaimRequest]) -> Vec<Claim> {
    let answer = post(api, CLAIM_PATH, &claims(requests)).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let answer: ClaimsAnswer = serde_json::from_slice(&answer.body).unwrap();
    answer.claims
}

async fn abandon(api: Api, claims: &[ClaimRequest]) {
    let answer = post(api, ABANDON_PATH, &abandon_of(claims)).await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({})),
        "{:?}",
        answer.body
    );
}

async fn outcomes(sidecar: &Sidecar, outcome: &str) -> Option<f64> {
    let line = format!("boltgate_sidecar_charge_claims_total{{outcome=\"{outcome}\"}}");
    sidecar.metric(&line).await
}

async fn a_paid_charge_is_won_once_and_is_a_sale(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let offer = offer(sidecar.api).await;
    assert_eq!(
        offer.show_until + 120,
        offer.expires,
        "as long as other offers"
    );
    let preimage = sidecar.pay(&offer.invoice).await.unwrap();
    let preimage: Preimage = preimage.parse().unwrap();
    assert_eq!(preimage.hash(), offer.payment_hash);

    let first = claim_of(&offer, 1);
    let begun = Instant::now();
    assert_eq!(claim(sidecar.api, &first).await, Claim::Won);
    assert_eq!(claim(sidecar.api, &first).await, Claim::Won, "lost answer");
    let other = claim_of(&offer, 2);
    let later = claim(sidecar.api, &other).await;
    assert!(later == Claim::Busy || begun.elapsed() >= CALLOUT_TIMEOUT);
    let mut answers = HashSet::new();
    eventually("the claim is old", async || {
        let answer = claim(sidecar.api, &other).await;
        answers.insert(format!("{answer:?}"));
        (answer == Claim::Lost).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= CALLOUT_TIMEOUT);
    assert!(!answers.contains("Won"));
    assert_eq!(claim(sidecar.api, &first).await, Claim::Won);

    let ledger = sidecar.open_ledger().await;
    let sales = eventually("the sale", async || {
        Some(ledger.sales(UnixSeconds(0), 10).await.unwrap()).filter(|sales| !sales.is_empty())
    })
    .await;
    assert_eq!(sales.len(), 1);
    assert_eq!(sales[0].scheme.as_str(), "charge");
    assert_eq!(sales[0].payment_hash, offer.payment_hash);
    assert_eq!(sales[0].amount.get(), PRICE * 1_000);
    let sold = "boltgate_sidecar_sales_total{scheme=\"charge\"}";
    assert_eq!(sidecar.metric(sold).await, Some(1.0));
    assert_eq!(outcomes(&sidecar, "won").await, Some(3.0));
    assert!(outcomes(&sidecar, "busy").await.unwrap() >= 1.0);
    assert_eq!(outcomes(&sidecar, "lost").await, Some(1.0));
}

async fn no_invoice_is_for_a_charge_and_for_a_token(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let mut hashes = HashSet::new();
    for _ in 0..8 {
        // The same service and price: the pools differ by scheme alone.
        for token in sidecar.api.offers(4).await.offers {
            assert!(hashes.insert(token.payment_hash));
        }
        let answer = post(sidecar.api, CHARGE_OFFERS_PATH, &wish(4)).await;
        let charges: ChargeOffers = serde_json::from_slice(&answer.body).unwrap();
        for charge in charges.offers {
            assert!(hashes.insert(charge.payment_hash.to_string()));
        }
    }
}

#[tokio::test]
async fn charges_count_against_the_limits_of_all_offers() {
    let sidecar = Sidecar::dev("offers: { perSecond: 1, burst: 4 }").await;
    for _ in 0..2 {
        sidecar.api.offers(1).await;
        offer(sidecar.api).await;
    }
    let refused = post(sidecar.api, CHARGE_OFFERS_PATH, &wish(4)).await;
    let refused = match refused.status {
        // A slow run got one more.
        StatusCode::OK => post(sidecar.api, CHARGE_OFFERS_PATH, &wish(4)).await,
        _ => refused,
    };
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.header("retry-after").is_some());
}

async fn of_many_presentations_at_once_one_wins(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let (api, offer) = (sidecar.api, offer(sidecar.api).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let request = claim_of(&offer, n);
        tasks.spawn(async move { claim(api, &request).await });
    }
    let answers = tasks.join_all().await;
    let won = answers.iter().filter(|claim| **claim == Claim::Won);
    assert_eq!(won.count(), 1, "{answers:?}");
}

async fn claims_in_one_call_are_decided_in_their_order_each_for_itself(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let mut offers = vec![];
    for _ in 0..MAX_CLAIMS / 2 {
        offers.push(offer(sidecar.api).await);
    }
    // Of each payment two attempts, and the longest call there may be.
    let twice = offers
        .iter()
        .flat_map(|offer| [claim_of(offer, 1), claim_of(offer, 2)]);
    let decided = claim_all(sidecar.api, &twice.collect::<Vec<_>>()).await;
    assert_eq!(decided.len(), MAX_CLAIMS);
    for pair in decided.chunks(2) {
        assert_eq!(pair, [Claim::Won, Claim::Busy]);
    }
    // The same answer once more, whoever else is in the call.
    let again = [
        claim_of(&offers[1], 2),
        claim_of(&offers[0], 1),
        claim_of(&offer(sidecar.api).await, 1),
    ];
    let decided = claim_all(sidecar.api, &again).await;
    assert_eq!(decided, [Claim::Busy, Claim::Won, Claim::Won]);
}

async fn an_abandoned_attempt_costs_the_buyer_nothing(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let (api, offer) = (sidecar.api, offer(sidecar.api).await);
    let [first, second, third] = [1, 2, 3].map(|n| claim_of(&offer, n));
    assert_eq!(claim(api, &first).await, Claim::Won);
    // The third overtakes its own claim, and one that holds nothing is abandoned with it.
    abandon(api, &[first.clone(), third.clone()]).await;
    abandon(api, &[first.clone(), third.clone()]).await;
    assert_eq!(claim(api, &third).await, Claim::Busy);
    assert_eq!(claim(api, &second).await, Claim::Won);
    for late in [&first, &third] {
        assert_eq!(claim(api, late).await, Claim::Busy);
    }
    let freed = "boltgate_sidecar_charge_claims_freed_total";
    assert_eq!(sidecar.metric(freed).await, Some(1.0));
    let abandoned = "boltgate_sidecar_charge_attempts_abandoned_total";
    assert_eq!(sidecar.metric(abandoned).await, Some(4.0));
}

async fn what_must_be_settled_is_won_only_when_the_node_says_so(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let (api, offer) = (sidecar.api, offer(sidecar.api).await);
    let settled = |n| ClaimRequest {
        settled: true,
        ..claim_of(&offer, n)
    };
    let begun = Instant::now();
    assert_eq!(claim(api, &settled(1)).await, Claim::Unsettled);
    assert!(begun.elapsed() < CALLOUT_TIMEOUT + Duration::from_secs(1));
    assert_eq!(outcomes(&sidecar, "unsettled").await, Some(1.0));
    // Asked before it is paid, won as soon as it is.
    let early = settled(2);
    let waiting = tokio::spawn(async move { claim(api, &early).await });
    sidecar.pay(&offer.invoice).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Claim::Won, "nothing was claimed");
    assert_eq!(claim(api, &settled(2)).await, Claim::Won);
    assert_eq!(claim(api, &settled(3)).await, Claim::Busy);
}

#[tokio::test]
async fn only_who_has_the_token_may_ask_and_nonsense_is_refused() {
    let sidecar = Sidecar::dev("").await;
    let (api, offer) = (sidecar.api, offer(sidecar.api).await);
    let good = claim_of(&offer, 1);
    let requests = [
        (CHARGE_OFFERS_PATH, json!(wish(1))),
        (CLAIM_PATH, json!(claims(from_ref(&good)))),
        (ABANDON_PATH, json!(abandon_of(from_ref(&good)))),
    ];
    let with = |base: &Value, field: &str, value: Value| {
        let mut changed = base.clone();
        changed[field] = value;
        changed
    };
    let [offers, claiming, abandons] = requests.clone().map(|(_, body)| body);
    // Between two that are good.
    let with_claim = |field: &str, value: Value| {
        let broken = with(&json!(good), field, value);
        with(&claiming, "claims", json!([good, broken, good]))
    };
    let too_many = vec![&good; MAX_CLAIMS + 1];
    let many = vec![json!(abandon_of(from_ref(&good)).attempts[0]); MAX_ABANDONED + 1];
    for (path, body) in requests {
        for token in ["Bearer wrong", "Basic cmluZzI="] {
            let mut request = api.request("POST", path, serde_json::to_vec(&body).unwrap());
            let headers = request.headers_mut();
            headers.insert("authorization", token.parse().unwrap());
            let answer = api.send(request).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        }
        let answer = api.send(api.request("GET", path, "")).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        for broken in [
            json!({}),
            with(&body, "vm", json!("x")),
            with(&body, "preimage", json!("00")),
        ] {
            let answer = post(api, path, &broken).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {broken}");
        }
    }
    for (path, broken) in [
        (CHARGE_OFFERS_PATH, with(&offers, "count", json!(0))),
        (CHARGE_OFFERS_PATH, with(&offers, "count", json!(257))),
        (CHARGE_OFFERS_PATH, with(&offers, "amount", json!(0))),
        (CHARGE_OFFERS_PATH, with(&offers, "amount", json!(0.5))),
        (CHARGE_OFFERS_PATH, with(&offers, "service", json!("a b"))),
        (CHARGE_OFFERS_PATH, with(&offers, "request_id", json!(""))),
        (CLAIM_PATH, with(&claiming, "claims", json!([]))),
        (CLAIM_PATH, with(&claiming, "claims", json!(too_many))),
        (CLAIM_PATH, with_claim("attempt", json!("00"))),
        (CLAIM_PATH, with_claim("payment_hash", json!("00"))),
        (CLAIM_PATH, with_claim("challenge_id", json!(""))),
        (CLAIM_PATH, with_claim("challenge_id", json!("a\nb"))),
        (
            CLAIM_PATH,
            with_claim("challenge_id", json!("a".repeat(129))),
        ),
        (CLAIM_PATH, with_claim("service", json!(""))),
        (CLAIM_PATH, with_claim("amount", json!(0))),
        (CLAIM_PATH, with_claim("expires", json!(u64::MAX))),
        (CLAIM_PATH, with_claim("expires", json!(-1))),
        (ABANDON_PATH, with(&abandons, "attempts", json!(many))),
        (
            ABANDON_PATH,
            with(&abandons, "attempts", json!([{ "attempt": "00" }])),
        ),
    ] {
        let answer = post(api, path, &broken).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {broken}");
    }
    assert_eq!(claim(api, &good).await, Claim::Won, "nothing of it counted");
}

async fn the_longest_list_of_abandoned_attempts_is_read(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let offer = offer(sidecar.api).await;
    let abandoned = vec![claim_of(&offer, 1); MAX_ABANDONED];
    abandon(sidecar.api, &abandoned).await;
    assert_eq!(claim(sidecar.api, &abandoned[0]).await, Claim::Busy);
    assert_eq!(claim(sidecar.api, &claim_of(&offer, 2)).await, Claim::Won);
}

/// Whether the preimage is in ledger or log, as text or as bytes.
fn is_in_files(dir: &Path, preimage: &str) -> bool {
    let bytes = preimage.parse::<Preimage>().unwrap();
    // The dev network's own node, which has to know it, is not ours.
    let ours = |name: &str| name.starts_with("ledger.db") && !name.contains("dev");
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    let files = files.filter(|file| {
        let name = file.file_name().into_string().unwrap();
        ours(&name) || name == "log"
    });
    let files: Vec<_> = files
        .map(|file| std::fs::read(file.path()).unwrap())
        .collect();
    assert!(!files.is_empty(), "the log, and the ledger if it is a file");
    files.iter().any(|file| {
        let lower = file.to_ascii_lowercase();
        lower
            .windows(64)
            .any(|window| window == preimage.as_bytes())
            || file.windows(32).any(|window| window == bytes.expose())
    })
}

async fn a_kill_keeps_claims_and_what_was_abandoned_and_no_secret_is_left_behind(store: Store) {
    let dir = TempDir::new().unwrap();
    write_config_on(&store, dir.path());
    let program = Program::start(dir.path()).await;
    let (api, taken, freed) = (
        program.api,
        offer(program.api).await,
        offer(program.api).await,
    );
    let preimage = pay(program.dev, &taken.invoice).await.unwrap();
    assert_eq!(claim(api, &claim_of(&taken, 1)).await, Claim::Won);
    assert_eq!(claim(api, &claim_of(&freed, 1)).await, Claim::Won);
    abandon(api, &[claim_of(&freed, 1), claim_of(&freed, 2)]).await;
    program.kill();

    let mut program = Program::start(dir.path()).await;
    let api = program.api;
    assert_eq!(claim(api, &claim_of(&taken, 1)).await, Claim::Won);
    eventually("the claim is old", async || {
        let answer = claim(api, &claim_of(&taken, 2)).await;
        assert_ne!(answer, Claim::Won);
        (answer == Claim::Lost).then_some(())
    })
    .await;
    assert_eq!(claim(api, &claim_of(&freed, 2)).await, Claim::Busy);
    assert_eq!(claim(api, &claim_of(&freed, 3)).await, Claim::Won);
    let ledger = store.open(dir.path()).await;
    eventually("the sale", async || {
        let sales = ledger.sales(UnixSeconds(0), 10).await.unwrap();
        (sales.len() == 1 && sales[0].scheme.as_str() == "charge").then_some(())
    })
    .await;
    let settled = ClaimRequest {
        settled: true,
        ..claim_of(&taken, 1)
    };
    assert_eq!(claim(api, &settled).await, Claim::Won);

    program.signal();
    assert_eq!(program.ended().await.code(), Some(0));
    assert!(!is_in_files(dir.path(), &preimage));
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("\"message\":\"claim\""), "the log is there");
    assert!(!log.contains(crate::support::TOKEN));
}
