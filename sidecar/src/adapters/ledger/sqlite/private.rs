//! A ledger that was there before, such as a copy put back, may be readable by others.

use std::path::Path;

use crate::domain::ledger::LedgerError;

/// Takes the file away from everybody but its owner, if it is ours. If it is not, one that all may
/// read is refused; one that its group may read is how somebody else lets us read it.
#[cfg(unix)]
pub(super) fn tighten(path: &Path) -> Result<(), LedgerError> {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    let mode = match fs::metadata(path) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LedgerError::Store(format!("{}: {error}", path.display()))),
    };
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let tightened = fs::set_permissions(path, Permissions::from_mode(0o600));
    judge(path, mode, tightened)
}

/// Modes are for Unix.
#[cfg(not(unix))]
pub(super) fn tighten(_: &Path) -> Result<(), LedgerError> {
    Ok(())
}

#[cfg(unix)]
fn judge(path: &Path, mode: u32, tightened: std::io::Result<()>) -> Result<(), LedgerError> {
    let (file, text) = (path.display(), format!("{mode:03o}"));
    match tightened {
        Ok(()) => {
            tracing::warn!(%file, mode = text, "the ledger could be read by others; its mode is 600 now");
            Ok(())
        }
        Err(_) if mode & 0o007 == 0 => Ok(()),
        Err(error) => Err(LedgerError::Exposed {
            file: file.to_string(),
            mode: text,
            error: error.to_string(),
        }),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_of_somebody_else_is_refused_if_everybody_can_read_it() {
        let judged = |mode| {
            let denied = Err(std::io::ErrorKind::PermissionDenied.into());
            judge(Path::new("l.db"), mode, denied)
        };
        assert_eq!(judged(0o660), Ok(()), "lent to our group");
        let refused = judged(0o644).unwrap_err().to_string();
        assert!(refused.contains("l.db has mode 644"), "{refused}");
        assert!(refused.contains("chmod 600"), "{refused}");
    }
}
