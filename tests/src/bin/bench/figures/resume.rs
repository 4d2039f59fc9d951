//! How long a stream that has run dry goes on waiting after its session was topped up.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    http_client::{Http, Streaming},
    paths,
    payment::{Session, offer_of, present},
    sidecar::Sidecar,
    wallet::Wallet,
};

use super::Figure;
use crate::{
    books::deposit,
    envoy::Gate,
    load::median,
    sse::{self, Cut, Pacing},
    subjects::{SHORT_DEPOSIT, Subject, plugin_with_payment, server, sidecar},
};

const TIMES: usize = 25;
const PATIENCE: Duration = Duration::from_secs(15);
/// More events than a deposit pays for, and no more than two do.
const CUT: Cut = Cut {
    chunks: 1,
    events: SHORT_DEPOSIT as usize + 5,
};

pub(super) async fn measure(folder: &Path) -> Result<Vec<Figure>> {
    let pacing = Pacing::new();
    let upstream = server(&pacing)?;
    let seller = sidecar(&folder.join("sidecar-resume"), "0ms", 64).await?;
    let gate = Gate::Wasm {
        module: &paths::filter_wasm()?.display().to_string(),
        config: plugin_with_payment(),
    };
    let envoy = Subject::start(folder, "resume", &gate, upstream, seller.address(), 1).await?;
    let http = Http::new(envoy.address);
    let (mut asked, mut credited) = (vec![], vec![]);
    for _ in 0..TIMES {
        let [from_asked, from_credited] = resume(&http, &seller, &pacing).await?;
        asked.push(from_asked);
        credited.push(from_credited);
    }
    let p50 =
        |name, times: &mut [Duration]| Figure::new(name, median(times).as_secs_f64() * 1e3, "ms");
    Ok(vec![
        p50("resume: p50 from credited to the next event", &mut credited),
        p50("resume: p50 from topUp sent to the next event", &mut asked),
    ])
}

/// From topUp sent, and from its answer, to the next event.
async fn resume(http: &Http, seller: &Sidecar, pacing: &Pacing) -> Result<[Duration; 2]> {
    let path = format!("/short/{}", sse::path(0, CUT));
    let session = deposit(http, seller, &path).await?;
    let top_up = top_up(http, seller, &session, &path).await?;
    // All of it, but its end: what has ended leaves as a whole.
    pacing.allow(0, CUT.chunks);
    let request = http.get(&path).header("authorization", session.open());
    let mut stream = request.stream().await?;
    ensure!(
        stream.status == 200,
        "a stream is answered {}",
        stream.status
    );
    let mut text = String::new();
    while !text.contains("event: payment-need-topup") {
        text.push_str(&piece(&mut stream).await?);
    }
    let sent = Instant::now();
    let reading = async {
        let next = piece(&mut stream).await?;
        anyhow::Ok((next, Instant::now()))
    };
    let topping_up = async {
        let answer = present(http, "/short/", &top_up).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        anyhow::Ok(Instant::now())
    };
    let ((next, resumed), credited) = tokio::try_join!(reading, topping_up)?;
    text.push_str(&next);
    pacing.allow(0, 1);
    text.push_str(&stream.rest(PATIENCE).await?);
    let events = text.matches("data: {\"id\"").count();
    ensure!(
        events == CUT.events && text.ends_with("[DONE]\n\n"),
        "{text}"
    );
    Ok([
        resumed.duration_since(sent),
        resumed.saturating_duration_since(credited),
    ])
}

async fn piece(stream: &mut Streaming) -> Result<String> {
    let piece = stream.piece(PATIENCE).await?.context("it has ended")?;
    Ok(String::from_utf8(piece.to_vec())?)
}

/// A further deposit, paid and not yet presented.
async fn top_up(http: &Http, seller: &Sidecar, session: &Session, path: &str) -> Result<String> {
    // Another client: this one is shown the same invoices again.
    let answer = http.get(path).header("x-forwarded-for", "10.9.9.9").send();
    let offer = offer_of(&answer.await?, "session")?;
    let preimage = offer.pay(&Wallet::Dev(seller.dev_address())).await?;
    session.top_up(&offer, &preimage)
}
