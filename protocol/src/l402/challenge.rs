//! The two header lines of a 402, in the one spelling that every known client reads: `macaroon`
//! first, `invoice` second, quoted, comma and blank, anything else after them; the LSAT line
//! before the L402 line (spec/l402 E3).

/// `WWW-Authenticate` value for clients that know the older name.
///
/// `macaroon` is standard padded base64 and `invoice` BOLT 11 text, see
/// [`crate::api::Offer::check`]: neither can hold a quotation mark or a line break.
#[must_use]
pub fn lsat_line(macaroon: &str, invoice: &str) -> String {
    [
        "LSAT macaroon=\"",
        macaroon,
        "\", invoice=\"",
        invoice,
        "\"",
    ]
    .concat()
}

/// `WWW-Authenticate` value that satisfies both the old and the new text of the specification:
/// the names it does not know must be ignored by a client.
#[must_use]
pub fn l402_line(macaroon: &str, invoice: &str) -> String {
    [
        "L402 macaroon=\"",
        macaroon,
        "\", invoice=\"",
        invoice,
        "\", version=\"0\", token=\"",
        macaroon,
        "\"",
    ]
    .concat()
}
