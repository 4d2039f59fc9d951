//! `Accept-Payment`: which offers a client wants (spec/payment-auth section 2.10, R-CORE-19).
//!
//! ```text
//! Accept-Payment = #( ( method / "*" ) "/" ( intent / "*" ) [ OWS ";" OWS "q=" qvalue ] )
//! ```

use std::cmp::Reverse;

use super::{Intent, METHOD};
use crate::http::auth::is_token;

/// Name of the header.
pub const HEADER: &str = "accept-payment";
/// Most ranges that are looked at; a header with more is ignored.
const MAX_RANGES: usize = 32;

/// What a client accepts; nothing said means everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AcceptPayment {
    /// Of the ranges those about our method.
    ranges: Vec<Range>,
    /// Something was said, if only about other methods.
    is_given: bool,
}

/// What was said about our method. Quality in thousandths.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Range {
    /// `None` for `*`.
    intent: Option<Intent>,
    /// `lightning` as opposed to `*`.
    names_method: bool,
    quality: u16,
}

impl AcceptPayment {
    /// Reads all values of the header. One that is malformed counts as absent, all of it.
    #[must_use]
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut ranges = Vec::new();
        let mut count = 0;
        for value in values {
            for element in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if element.is_empty() {
                    continue;
                }
                count += 1;
                let Some(range) = Range::parse(element).filter(|_| count <= MAX_RANGES) else {
                    return Self::default();
                };
                ranges.extend(range);
            }
        }
        Self {
            ranges,
            is_given: count > 0,
        }
    }

    /// The client wants offers of this intent, or did not say what it wants.
    #[must_use]
    pub fn accepts(&self, intent: Intent) -> bool {
        !self.is_given || self.quality(intent).is_some_and(|quality| quality > 0)
    }

    /// The offers to be made, best first: those the client refuses are left out, equals stay in
    /// the given order. If that leaves none the header is ignored, since a 402 needs a challenge.
    #[must_use]
    pub fn select(&self, offers: &[Intent]) -> Vec<Intent> {
        let mut wanted: Vec<_> = offers
            .iter()
            .filter_map(|intent| Some((self.quality(*intent)?, *intent)))
            .filter(|(quality, _)| *quality > 0)
            .collect();
        if wanted.is_empty() {
            return offers.to_vec();
        }
        wanted.sort_by_key(|(quality, _)| Reverse(*quality));
        wanted.into_iter().map(|(_, intent)| intent).collect()
    }

    /// By the most specific range, of equals the one with the higher quality.
    fn quality(&self, intent: Intent) -> Option<u16> {
        self.ranges
            .iter()
            .filter(|range| range.intent.is_none_or(|named| named == intent))
            .map(|range| (range.specificity(), range.quality))
            .max()
            .map(|(_, quality)| quality)
    }
}

impl Range {
    fn specificity(self) -> u8 {
        u8::from(self.names_method) + u8::from(self.intent.is_some())
    }

    /// `None` if malformed, `Some(None)` if it is about other methods or intents.
    fn parse(element: &[u8]) -> Option<Option<Self>> {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let mut names = parts.next()?.split(|byte| *byte == b'/');
        let (method, intent) = (names.next()?, names.next()?);
        let is_name = |name: &[u8]| !name.is_empty() && name.iter().all(|byte| is_token(*byte));
        if names.next().is_some() || !is_name(method) || !is_name(intent) {
            return None;
        }
        let quality = match parts.next() {
            None => 1_000,
            Some(weight) => {
                let (name, value) = weight.split_at_checked(2)?;
                name.eq_ignore_ascii_case(b"q=").then_some(())?;
                thousandths(value)?
            }
        };
        if parts.next().is_some() {
            return None;
        }
        let intent = match intent {
            b"*" => Some(None),
            b"charge" => Some(Some(Intent::Charge)),
            b"session" => Some(Some(Intent::Session)),
            _ => None,
        };
        let is_about_us = method == b"*" || method == METHOD.as_bytes();
        Some(intent.filter(|_| is_about_us).map(|intent| Self {
            intent,
            names_method: method != b"*",
            quality,
        }))
    }
}

/// A quality value (RFC 9110 section 12.4.2): 0 to 1 with at most three digits after the point.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let mut quality = match whole {
        b'0' => 0,
        b'1' => 1_000,
        _ => return None,
    };
    let mut unit = 100;
    for digit in fraction {
        if !digit.is_ascii_digit() {
            return None;
        }
        quality += u16::from(digit - b'0') * unit;
        unit /= 10;
    }
    (quality <= 1_000).then_some(quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(header: &str) -> Vec<Intent> {
        AcceptPayment::parse([header.as_bytes()]).select(&[Intent::Charge, Intent::Session])
    }

    const BOTH: [Intent; 2] = [Intent::Charge, Intent::Session];

    #[test]
    fn malformed_or_endless_headers_are_ignored() {
        let long = "lightning/session,".repeat(MAX_RANGES + 1);
        for header in [
            "",
            ",",
            "lightning",
            "lightning/session/x",
            "lightning/",
            "/session",
            "lightning/session;q=1.001",
            "lightning/session;q=0.1234",
            "lightning/session;q=2",
            "lightning/session;q=",
            "lightning/session;x=1",
            "lightning/session;q=1;q=1",
            "light ning/session",
            "lightning/session, ;;;",
            &long,
        ] {
            assert_eq!(select(header), BOTH, "{header}");
        }
    }

    #[test]
    fn blanks_case_of_q_and_several_values_do_not_matter() {
        assert_eq!(select("\tlightning/session ; Q=1.000 ,"), [Intent::Session]);
        let values = [&b"lightning/charge;q=0"[..], b"*/*;q=0.5"];
        assert_eq!(
            AcceptPayment::parse(values).select(&BOTH),
            [Intent::Session]
        );
    }

    #[test]
    fn an_offer_beside_others_is_dropped_unless_it_is_wanted() {
        let accepts = |header: &[u8]| AcceptPayment::parse([header]).accepts(Intent::Charge);
        for header in [&b""[..], b"nonsense", b"*/*", b"lightning/charge;q=0.1"] {
            assert!(accepts(header));
        }
        for header in [&b"*/*;q=0"[..], b"lightning/session", b"tempo/charge"] {
            assert!(!accepts(header));
        }
    }

    #[test]
    fn of_equal_ranges_the_better_one_counts() {
        assert_eq!(
            select("*/charge;q=0, lightning/*;q=0.5, lightning/session;q=0.5"),
            BOTH
        );
        assert_eq!(select("*/*;q=0"), BOTH);
    }
}
