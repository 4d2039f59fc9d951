//! Random walks over both sides of the lease protocol, with the real code of both: messages lost,
//! doubled, delayed and reordered; VMs killed and stopped; rows pruned; close at a random moment.
//! The checks are those of spec/lease; each of eight planted faults must soon break one of them.
//!
//! One step is one millisecond of both clocks.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

mod course;

use std::collections::BTreeMap;

use filter::lease::{Leases, Spend, Times as VmTimes};
use protocol::lease::{AccountId, Answer, HolderId, Report};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sidecar::domain::lease::{Account, Times};

use course::Course;

const VALID: u64 = 20;
const RECLAIM: u64 = 30;
const FORGET: u64 = 200;
const DELAY: u64 = 25;
const ACCOUNT: AccountId = AccountId([7; 32]);

/// A fault planted between the two sides; the code of both stays as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// More is granted than there is.
    OverGrant,
    /// Answers to a former holder are taken for the present one's.
    StaleReply,
    /// A holder's id is used again.
    ReusedHolder,
    /// Nobody is asked to return anything, and nobody does.
    NoRecall,
    /// A report that is heard twice is debited twice.
    DoubleCount,
    /// Rows of ended holders are forgotten while messages about them are on their way.
    PrunedEarly,
    /// What is given back twice is given back twice.
    DoubleReturn,
    /// Others are recalled although even theirs would not suffice.
    VainRecall,
}

struct Vm {
    price: u64,
    leases: Leases,
    /// Steps until it runs again.
    stopped_until: u64,
    is_waiting: bool,
    served_at: u64,
    /// Requests at the upstream, by the holder that paid for them and when they end.
    in_flight: Vec<(HolderId, u64)>,
    /// What it gave back for requests that the upstream never answered.
    gave_back: u64,
}

impl Vm {
    fn new(price: u64, fault: Option<Fault>, random: &mut StdRng) -> Self {
        let idle_ms = if fault == Some(Fault::NoRecall) {
            u64::MAX
        } else {
            60
        };
        let seed = match fault {
            Some(Fault::ReusedHolder) => [1; 16],
            _ => random.random(),
        };
        let times = VmTimes {
            valid_ms: VALID,
            idle_ms,
        };
        Self {
            price,
            leases: Leases::new(times, seed),
            stopped_until: 0,
            is_waiting: false,
            served_at: 280,
            in_flight: Vec::new(),
            gave_back: 0,
        }
    }
}

enum Message {
    Report {
        vm: usize,
        report: Report,
        sent: u64,
    },
    Answer {
        vm: usize,
        answer: Answer,
        sent: u64,
    },
}

impl Message {
    fn again(&self) -> Self {
        match self {
            Self::Report { vm, report, sent } => Self::Report {
                vm: *vm,
                report: report.clone(),
                sent: *sent,
            },
            Self::Answer { vm, answer, sent } => Self::Answer {
                vm: *vm,
                answer: answer.clone(),
                sent: *sent,
            },
        }
    }
}

