//! Durations as text: `250ms`, `30s`, `10m`, `24h`, `7d`.

use std::time::Duration;

/// Longest duration that a setting may have: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Reads a duration.
///
/// # Errors
/// The text is none, or longer than ten years.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("must be a duration such as 250ms, 30s, 10m or 24h, found `{text}`");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let millis = number.checked_mul(millis_per_unit).ok_or_else(wrong)?;
    let duration = Duration::from_millis(millis);
    if duration > LONGEST {
        Err("must not be longer than ten years".to_owned())
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse("2d"), Ok(Duration::from_secs(172_800)));
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "99999999999999999999s",
            "9999999d",
            "5w",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
