//! Sessions that are opened and paid for as a buyer does, and what the ledger says in the end.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    eventually,
    http_client::Http,
    payment::{Session, offer_of, present},
    sidecar::Sidecar,
    wallet::Wallet,
};
use rusqlite::OpenFlags;

use crate::cases::{Case, Kind};

/// What cases have to have cost, by the ledger.
#[derive(Default)]
pub(crate) struct Books {
    /// The session of each case that has one.
    sessions: BTreeMap<String, String>,
}

impl Books {
    /// Opens the session of a case at `path`, which costs one unit, and gives its bearer.
    pub(crate) async fn open(
        &mut self,
        case: &str,
        http: &Http,
        sidecar: &Sidecar,
        path: &str,
    ) -> Result<String> {
        let session = deposit(http, sidecar, path).await?;
        let answer = present(http, path, &session.open()).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        self.sessions
            .insert(case.to_owned(), session.id()?.to_owned());
        session.bearer()
    }

    /// Each answer of each case was paid for once, and each event of its streams.
    pub(crate) async fn check(&self, cases: &[Case], sidecar: &Sidecar) -> Result<()> {
        for case in cases {
            if let Some(session) = self.sessions.get(&*case.name) {
                let spent = 1 + case.units;
                eventually("all is reported", Duration::from_secs(10), || async {
                    let (_, found) = sidecar.session(session)?;
                    ensure!(found == spent, "{}: {found} spent, not {spent}", case.name);
                    Ok(())
                })
                .await?;
            }
        }
        let of_charges = |case: &&Case| matches!(case.kind, Kind::Charge);
        let claimed: u64 = cases.iter().filter(of_charges).map(|case| case.units).sum();
        let found = charges(sidecar)?;
        ensure!(found == claimed, "{found} claims of {claimed} charges");
        Ok(())
    }
}

/// Pays the deposit for a session at `path`. Nothing is opened yet.
pub(crate) async fn deposit(http: &Http, sidecar: &Sidecar, path: &str) -> Result<Session> {
    let wallet = Wallet::Dev(sidecar.dev_address());
    let answer = eventually("sessions are sold", Duration::from_secs(30), || async {
        let answer = http.get(path).send().await?;
        offer_of(&answer, "session").map(|_| answer)
    })
    .await?;
    let invoice = wallet.return_invoice().await?;
    let paid = Session::deposit(&answer, &wallet, &invoice).await;
    paid.with_context(|| path.to_owned())
}

/// Charges that were claimed.
fn charges(sidecar: &Sidecar) -> Result<u64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let ledger = rusqlite::Connection::open_with_flags(sidecar.ledger(), flags)?;
    let sql = "SELECT count(*) FROM claims WHERE purpose = 'charge'";
    let count: i64 = ledger.query_row(sql, [], |row| row.get(0))?;
    Ok(count.try_into()?)
}
