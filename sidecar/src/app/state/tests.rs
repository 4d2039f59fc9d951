//! Key rotation against a naive model of filters: they poll, lose answers, appear and vanish.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use protocol::hash::PaymentHash;
use protocol::l402::TokenId;
use protocol::lease::Terms;
use protocol::time::UnixSeconds;
use tempfile::TempDir;

use super::*;
use crate::adapters::ledger::sqlite::SqliteLedger;
use crate::domain::ledger::OfferBatch;
use crate::domain::offer::{OfferRow, Scheme, Validity};
use crate::domain::ports::Random;

const WINDOW: u64 = 30;
const START: u64 = 1_800_000_000;
const INVOICE_EXPIRY: Duration = Duration::from_secs(600);

struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn unix_millis(&self) -> u64 {
        (START + self.0.load(Ordering::SeqCst)) * 1_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1_000 + self.0.load(Ordering::SeqCst))
    }
}

struct Counter(AtomicU64);

impl Random for Counter {
    fn secret(&self) -> Result<[u8; 32], RandomError> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.0.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        Ok(bytes)
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Filter polls; the answer may be lost on the way.
    Poll {
        filter: usize,
        lost: bool,
    },
    Appear,
    Vanish {
        filter: usize,
    },
    Rotate,
    Issue {
        lifetime: Option<u64>,
    },
    Pass {
        seconds: u64,
    },
    RestartSidecar,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..4, proptest::bool::weighted(0.2))
            .prop_map(|(filter, lost)| Step::Poll { filter, lost }),
        1 => Just(Step::Appear),
        1 => (0usize..4).prop_map(|filter| Step::Vanish { filter }),
        3 => Just(Step::Rotate),
        4 => proptest::option::weighted(0.9, 0u64..200)
            .prop_map(|lifetime| Step::Issue { lifetime }),
        6 => (1u64..40).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::RestartSidecar),
    ]
}

struct Filter {
    vm: String,
    installed: Option<Bootstrap>,
    /// When it last had an answer.
    answered: u64,
}

struct World {
    ledger: Arc<SqliteLedger>,
    keeper: StateKeeper<SqliteLedger>,
    clock: Arc<ManualClock>,
    random: Counter,
    filters: Vec<Filter>,
    /// Generation and end of every token that was issued.
    tokens: Vec<(u8, Option<u64>)>,
    pruned: Duration,
    _dir: TempDir,
}

fn keeper(ledger: &Arc<SqliteLedger>, clock: &Arc<ManualClock>) -> StateKeeper<SqliteLedger> {
    let config = FiltersConfig {
        revocation_poll: Duration::from_millis(500),
        live_window: Duration::from_secs(WINDOW),
        reclaim_after: Duration::from_secs(8),
        lease_terms: Terms::USUAL,
    };
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let keys = MasterKeys::new(Vec::new(), None);
    let metrics = Arc::new(Metrics::new());
    let clocks = Clocks::new(Arc::clone(ledger), Arc::clone(&clock), metrics);
    StateKeeper::new(
        Arc::clone(ledger),
        keys,
        Arc::new(clocks),
        clock,
        config,
        INVOICE_EXPIRY,
        Arc::new(Metrics::new()),
    )
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let ledger = Arc::new(SqliteLedger::open(&dir.path().join("l.db")).unwrap());
        let clock = Arc::new(ManualClock(AtomicU64::new(0)));
        let random = Counter(AtomicU64::new(1));
        let first = MasterKeys::new(Vec::new(), None)
            .first_key(&random)
            .unwrap();
        ledger
            .install_first_key(first, clock.unix_millis())
            .await
            .unwrap();
        let keeper = keeper(&ledger, &clock);
        keeper.refresh().await.unwrap();
        let pruned = clock.monotonic();
        Self {
            ledger,
            keeper,
            clock,
            random,
            filters: Vec::new(),
            tokens: Vec::new(),
            pruned,
            _dir: dir,
        }
    }

    fn now(&self) -> u64 {
        self.clock.now().0
    }

    async fn apply(&mut self, step: &Step) {
        match step {
            Step::Appear => self.filters.push(Filter {
                vm: format!("{:032x}", self.random.0.fetch_add(1, Ordering::SeqCst)),
                installed: None,
                answered: 0,
            }),
            Step::Vanish { filter } if *filter < self.filters.len() => {
                self.filters.remove(*filter);
            }
            Step::Poll { filter, lost } if *filter < self.filters.len() => {
                self.poll(*filter, *lost);
            }
            Step::Vanish { .. } | Step::Poll { .. } => {}
            Step::Rotate => {
                let keys = MasterKeys::new(Vec::new(), None);
                let key = keys.next_key(&[], &self.random).unwrap().unwrap();
                // Refused while one is under way, which is right.
                let _ = self
                    .ledger
                    .begin_rotation(key, self.clock.unix_millis())
                    .await;
            }
            Step::Issue { lifetime } => self.issue(*lifetime).await,
            Step::Pass { seconds } => {
                self.clock.0.fetch_add(*seconds, Ordering::SeqCst);
            }
            Step::RestartSidecar => {
                self.keeper = keeper(&self.ledger, &self.clock);
            }
        }
        self.keeper.tick(&mut self.pruned).await.unwrap();
    }

    fn poll(&mut self, index: usize, lost: bool) {
        let now = self.now();
        let filter = &mut self.filters[index];
        let known = filter
            .installed
            .as_ref()
            .map(|bootstrap| bootstrap.version.clone());
        let query = BootstrapQuery {
            vm: filter.vm.clone(),
            known,
        };
        let answer = self.keeper.bootstrap(&query).unwrap();
        if lost {
            return;
        }
        filter.answered = now;
        if let Some(bootstrap) = answer {
            filter.installed = Some(bootstrap);
        }
    }

    async fn issue(&mut self, lifetime: Option<u64>) {
        let generation = self.keeper.issuing_key().unwrap().generation;
        for filter in self.live() {
            assert!(
                has(filter, generation),
                "issued under a key that a live filter lacks"
            );
        }
        let end = lifetime.map(|seconds| self.now() + seconds);
        let secret = self.random.secret().unwrap();
        let [_, random @ ..] = secret;
        let mut random = random;
        random[30] = secret[7];
        let offer = OfferRow {
            payment_hash: PaymentHash(secret),
            token_id: TokenId::new(generation, random),
            service: "s".to_owned(),
            scheme: Scheme::L402,
            amount: protocol::amount::Msat::new(1).unwrap(),
            created: self.clock.now(),
            expires: UnixSeconds(self.now() + 600),
            valid_until: end.map_or(Validity::Forever, |end| Validity::Until(UnixSeconds(end))),
            node: None,
        };
        let batch = OfferBatch {
            generation,
            offers: vec![offer],
        };
        self.ledger.record_offers(batch).await.unwrap();
        self.tokens.push((generation, end));
    }

    /// Filters that answer requests: they have keys and had an answer not long ago. One without an
    /// answer for longer does not know what it may be missing, and owes its clients a 503.
    fn live(&self) -> impl Iterator<Item = &Filter> {
        let now = self.now();
        self.filters
            .iter()
            .filter(move |f| f.installed.is_some() && now - f.answered <= WINDOW)
    }

    fn check(&self) {
        let now = self.now();
        for (generation, end) in &self.tokens {
            if end.is_none_or(|end| now < end) {
                for filter in self.live() {
                    assert!(has(filter, *generation), "a valid token would be refused");
                }
            }
        }
    }
}

