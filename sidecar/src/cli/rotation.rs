//! What a rotation of the master key waits for. The ledger does not know: the running sidecar does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::http::admin::RotationStatus;
use crate::http::client;

/// Says what keeps generation `next` from being current.
pub(super) async fn waits_for(admin: SocketAddr, next: u8) -> String {
    match ask(admin).await {
        Ok(status) => told(&status, next),
        Err(error) => {
            format!(
                "no sidecar tells which filters it waits for, and only a running one moves it on: {error}"
            )
        }
    }
}

async fn ask(admin: SocketAddr) -> Result<RotationStatus, String> {
    let url = format!("http://{}/rotation", reachable(admin));
    let answer = client::request(&url, None).await?;
    if answer.status != 200 {
        return Err(format!("{url}: status {}: {}", answer.status, answer.body));
    }
    serde_json::from_str(&answer.body).map_err(|error| format!("{url}: {error}"))
}

/// Who listens everywhere is found on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

fn told(status: &RotationStatus, next: u8) -> String {
    if status.next != Some(next) {
        return "the sidecar has yet to read it from the ledger".to_owned();
    }
    let mut lines: Vec<String> = (status.named.iter())
        .map(|filter| {
            let (vm, seconds) = (&filter.vm, filter.seen_seconds_ago);
            format!("filter VM {vm}, last seen {seconds} s ago, has not acknowledged it")
        })
        .collect();
    let unnamed = status.behind.saturating_sub(lines.len());
    if unnamed > 0 {
        lines.push(format!("nor have {unnamed} others"));
    }
    if lines.is_empty() && status.listening {
        lines.push("too little time has passed to have heard of every filter".to_owned());
    }
    if lines.is_empty() {
        lines.push("every live filter has acknowledged it; it becomes current now".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::admin::FilterBehind;

    #[test]
    fn each_reason_is_told() {
        let next = Some(7);
        let behind = RotationStatus {
            next,
            listening: false,
            behind: 3,
            named: vec![FilterBehind {
                vm: "ab".to_owned(),
                seen_seconds_ago: 4,
            }],
        };
        assert_eq!(
            told(&behind, 7),
            "filter VM ab, last seen 4 s ago, has not acknowledged it\nnor have 2 others"
        );
        let listening = RotationStatus {
            next,
            listening: true,
            ..RotationStatus::default()
        };
        assert!(told(&listening, 7).contains("too little time"));
        let done = RotationStatus {
            next,
            ..RotationStatus::default()
        };
        assert!(told(&done, 7).contains("becomes current now"));
        assert!(told(&RotationStatus::default(), 7).contains("yet to read it"));
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:9403", "127.0.0.1:9403"),
            ("[::]:9403", "[::1]:9403"),
            ("192.0.2.1:9403", "192.0.2.1:9403"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), asked);
        }
    }
}
