use protocol::lease::AccountId;

use super::*;

fn ask(n: u16) -> Report {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    Report {
        account: AccountId([7; 32]),
        holder: HolderId(id),
        used: 0,
        returned: 0,
        want: 1,
        need: 1,
        price: 1,
        release: false,
    }
}

#[test]
fn an_account_has_only_so_many_live_leases_and_loses_nothing_by_it() {
    let mut account = Account {
        deposited: 100_000,
        is_open: true,
        ..Account::default()
    };
    for n in 0..256 {
        assert!(!account.report(&ask(n), 0).answer.r#final, "{n}");
    }
    let free = account.free();
    for n in 256..600 {
        let answer = account.report(&ask(n), 0).answer;
        assert!(answer.r#final && !answer.short, "{n}: {answer:?}");
        assert_eq!((answer.granted, answer.state), (0, AccountState::Open));
    }
    assert_eq!((account.holders.len(), account.free()), (256, free));
    // Whoever has one goes on, and the next finds room when one is returned.
    let more = Report {
        used: 1,
        want: 2,
        ..ask(3)
    };
    assert_eq!(account.report(&more, 0).answer.granted, 2);
    let release = Report {
        release: true,
        ..ask(4)
    };
    assert!(account.report(&release, 0).answer.r#final);
    assert_eq!(account.report(&ask(256), 0).answer.granted, 1);
    assert!(account.report(&ask(257), 0).answer.r#final);
}