fn has(filter: &Filter, generation: u8) -> bool {
    filter.installed.as_ref().is_some_and(|bootstrap| {
        bootstrap
            .keys
            .iter()
            .any(|key| key.generation == generation)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_valid_token_is_refused_at_any_moment_of_a_rotation(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for _ in 0..3 {
                world.apply(&Step::Appear).await;
            }
            for step in &steps {
                world.apply(step).await;
                world.check();
            }
        });
    }
}

#[tokio::test]
async fn a_rotation_ends_when_every_live_filter_polls() {
    let mut world = World::new().await;
    world.apply(&Step::Appear).await;
    world
        .apply(&Step::Poll {
            filter: 0,
            lost: false,
        })
        .await;
    world.apply(&Step::Rotate).await;
    let mut keys = Vec::new();
    // Half an hour, until what a filter signed too late with the old key is over as well.
    for _ in 0..900 {
        world.apply(&Step::Pass { seconds: 2 }).await;
        world
            .apply(&Step::Poll {
                filter: 0,
                lost: false,
            })
            .await;
        keys.push(world.filters[0].installed.clone().unwrap().keys.len());
    }
    assert_eq!(world.keeper.issuing_key().unwrap().generation, 1);
    let kept = keys.iter().filter(|count| **count == 2).count() as u64 * 2;
    let least = (INVOICE_EXPIRY + SIGNED_LATE).as_secs();
    assert!((least..1_200).contains(&kept), "{kept} s");
    let last = keys.last();
    assert_eq!(last, Some(&1), "the old key issued nothing and is gone");
}

#[tokio::test]
async fn a_state_that_could_not_be_read_for_long_is_not_trusted() {
    let world = World::new().await;
    let query = BootstrapQuery {
        vm: "0".repeat(32),
        known: None,
    };
    assert!(world.keeper.bootstrap(&query).is_ok());
    world.clock.0.fetch_add(6, Ordering::SeqCst);
    assert!(matches!(
        world.keeper.bootstrap(&query),
        Err(StateError::Stale(_))
    ));
    assert!(matches!(
        world.keeper.issuing_key(),
        Err(StateError::Stale(_))
    ));
}

#[tokio::test]
async fn a_version_of_another_ledger_or_of_the_future_means_everything_anew() {
    let world = World::new().await;
    let ask = |known: &str| {
        let query = BootstrapQuery {
            vm: "0".repeat(32),
            known: Some(known.to_owned()),
        };
        world.keeper.bootstrap(&query).unwrap()
    };
    let now = world.keeper.view().unwrap().text.clone();
    assert!(ask(&now).is_none());
    let (epoch, version) = now.split_once('.').unwrap();
    let other = format!("{}.{version}", "0".repeat(32));
    let future = format!("{epoch}.{}", u64::MAX);
    for known in [other.as_str(), future.as_str(), "", "nonsense", "a.b"] {
        assert!(ask(known).unwrap().revocations.full, "{known}");
    }
}
