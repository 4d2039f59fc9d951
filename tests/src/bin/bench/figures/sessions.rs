//! What a hundred thousand open sessions cost: memory of the sidecar, and CPU per call and request.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{eventually, http_client::Http, paths, sidecar::Sidecar};
use futures_util::{StreamExt as _, stream};
use protocol::{
    hash::{PaymentHash, sha256},
    lease::{
        AccountId, AccountState, Answer, HolderId, LEASES_PATH, LeasesAnswer, LeasesRequest, Report,
    },
};
use rand::seq::IndexedRandom as _;
use rusqlite::{Connection, params};

use super::Figure;
use crate::{
    cases::{ok_with_receipt, paid},
    cpu,
    envoy::Gate,
    load::{Connections, Load},
    mint::Mint,
    sse::Pacing,
    subjects::{BEARER, Subject, plugin_with_payment, server, sidecar, with_ledger},
};

const SESSIONS: usize = 100_000;
/// Sessions whose bearers are used by turns, in Envoys of their own. A lease that rests for two
/// seconds is returned: of more sessions in turn each request would be the first again.
const IN_USE: [usize; 2] = [1, 1_000];
/// Sessions that are used for the first time.
const FIRST: usize = 2_000;
/// Connections to Envoy: whoever waits for a lease must not keep the others from using theirs.
const CONNECTIONS: usize = 96;
/// Calls at a time.
const CALLS: usize = 16;
/// What each has been paid, in satoshis.
const DEPOSIT: u64 = 1_000_000;
/// What a report asks for beyond what it has spent.
const MORE: u64 = 10;
/// The largest number of reports in one call.
const BATCH: usize = protocol::lease::MAX_REPORTS;

/// A session with a bearer that is good for it.
struct Open {
    id: PaymentHash,
    bearer: String,
}

pub(super) async fn measure(folder: &Path, requests: usize) -> Result<Vec<Figure>> {
    let mut seller = sidecar(&folder.join("sidecar-sessions"), "0ms", 64).await?;
    let mut mint = Mint::of(&seller).await?;
    let mut sessions = vec![];
    for _ in 0..SESSIONS {
        let (id, bearer) = mint.bearer()?;
        sessions.push(Open { id, bearer });
    }
    let first = sessions.get(..1).context("a session")?;
    let generation = mint.generation();
    with_ledger(&mut seller, |ledger| open(ledger, first, generation)).await?;
    let pid = u32::try_from(seller.running()?.id())?;
    let with_one = cpu::resident_megabytes(pid)?;
    let call_of_one = lease_calls(&seller, first).await?;

    let rest = sessions.get(1..).context("sessions")?;
    with_ledger(&mut seller, |ledger| open(ledger, rest, generation)).await?;
    let pid = u32::try_from(seller.running()?.id())?;
    let some: Vec<&Open> = sessions.sample(&mut rand::rng(), 1_000).collect();
    let call_of_many = lease_calls(&seller, some).await?;
    let in_batch = batches(&seller, &sessions).await?;
    let with_all = cpu::resident_megabytes(pid)?;

    let mut figures = vec![
        Figure::new("sessions: sidecar with 1", with_one, "MB resident"),
        Figure::new(
            "sessions: sidecar with 100000 leased",
            with_all,
            "MB resident",
        ),
        Figure::new(
            "sessions: sidecar per lease call, 1 session",
            call_of_one,
            "us CPU",
        ),
        Figure::new(
            "sessions: sidecar per lease call, any of 100000",
            call_of_many,
            "us CPU",
        ),
        Figure::new(
            format!("sessions: sidecar per report in calls of {BATCH}"),
            in_batch,
            "us CPU",
        ),
    ];
    let upstream = server(&Pacing::new())?;
    for count in IN_USE {
        let envoy = start(folder, &count.to_string(), upstream, seller.address()).await?;
        let in_use = sessions.get(..count).context("sessions")?;
        let name = format!("sessions: Envoy per bearer, {count} in use");
        let cost = bearers(&envoy, in_use, requests, &seller).await?;
        figures.push(Figure::new(name, cost, "us CPU"));
    }
    let envoy = start(folder, "first", upstream, seller.address()).await?;
    let unused = sessions.get(SESSIONS - FIRST..).context("sessions")?;
    let cost = first_bearers(&envoy, unused).await?;
    figures.push(Figure::new(
        "sessions: Envoy per bearer, first of its session",
        cost,
        "us CPU",
    ));
    Ok(figures)
}

