use protocol::lease::{AccountState, Answer, MAX_REPORTS};

use super::*;

const ACCOUNT: AccountId = AccountId([1; 32]);

fn leases() -> Leases {
    Leases::new(Times::default(), [9; 16])
}

/// What the ledger would say to the only report.
fn granted(leases: &mut Leases, now_ms: u64, units: u64) -> Answer {
    let reports = leases.reports(now_ms);
    let [report] = &reports[..] else {
        panic!("{reports:?}");
    };
    Answer {
        account: report.account,
        holder: report.holder,
        granted: units,
        returned: report.returned,
        spent: 0,
        recall: false,
        r#final: false,
        short: false,
        state: AccountState::Open,
    }
}

fn taken(seed: u8) -> Spend {
    Spend::Taken(HolderId([seed; 16]))
}

#[test]
fn what_was_not_delivered_is_given_back_also_when_the_lease_has_ended() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 2, 0), Spend::Lacking);
    let answer = granted(&mut leases, 0, 6);
    leases.answered(&answer, 0);
    for _ in 0..3 {
        assert_eq!(leases.spend(ACCOUNT, 2, 0), taken(9));
    }
    leases.give_back(&ACCOUNT, answer.holder, 2);
    let report = leases.reports(0).remove(0);
    assert_eq!((report.used, report.returned), (6, 2));
    let ended = Answer {
        r#final: true,
        returned: 2,
        ..answer.clone()
    };
    leases.answered(&ended, 0);
    assert!(leases.is_empty() && leases.reports(100).is_empty());
    leases.give_back(&ACCOUNT, answer.holder, 2);
    // Until it was heard.
    for now_ms in [200, 300] {
        let report = leases.reports(now_ms).remove(0);
        assert_eq!((report.used, report.returned, report.release), (6, 4, true));
    }
    let heard = Answer {
        returned: 4,
        ..ended
    };
    leases.answered(&heard, 300);
    assert!(leases.reports(400).is_empty());
    // Never more than was spent.
    for _ in 0..5 {
        leases.give_back(&ACCOUNT, answer.holder, 2);
    }
    assert_eq!(leases.reports(500)[0].returned, 6);
}

#[test]
fn nothing_is_spent_before_it_is_granted_and_no_more_than_that() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 2, 0), Spend::Lacking);
    let answer = granted(&mut leases, 0, 5);
    assert_eq!(leases.answered(&answer, 0), None);
    assert_eq!(leases.spend(ACCOUNT, 2, 10), taken(9));
    assert_eq!(leases.spend(ACCOUNT, 2, 10), taken(9));
    assert_eq!(leases.spend(ACCOUNT, 2, 10), Spend::Lacking);
}

#[test]
fn a_lease_lasts_from_when_its_report_was_sent() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
    let answer = granted(&mut leases, 0, 5);
    // The answer took 4 s.
    assert_eq!(leases.answered(&answer, 0), None);
    assert_eq!(leases.spend(ACCOUNT, 1, 4_999), taken(9));
    assert_eq!(leases.spend(ACCOUNT, 1, 5_000), Spend::Lacking);
    assert!(leases.reports(5_000)[0].release);
}

#[test]
fn a_lease_that_is_returned_is_not_spent_and_its_id_is_not_used_again() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
    let answer = granted(&mut leases, 0, 5);
    leases.answered(&answer, 0);
    let recalled = Answer {
        recall: true,
        ..answer.clone()
    };
    leases.answered(&recalled, 100);
    assert_eq!(leases.spend(ACCOUNT, 1, 100), Spend::Lacking);
    assert!(leases.reports(100)[0].release);
    let ended = Answer {
        r#final: true,
        ..recalled
    };
    leases.answered(&ended, 100);
    let again = &leases.reports(200)[0];
    assert!(again.holder != answer.holder && again.need == 1 && !again.release);
    // Late words to the old holder change nothing.
    leases.answered(&answer, 0);
    assert_eq!(leases.spend(ACCOUNT, 1, 200), Spend::Lacking);
}

