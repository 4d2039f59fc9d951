//! What clients do when a payment of theirs does not buy a response. It is noted here as it is: a
//! seller has to live with it.

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::Gate;
use e2e::payment;
use futures_util::future::try_join_all;
use tokio::sync::mpsc::UnboundedReceiver;

use super::charges::{ENGINES, SETTLING, charges_only};
use super::client::{Client, Kind, Said};
use super::hop::{Held, Hop, Rewriting};
use super::{FORECAST, dev_pay};

impl Kind {
    /// The client, or its caller by the client's own means, shows again what was paid for and not
    /// served. The others drop it when they are told 503, and the next request pays anew.
    fn keeps_what_it_paid_for(self) -> bool {
        [Self::AlbyCharge, Self::AlbyMpp].contains(&self)
    }
}

/// A client whose payments are held at its hop.
struct Waylaid {
    kind: Kind,
    client: Client,
    hop: Hop,
    held: UnboundedReceiver<Held>,
}

impl Waylaid {
    async fn start(kind: Kind, gate: &Gate) -> anyhow::Result<Self> {
        let hop = Hop::start(gate.http(), Rewriting::default()).await?;
        Ok(Self {
            kind,
            client: Client::start(kind, &dev_pay(gate))?,
            held: hop.hold(),
            hop,
        })
    }

    fn statuses(&self) -> Vec<u16> {
        let exchanges = self.hop.exchanges();
        exchanges.iter().map(|exchange| exchange.status).collect()
    }
}

async fn waylaid(gate: &Gate) -> anyhow::Result<Vec<Waylaid>> {
    let started = Kind::CHARGE.map(|kind| Waylaid::start(kind, gate));
    try_join_all(started).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_after_payment_makes_no_client_pay_again_by_itself() -> anyhow::Result<()> {
    let gate = charges_only("clients-charge-fault").start().await?;
    let mut buyers = waylaid(&gate).await?;

    // All have paid, and nobody is there any more to take note of it.
    let mut asking = Vec::new();
    let mut held = Vec::new();
    for Waylaid {
        client,
        hop,
        held: from,
        ..
    } in &mut buyers
    {
        let target = hop.url(FORECAST);
        asking.push(async move { client.get(&target).await });
        held.push(async move { from.recv().await.context("the hop is gone") });
    }
    let faulty = async {
        let held = try_join_all(held).await?;
        gate.sidecar.running()?.freeze()?;
        let shown: Vec<_> = held.iter().map(|one| one.authorization.clone()).collect();
        held.into_iter().for_each(Held::let_go);
        anyhow::Ok(shown)
    };
    let (said, shown) = tokio::try_join!(try_join_all(asking), faulty)?;
    for (buyer, said) in buyers.iter().zip(&said) {
        let kind = buyer.kind;
        assert_eq!((said.status, said.payments), (503, 1), "{kind:?}: {said:?}");
        assert_eq!(buyer.statuses(), [402, 503], "{kind:?}");
        let exchanges = buyer.hop.exchanges();
        let refused = exchanges.last().context("nothing has passed")?;
        assert!(refused.got("retry-after").parse::<u64>()? > 0, "{kind:?}");
        assert_eq!(refused.got("www-authenticate"), "", "{kind:?}");
    }
    assert_eq!(gate.upstream.count(), 0);

    gate.sidecar.running()?.thaw()?;
    for (buyer, authorization) in buyers.iter_mut().zip(&shown) {
        let kind = buyer.kind;
        buyer.held.close();
        let target = buyer.hop.url(FORECAST);
        if kind.keeps_what_it_paid_for() {
            let client = tokio::sync::Mutex::new(&mut buyer.client);
            eventually("it is served", SETTLING, || async {
                let said = client.lock().await.get(&target).await?;
                assert_eq!(said.payments, 1, "{kind:?}: {said:?}");
                ensure!(said.status == 200, "{kind:?}: {said:?}");
                Ok(())
            })
            .await?;
            continue;
        }
        // What it paid for is still to be had, with the credential that it has dropped.
        eventually("it is served", SETTLING, || async {
            let answer = payment::present(&gate.http(), FORECAST, authorization).await?;
            ensure!(answer.status == 200, "{kind:?}: {}", answer.text());
            Ok(())
        })
        .await?;
        let said = buyer.client.get(&target).await?;
        assert_eq!((said.status, said.payments), (200, 2), "{kind:?}: {said:?}");
    }
    let kept = buyers
        .iter()
        .filter(|one| one.kind.keeps_what_it_paid_for())
        .count();
    assert_eq!(gate.upstream.count(), 2 * buyers.len() - kept);
    Ok(())
}

/// Shows a payment before its buyer does, and waits until the gate will say so.
async fn spend(gate: &Gate, held: Held) -> anyhow::Result<()> {
    let first = payment::present(&gate.http(), FORECAST, &held.authorization).await?;
    ensure!(first.status == 200, "{} {}", first.status, first.text());
    eventually("it is used up", SETTLING, || async {
        let again = payment::present(&gate.http(), FORECAST, &held.authorization).await?;
        ensure!(again.status == 402, "{} {}", again.status, again.text());
        Ok(())
    })
    .await?;
    held.let_go();
    Ok(())
}

/// What every client makes of its payment being spent by somebody else, `times` over.
async fn outrun(gate: &Gate, times: usize) -> anyhow::Result<Vec<(Waylaid, Said)>> {
    let buyers = waylaid(gate)
        .await?
        .into_iter()
        .map(|mut buyer| async move {
            let target = buyer.hop.url(FORECAST);
            let said = {
                let (client, held) = (&mut buyer.client, &mut buyer.held);
                let asking = client.get(&target);
                tokio::pin!(asking);
                let mut spent = 0;
                loop {
                    tokio::select! {
                        said = &mut asking => break said?,
                        Some(one) = held.recv() => {
                            spend(gate, one).await?;
                            spent += 1;
                            if spent == times {
                                held.close();
                            }
                        }
                    }
                }
            };
            anyhow::Ok((buyer, said))
        });
    try_join_all(buyers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn for_a_payment_used_up_engines_pay_once_more_and_others_stop() -> anyhow::Result<()> {
    let gate = charges_only("clients-charge-used").start().await?;
    let told = outrun(&gate, 1).await?;
    for (buyer, said) in &told {
        let kind = buyer.kind;
        if ENGINES.contains(&kind) {
            assert_eq!((said.status, said.payments), (200, 2), "{kind:?}: {said:?}");
            assert_eq!(buyer.statuses(), [402, 402, 200], "{kind:?}");
        } else {
            assert_eq!((said.status, said.payments), (402, 1), "{kind:?}: {said:?}");
            assert_eq!(buyer.statuses(), [402, 402], "{kind:?}");
            assert!(said.body.contains("lightning/unknown-challenge"));
        }
    }
    // Whoever was first, and the engines' second payments.
    assert_eq!(gate.upstream.count(), told.len() + ENGINES.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_stop_after_three_payments_for_nothing() -> anyhow::Result<()> {
    let gate = charges_only("clients-charge-outrun").start().await?;
    for (buyer, said) in outrun(&gate, usize::MAX).await? {
        let kind = buyer.kind;
        let payments = if ENGINES.contains(&kind) { 3 } else { 1 };
        assert_eq!(
            (said.status, said.payments),
            (402, payments),
            "{kind:?}: {said:?}"
        );
    }
    Ok(())
}