/// Writes sessions into a ledger at rest, as if each had been opened.
fn open(ledger: &Path, sessions: &[Open], generation: u8) -> Result<()> {
    let mut ledger = Connection::open(ledger)?;
    let change = ledger.transaction()?;
    let mut insert = change.prepare(
        "INSERT INTO sessions (session_id, service, deposited_sat, return_invoice, return_hash,
                               return_expires_at, close_by, node, generation, newest_generation,
                               idle_timeout_seconds, opened_ms, active_ms)
         VALUES (?1, 'weather', ?2, ?3, ?4, 4102444800, 4102444800, ?5, ?6, ?6, 31622400, 0, 0)",
    )?;
    // As long as a real one.
    let invoice = format!("lnbcrt1{}", "q".repeat(270));
    for session in sessions {
        let return_hash = sha256(&session.id.0);
        let amount = i64::try_from(DEPOSIT)?;
        insert.execute(params![
            session.id.0,
            amount,
            invoice,
            return_hash,
            [2_u8; 33],
            generation
        ])?;
    }
    drop(insert);
    change.commit()?;
    Ok(())
}

/// What the ledger says was spent of all sessions.
fn spent(ledger: &Path) -> Result<u64> {
    let ledger = Connection::open(ledger)?;
    ledger.busy_timeout(Duration::from_secs(5))?;
    let sum: i64 = ledger.query_row("SELECT sum(spent_sat) FROM sessions", [], |row| row.get(0))?;
    Ok(sum.try_into()?)
}

/// One lease as a VM knows it.
#[derive(Clone, Copy)]
struct Lease {
    account: AccountId,
    holder: HolderId,
    granted: u64,
}

impl Lease {
    fn new(session: &Open) -> Self {
        Self {
            account: AccountId(session.id.0),
            holder: HolderId(rand::random()),
            granted: 0,
        }
    }

    /// All that was granted is spent, and more is wanted, or no more.
    const fn report(&self, release: bool) -> Report {
        Report {
            account: self.account,
            holder: self.holder,
            used: self.granted,
            returned: 0,
            want: self.granted + if release { 0 } else { MORE },
            need: 0,
            price: 1,
            release,
        }
    }
}

/// Makes one call for these leases, and takes note of what they are granted.
async fn report(http: &Http, leases: &mut [Lease]) -> Result<()> {
    let said = call(http, leases, false).await?;
    for (lease, said) in leases.iter_mut().zip(said) {
        let is_good = said.holder == lease.holder
            && said.state == AccountState::Open
            && !said.r#final
            && said.granted == lease.granted + MORE;
        ensure!(is_good, "not leased: {said:?}");
        lease.granted = said.granted;
    }
    Ok(())
}