#[test]
fn what_nobody_wants_is_returned_and_then_nothing_is_sent() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
    let answer = granted(&mut leases, 0, 1);
    leases.answered(&answer, 0);
    assert_eq!(leases.spend(ACCOUNT, 1, 0), taken(9));
    let report = leases.reports(2_000).remove(0);
    assert!(report.release && report.used == 1);
    leases.answered(
        &Answer {
            r#final: true,
            ..answer
        },
        2_000,
    );
    assert!(leases.is_empty() && leases.reports(3_000).is_empty());
}

#[test]
fn a_quick_spender_asks_for_a_second_ahead_of_need() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
    let answer = granted(&mut leases, 0, 100);
    leases.answered(&answer, 0);
    for _ in 0..60 {
        assert_eq!(leases.spend(ACCOUNT, 1, 100), taken(9));
    }
    let report = &leases.reports(200)[0];
    assert_eq!((report.used, report.want, report.need), (60, 100, 0));
    for _ in 0..20 {
        assert_eq!(leases.spend(ACCOUNT, 1, 300), taken(9));
    }
    assert_eq!(leases.reports(300)[0].want, 160);
}

#[test]
fn a_burst_asks_for_all_who_wait_and_only_once() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 2, 0), Spend::Lacking);
    leases.expect(&ACCOUNT, 60);
    let report = &leases.reports(0)[0];
    assert_eq!((report.want, report.need), (60, 2));
    let report = &leases.reports(20)[0];
    assert_eq!(
        (report.want, report.need),
        (16, 2),
        "some units, as for any"
    );
}

#[test]
fn more_leases_than_one_call_holds_take_turns() {
    let mut leases = leases();
    for number in 0..1_500_u16 {
        let mut account = [0; 32];
        account[..2].copy_from_slice(&number.to_be_bytes());
        assert_eq!(leases.spend(AccountId(account), 1, 0), Spend::Lacking);
    }
    let first = leases.reports(0);
    let second = leases.reports(100);
    assert_eq!(
        (first.len(), second.len()),
        (MAX_REPORTS, 1_500 - MAX_REPORTS)
    );
    assert!(second[0].account > first[MAX_REPORTS - 1].account);
    assert_eq!(leases.reports(200)[0].account, first[0].account);
}

#[test]
fn what_was_granted_with_an_open_is_spent_or_returned_but_never_both() {
    for (is_heard, has_lease) in [(true, false), (false, false), (true, true)] {
        let mut leases = leases();
        let report = leases.begin(ACCOUNT, 2);
        assert!(leases.reports(0).is_empty(), "it is none of ours yet");
        if has_lease {
            assert_eq!(leases.spend(ACCOUNT, 2, 0), Spend::Lacking);
        }
        let answer = Answer {
            account: ACCOUNT,
            holder: report.holder,
            granted: 4,
            returned: 0,
            spent: 0,
            recall: false,
            r#final: false,
            short: false,
            state: AccountState::Open,
        };
        let heard = is_heard.then_some(&answer);
        assert_eq!(leases.begun(&report, heard, 0), None);
        let is_ours = is_heard && !has_lease;
        let spend = leases.spend(ACCOUNT, 2, 10);
        assert_eq!(spend == Spend::Taken(report.holder), is_ours);
        let told = leases.reports(20);
        let told = told.iter().find(|one| one.holder == report.holder).unwrap();
        assert_eq!(
            (told.release, told.used),
            (!is_ours, u64::from(is_ours) * 2)
        );
        let ended = Answer {
            r#final: true,
            ..answer
        };
        leases.answered(&ended, 20);
        let again = leases.reports(40);
        assert!(again.iter().all(|one| one.holder != report.holder));
    }
}

#[test]
fn of_an_account_that_there_is_not_nothing_is_kept() {
    let mut leases = leases();
    assert_eq!(leases.spend(ACCOUNT, 2, 0), Spend::Lacking);
    let answer = Answer {
        state: AccountState::Unknown,
        ..granted(&mut leases, 0, 0)
    };
    assert_eq!(leases.answered(&answer, 0), Some(InVain::Unknown));
    assert!(leases.is_empty());
    // Nor of one of which nobody ever says anything.
    assert_eq!(leases.spend(ACCOUNT, 2, 0), Spend::Lacking);
    assert_eq!(leases.reports(9_999).len(), 1);
    assert!(leases.reports(10_000).is_empty() && leases.is_empty());
}