/// One walk. An error says which promise was broken.
fn walk(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    let random = &mut StdRng::seed_from_u64(seed);
    let course = Course::of(seed, random);
    let is_calm = course != Course::Rough;
    let heal = if is_calm { 200 } else { 500 };
    let close_at = if is_calm {
        460
    } else {
        random.random_range(50..400)
    };
    let (prices, deposited) = course.money(random);
    let mut ledger = Account {
        deposited,
        is_open: true,
        ..Account::default()
    };
    let times = Times {
        reclaim_ms: RECLAIM,
        closing_ms: RECLAIM,
        forget_ms: if fault == Some(Fault::PrunedEarly) {
            5
        } else {
            FORGET
        },
    };
    let mut vms = prices.map(|price| Vm::new(price, fault, random));
    let mut network: Vec<(u64, Message)> = Vec::new();
    let mut holders: BTreeMap<usize, HolderId> = BTreeMap::new();
    let mut granted: BTreeMap<HolderId, u64> = BTreeMap::new();
    let (mut served, mut lost, mut of_the_dead) = (0_u64, 0_u64, 0_u64);
    let mut undelivered = 0;

    for now in 1..760_u64 {
        let (mut due, later): (Vec<_>, Vec<_>) =
            network.into_iter().partition(|(at, _)| *at <= now);
        network = later;
        while !due.is_empty() {
            let (_, message) = due.swap_remove(random.random_range(0..due.len()));
            match message {
                Message::Report { vm, report, sent } => {
                    let answer = hear(&mut ledger, &report, now, fault, &mut lost);
                    post(
                        &mut network,
                        random,
                        now,
                        heal,
                        &Message::Answer { vm, answer, sent },
                    );
                }
                Message::Answer {
                    vm,
                    mut answer,
                    sent,
                } => {
                    if vms[vm].stopped_until > now {
                        continue;
                    }
                    if fault == Some(Fault::StaleReply)
                        && let Some(holder) = holders.get(&vm)
                    {
                        answer.holder = *holder;
                    }
                    let most = granted.entry(answer.holder).or_default();
                    *most = answer.granted.max(*most);
                    let _ = vms[vm].leases.answered(&answer, sent);
                }
            }
        }
        for (number, vm) in vms.iter_mut().enumerate() {
            if vm.stopped_until > now {
                continue;
            }
            let is_rough = now < heal;
            if is_rough && random.random_bool(0.004) {
                // Killed: what it held and had not reported is the seller's loss.
                of_the_dead += holders
                    .remove(&number)
                    .and_then(|id| granted.get(&id))
                    .unwrap_or(&0);
                *vm = Vm::new(vm.price, fault, random);
                continue;
            }
            if is_rough && random.random_bool(0.004) {
                vm.stopped_until = now + random.random_range(1..60);
                continue;
            }
            let is_asked = course.asks(number, now, random) && now < close_at + 40;
            if is_asked || (vm.is_waiting && random.random_bool(0.1)) {
                match vm.leases.spend(ACCOUNT, vm.price, now) {
                    Spend::Taken(holder) => {
                        served += vm.price;
                        // In a calm run units do not come back: it is about the last ones.
                        if !is_calm && random.random_bool(0.2) {
                            let end = now + random.random_range(1..90);
                            vm.in_flight.push((holder, end));
                        }
                        (vm.is_waiting, vm.served_at) = (false, now);
                    }
                    Spend::Lacking => vm.is_waiting = course.waits(number, random),
                }
            }
            let (failed, later): (Vec<_>, Vec<_>) =
                vm.in_flight.drain(..).partition(|(_, end)| *end <= now);
            vm.in_flight = later;
            for (holder, _) in failed {
                // The upstream never answered.
                vm.leases.give_back(&ACCOUNT, holder, vm.price);
                vm.gave_back += vm.price;
                undelivered += vm.price;
            }
            if random.random_bool(0.5) {
                for report in vm.leases.reports(now) {
                    holders.insert(number, report.holder);
                    let message = Message::Report {
                        vm: number,
                        report,
                        sent: now,
                    };
                    post(&mut network, random, now, heal, &message);
                }
            }
        }
        ledger.sweep(&times, now);
        if now == close_at {
            ledger.close();
        }
        let promise = |holds: bool, what: &str| {
            holds.then_some(()).ok_or_else(|| {
                format!("{what}: step {now}, served {served}, {ledger:?}, seed {seed}")
            })
        };
        promise(ledger.spent + ledger.held() <= deposited, "overdrawn")?;
        promise(ledger.spent <= served, "charged for what was not served")?;
        // Planted faults must show in what they cost somebody.
        if fault.is_none() {
            let used: u64 = ledger.holders.values().map(|h| h.used - h.returned).sum();
            promise(
                ledger.spent == ledger.forgotten + used,
                "debited is not what was used",
            )?;
        }
        let can_go_on = ledger.free() + ledger.held() >= prices[0];
        if is_calm && (360..close_at).contains(&now) && can_go_on {
            promise(
                now - vms[0].served_at.max(280) < 70,
                "units that one VM cannot reach",
            )?;
        }
    }
    let refund = ledger.settle().ok_or("closed, and never settled")?;
    if refund + ledger.spent != deposited {
        return Err(format!("refund {refund} of {ledger:?}"));
    }
    // What a VM gave back and could not report before it died, the buyer has lost.
    let heard: u64 = vms.iter().map(|vm| vm.gave_back).sum();
    if ledger.spent > served - heard {
        return Err(format!(
            "charged for what was given back: served {served}, given back {heard}, {ledger:?}, seed {seed}"
        ));
    }
    if served
        .saturating_sub(undelivered)
        .saturating_sub(ledger.spent)
        > of_the_dead + lost
    {
        return Err(format!(
            "the seller lost more than the dead held: served {served}, lost {lost}, dead {of_the_dead}, {ledger:?}"
        ));
    }
    Ok(())
}

