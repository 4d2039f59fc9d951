//! Makes and checks macaroons for other programs, to compare libraries with each other.
//!
//! Reads one JSON request per line from standard input and answers each with a line:
//!
//! ```text
//! {"op":"mint","root_key":HEX,"location":TEXT,"identifier":HEX,"caveats":[TEXT…]} → {"token":BASE64}
//! {"op":"attenuate","token":BASE64,"caveats":[TEXT…]}                             → {"token":BASE64}
//! {"op":"verify","root_key":HEX,"token":BASE64}
//!     → {"valid":BOOL,"location":TEXT,"identifier":HEX,"caveats":[TEXT…]} or {"error":TEXT}
//! ```

use std::io::{BufRead as _, Write as _};

use protocol::encoding::{base64_decode_lenient, hex_decode_into, hex_encode};
use protocol::macaroon::{Macaroon, MacaroonBuf};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Mint {
        root_key: String,
        location: String,
        identifier: String,
        caveats: Vec<String>,
    },
    Attenuate {
        token: String,
        caveats: Vec<String>,
    },
    Verify {
        root_key: String,
        token: String,
    },
}

type Answer = Result<Value, Box<dyn std::error::Error>>;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = answer(&line?).unwrap_or_else(|error| json!({"error": error.to_string()}));
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(line: &str) -> Answer {
    match serde_json::from_str(line)? {
        Request::Mint {
            root_key,
            location,
            identifier,
            caveats,
        } => {
            let (root_key, identifier) = (bytes(&root_key)?, bytes(&identifier)?);
            let macaroon = MacaroonBuf::new(&root_key, location.as_bytes(), &identifier);
            Ok(with_caveats(macaroon, &caveats))
        }
        Request::Attenuate { token, caveats } => {
            let token = base64_decode_lenient(token)?;
            Ok(with_caveats(
                MacaroonBuf::from(&Macaroon::parse(&token)?),
                &caveats,
            ))
        }
        Request::Verify { root_key, token } => {
            let token = base64_decode_lenient(token)?;
            let macaroon = Macaroon::parse(&token)?;
            let caveats: Vec<_> = macaroon.caveats().map(String::from_utf8_lossy).collect();
            Ok(json!({
                "valid": macaroon.is_signed_with(&bytes(&root_key)?),
                "location": String::from_utf8_lossy(macaroon.location()),
                "identifier": hex_encode(macaroon.identifier()),
                "caveats": caveats,
            }))
        }
    }
}

fn with_caveats(mut macaroon: MacaroonBuf, caveats: &[String]) -> Value {
    for caveat in caveats {
        macaroon.add(caveat.as_bytes());
    }
    json!({"token": macaroon.to_base64()})
}

fn bytes(hex: &str) -> Result<Vec<u8>, protocol::encoding::DecodeError> {
    let mut bytes = Vec::new();
    hex_decode_into(hex.as_bytes(), &mut bytes)?;
    Ok(bytes)
}
