use std::net::IpAddr;

use protocol::policy::ClientLimits;

use super::*;

fn clients() -> Clients {
    Clients::new(
        Limits {
            per_minute: 60,
            burst: 3,
            paid_factor: 10,
        },
        7,
    )
}

fn client(address: &str) -> Client {
    Client::new(Some(address.parse().unwrap()), &ClientLimits::default())
}

fn taken(clients: &mut Clients, client: Client, now_ms: u64) -> usize {
    (0..1_000)
        .take_while(|_| clients.take(client, now_ms).is_ok())
        .count()
}

#[test]
fn a_client_gets_its_burst_and_then_its_rate() {
    let mut clients = clients();
    let client = client("192.0.2.1");
    assert_eq!(taken(&mut clients, client, 0), 3);
    assert_eq!(clients.take(client, 0), Err(1));
    assert_eq!(taken(&mut clients, client, 999), 0);
    assert_eq!(taken(&mut clients, client, 2_000), 2);
    assert_eq!(taken(&mut clients, client, 1_000_000), 3);
}

#[test]
fn a_slow_drip_of_requests_does_not_starve_the_bucket() {
    let mut clients = clients();
    let client = client("192.0.2.1");
    taken(&mut clients, client, 0);
    let got = (0..5_000)
        .filter(|ms| clients.take(client, *ms).is_ok())
        .count();
    assert_eq!(got, 4);
}

#[test]
fn one_client_does_not_touch_another() {
    let mut clients = clients();
    taken(&mut clients, client("192.0.2.1"), 0);
    assert_eq!(taken(&mut clients, client("192.0.2.2"), 0), 3);
}

#[test]
fn who_has_paid_gets_more() {
    let mut clients = clients();
    let client = client("192.0.2.1");
    taken(&mut clients, client, 0);
    clients.has_paid(client, 0);
    assert!(clients.is_known_to_have_paid(client.prefix));
    assert_eq!(taken(&mut clients, client, 0), 30);
}

#[test]
fn many_addresses_side_by_side_share_a_larger_bucket() {
    let mut clients = clients();
    let all = |clients: &mut Clients, addresses: fn(u32) -> String| -> usize {
        let addresses = (0..250).map(addresses);
        addresses.map(|a| taken(clients, client(&a), 0)).sum()
    };
    assert_eq!(all(&mut clients, |n| format!("192.0.2.{n}")), 30);
    assert_eq!(all(&mut clients, |n| format!("2001:db8:0:{n:x}::1")), 30);
    assert_eq!(taken(&mut clients, client("192.0.3.1"), 0), 3);
    // A seller's customer there is not kept out.
    clients.has_paid(client("192.0.2.7"), 0);
    assert_eq!(taken(&mut clients, client("192.0.2.7"), 0), 30);
    assert_eq!(taken(&mut clients, client("192.0.2.8"), 1_000), 1);
    let wide = ClientLimits {
        prefix_v4: 24,
        ..ClientLimits::default()
    };
    let address = Some("192.0.4.1".parse().unwrap());
    assert_eq!(Client::new(address, &wide).wide, None);
}

#[test]
fn what_was_not_given_is_given_back() {
    let mut clients = clients();
    let client = client("192.0.2.1");
    for _ in 0..100 {
        clients.take(client, 0).unwrap();
        clients.give_back(client, 0);
    }
    clients.give_back(client, 0);
    assert_eq!(taken(&mut clients, client, 0), 3);
}

#[test]
fn clients_without_an_address_are_one() {
    let mut clients = clients();
    let nobody = Client::new(None, &ClientLimits::default());
    clients.has_paid(nobody, 0);
    assert_eq!(taken(&mut clients, nobody, 0), 3);
    assert_eq!(taken(&mut clients, client("192.0.2.1"), 0), 3);
    assert_eq!(nobody.prefix(), None);
}

#[test]
fn a_flood_of_strangers_takes_nothing_from_who_has_paid() {
    let mut clients = clients();
    let payer = client("192.0.2.1");
    clients.has_paid(payer, 0);
    for number in 0..100_000_u32 {
        let address = IpAddr::V4((number << 8).into());
        let stranger = Client::new(Some(address), &ClientLimits::default());
        let _ = clients.take(stranger, 0);
    }
    assert_eq!(taken(&mut clients, payer, 0), 30);
}

#[test]
fn memory_is_bounded_and_a_busy_client_is_not_forgotten() {
    let mut clients = clients();
    let busy = client("192.0.2.1");
    taken(&mut clients, busy, 0);
    for number in 0..100_000_u32 {
        let address = Some(IpAddr::V4((number << 8).into()));
        let _ = clients.take(Client::new(address, &ClientLimits::default()), 0);
        if number % 1_000 == 0 {
            assert_eq!(clients.take(busy, 0), Err(1), "after {number}");
        }
    }
    assert_eq!(clients.sets.len(), SETS);
}

#[test]
fn addresses_are_cut_to_what_one_client_owns() {
    let prefix = |address: &str| Prefix::of(address.parse().unwrap(), 32, 64);
    assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::ffff:1"));
    assert_ne!(prefix("2001:db8::1"), prefix("2001:db8:0:1::1"));
    assert_eq!(prefix("::ffff:192.0.2.7"), prefix("192.0.2.7"));
    assert_eq!(prefix("192.0.2.7").to_string(), "192.0.2.7/32");
    assert_eq!(prefix("2001:db8::1").to_string(), "2001:db8::/64");
    assert_eq!(
        Prefix::of("1.2.3.4".parse().unwrap(), 8, 0).to_string(),
        "1.0.0.0/8"
    );
}