/// Returns these leases, as a VM does that does not use them any more.
async fn release(http: &Http, leases: &[Lease]) -> Result<()> {
    for leases in leases.chunks(BATCH) {
        let said = call(http, leases, true).await?;
        ensure!(said.iter().all(|said| said.r#final), "not released");
    }
    Ok(())
}

async fn call(http: &Http, leases: &[Lease], release: bool) -> Result<Vec<Answer>> {
    let reports = leases.iter().map(|lease| lease.report(release));
    let request = LeasesRequest {
        vm: "00000000000000000000000000000bec".to_owned(),
        reports: reports.collect(),
    };
    let answer = http
        .post(LEASES_PATH, serde_json::to_vec(&request)?)
        .header("authorization", format!("Bearer {BEARER}"))
        .send()
        .await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let said: LeasesAnswer = serde_json::from_slice(&answer.body)?;
    ensure!(said.answers.len() == leases.len(), "answers are missing");
    Ok(said.answers)
}

/// CPU of the sidecar for each call with one report, by many VMs at once: of a lease that is known.
async fn lease_calls(seller: &Sidecar, sessions: impl IntoIterator<Item = &Open>) -> Result<f64> {
    let http = Http::h2(seller.address());
    let mut leases: Vec<Lease> = sessions.into_iter().map(Lease::new).collect();
    // As many VMs at once, however many sessions.
    while leases.len() < CALLS {
        let Some(lease) = leases.first().copied() else {
            return Ok(0.0);
        };
        let holder = HolderId(rand::random());
        leases.push(Lease { holder, ..lease });
    }
    let before = spent(&seller.ledger())?;
    let (mut cost, mut measured) = (0.0, 0.0);
    for round in 0..=3_000 / leases.len() {
        let begun = Cost::begin(seller)?;
        let calls = leases
            .iter_mut()
            .map(|lease| report(&http, std::slice::from_mut(lease)));
        let done: Vec<Result<()>> = stream::iter(calls).buffer_unordered(CALLS).collect().await;
        let count = done.len();
        done.into_iter().collect::<Result<()>>()?;
        // In the first they begin.
        if round > 0 {
            cost += begun.us_per(count)?;
            measured += 1.0;
        }
    }
    release(&http, &leases).await?;
    let used: u64 = leases.iter().map(|lease| lease.granted).sum();
    let found = spent(&seller.ledger())? - before;
    ensure!(found == used, "{found} spent, not {used}");
    Ok(cost / measured)
}

/// CPU of the sidecar for each of many reports in one call; each session is reported twice.
async fn batches(seller: &Sidecar, sessions: &[Open]) -> Result<f64> {
    let http = Http::h2(seller.address());
    let (mut cost, mut count) = (0.0, 0.0);
    for sessions in sessions.chunks(BATCH) {
        let mut leases: Vec<Lease> = sessions.iter().map(Lease::new).collect();
        report(&http, &mut leases).await?;
        let begun = Cost::begin(seller)?;
        report(&http, &mut leases).await?;
        cost += begun.us_per(leases.len())?;
        count += 1.0;
        release(&http, &leases).await?;
    }
    Ok(cost / count)
}

/// CPU time that the sidecar had used.
struct Cost {
    pid: u32,
    before: u64,
}

impl Cost {
    fn begin(seller: &Sidecar) -> Result<Self> {
        Self::of(u32::try_from(seller.running()?.id())?)
    }

    fn of(pid: u32) -> Result<Self> {
        let before = cpu::nanoseconds(pid)?;
        Ok(Self { pid, before })
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of some seconds")]
    fn us_per(&self, count: usize) -> Result<f64> {
        let spent = cpu::nanoseconds(self.pid)? - self.before;
        Ok(spent as f64 / 1e3 / count as f64)
    }
}

async fn start(
    folder: &Path,
    name: &str,
    upstream: SocketAddr,
    seller: SocketAddr,
) -> Result<Subject> {
    let gate = Gate::Wasm {
        module: &paths::filter_wasm()?.display().to_string(),
        config: plugin_with_payment(),
    };
    let name = format!("sessions-{name}");
    let envoy = Subject::start(folder, &name, &gate, upstream, seller, 1).await?;
    let http = Http::new(envoy.address);
    eventually("it sells", Duration::from_secs(30), || async {
        let status = http.get("/v1/forecast").send().await?.status;
        ensure!(status == 402, "{status}");
        Ok(())
    })
    .await?;
    Ok(envoy)
}

/// CPU of Envoy for each request of sessions that have leases there.
async fn bearers(
    envoy: &Subject,
    sessions: &[Open],
    requests: usize,
    seller: &Sidecar,
) -> Result<f64> {
    let before = spent(&seller.ledger())?;
    let mut connections = Connections::open(envoy.address, CONNECTIONS).await?;
    let load = load(sessions);
    let load = load.repeated(requests.max(sessions.len()));
    let mut served = 0;
    let (mut cost, mut count) = (0.0, 0.0);
    for round in 0..6 {
        let begun = Cost::of(envoy.id()?)?;
        let answers = connections.send(&load).await?.answers;
        served += answers as u64;
        // In the first two the leases come and grow.
        if round > 1 {
            cost += begun.us_per(answers)?;
            count += 1.0;
        }
    }
    eventually("all is reported", Duration::from_secs(20), || async {
        let found = spent(&seller.ledger())? - before;
        ensure!(found == served, "{found} spent, not {served}");
        Ok(())
    })
    .await?;
    Ok(cost / count)
}

/// The same of sessions that it has never heard of.
async fn first_bearers(envoy: &Subject, sessions: &[Open]) -> Result<f64> {
    let (known, unknown) = sessions.split_at(1);
    // Whose client has a session may ask for others.
    let mut one = Connections::open(envoy.address, 1).await?;
    one.send(&load(known)).await?;
    let mut connections = Connections::open(envoy.address, CONNECTIONS).await?;
    let begun = Cost::of(envoy.id()?)?;
    let answers = connections.send(&load(unknown)).await?.answers;
    begun.us_per(answers)
}

/// One request for each session.
fn load(sessions: &[Open]) -> Load {
    let requests = sessions
        .iter()
        .map(|session| paid("/v1/forecast", &session.bearer));
    Load {
        requests: requests.collect(),
        ..ok_with_receipt(vec![])
    }
}
