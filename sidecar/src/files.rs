//! Secrets that are read again while serving, when their files change.

use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the files hold, to see that it changes; nothing where one cannot be read.
type Look = Vec<Option<[u8; 32]>>;

/// Keeps `current` at what `read` makes of `files`, for ever. A change is taken up when two looks
/// have found it the same, since a file may be half written and a key comes after its certificate.
/// What `read` refuses is logged, and what was good before stays.
pub async fn follow<T>(
    what: &'static str,
    files: Vec<PathBuf>,
    read: impl Fn() -> Result<T, String>,
    current: watch::Sender<T>,
) {
    let (mut last, mut taken) = (None, None);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let seen = Some(look(&files).await);
        let is_settled = seen == last;
        last.clone_from(&seen);
        if !is_settled || seen == taken {
            continue;
        }
        // The first time for what has changed between the start and the first look.
        let is_change = taken.is_some();
        taken = seen;
        match read() {
            Ok(value) => {
                current.send_replace(value);
                if is_change {
                    tracing::info!(what, "read again");
                }
            }
            Err(error) => {
                tracing::error!(what, %error, "cannot be read again; what was good before stays");
            }
        }
    }
}

async fn look(files: &[PathBuf]) -> Look {
    let mut looks = Vec::with_capacity(files.len());
    for file in files {
        let bytes = tokio::fs::read(file).await.map(zeroize::Zeroizing::new);
        looks.push(bytes.ok().map(|bytes| Sha256::digest(&*bytes).into()));
    }
    looks
}