/// The ledger hears a report, with a fault or without.
fn hear(
    ledger: &mut Account,
    report: &Report,
    now: u64,
    fault: Option<Fault>,
    lost: &mut u64,
) -> Answer {
    let before = ledger.clone();
    let mut reported = ledger.report(report, now);
    *lost += reported.lost_units;
    let is_live = ledger
        .holders
        .get(&report.holder)
        .is_some_and(|holder| holder.is_live);
    match fault {
        Some(Fault::OverGrant) if is_live && !report.release && ledger.is_open => {
            if let Some(holder) = ledger.holders.get_mut(&report.holder) {
                holder.granted = holder.granted.max(report.want);
                reported.answer.granted = holder.granted;
            }
        }
        Some(Fault::DoubleCount) if is_live && report.used > 0 => {
            let is_repeated = before
                .holders
                .get(&report.holder)
                .is_some_and(|holder| holder.used == report.used);
            if is_repeated {
                ledger.spent += report.used.min(ledger.free());
            }
        }
        Some(Fault::DoubleReturn) if report.returned > 0 => {
            ledger.spent = ledger.spent.saturating_sub(report.returned);
        }
        Some(Fault::NoRecall) => {
            for holder in ledger.holders.values_mut() {
                holder.is_recalled = false;
            }
            reported.answer.recall &= !ledger.is_open || reported.answer.r#final;
        }
        Some(Fault::VainRecall) if reported.answer.short => {
            for (id, holder) in &mut ledger.holders {
                holder.is_recalled |= *id != report.holder && holder.is_live;
            }
        }
        _ => {}
    }
    reported.answer
}

/// Puts a message on the way: not at all, once or twice, and each copy as late as it likes.
fn post(
    network: &mut Vec<(u64, Message)>,
    random: &mut StdRng,
    now: u64,
    heal: u64,
    message: &Message,
) {
    let is_rough = now < heal;
    let copies = if is_rough {
        [0, 1, 1, 1, 2][random.random_range(0..5)]
    } else {
        1
    };
    for _ in 0..copies {
        let delay = if is_rough {
            random.random_range(0..=DELAY)
        } else {
            0
        };
        network.push((now + delay, message.again()));
    }
}

#[test]
fn nothing_is_lost_or_doubled_whatever_happens_to_messages_and_vms() {
    for seed in 0..2_000 {
        if let Err(broken) = walk(seed, None) {
            panic!("{broken}");
        }
    }
}

/// In so few walks each fault must be caught so often: once could be an accident.
const ENOUGH_WALKS: u64 = 300;
const ENOUGH_TIMES: usize = 3;

#[test]
fn every_planted_fault_soon_breaks_a_promise() {
    let mut needed = Vec::new();
    let mut missed = Vec::new();
    for fault in [
        Fault::OverGrant,
        Fault::StaleReply,
        Fault::ReusedHolder,
        Fault::NoRecall,
        Fault::DoubleCount,
        Fault::PrunedEarly,
        Fault::DoubleReturn,
        Fault::VainRecall,
    ] {
        let caught: Vec<_> = (0..ENOUGH_WALKS)
            .filter_map(|seed| Some((seed + 1, walk(seed, Some(fault)).err()?)))
            .take(ENOUGH_TIMES)
            .collect();
        let walks: Vec<_> = caught.iter().map(|(walks, _)| *walks).collect();
        needed.push(format!("{fault:?}: caught in walks {walks:?}"));
        if caught.len() < ENOUGH_TIMES {
            missed.push(fault);
        }
        if let Some((_, broken)) = caught.first() {
            println!("{fault:?}: {broken}");
        }
    }
    let needed = needed.join("\n");
    println!("{needed}");
    assert!(
        missed.is_empty(),
        "{missed:?} not caught {ENOUGH_TIMES} times in {ENOUGH_WALKS} walks\n{needed}"
    );
}
