//! `boltgate tokens` and `boltgate keys`: changes made in the ledger itself. A running sidecar
//! sees them within a second.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use protocol::api::KeyState;
use protocol::encoding::base64_decode_lenient;
use protocol::hash::PaymentHash;
use protocol::l402::{Identifier, TokenId};
use protocol::macaroon::Macaroon;

use super::revoke_key::{self, RevokeKeyArgs};
use super::{ConfigArgs, fail, print, rotation, with_config};
use crate::adapters::ledger::AnyLedger;
use crate::adapters::system::{SystemClock, SystemRandom};
use crate::app::keys::MasterKeys;
use crate::config::{Config, StoreConfig};
use crate::domain::keys::{Generation, RotationHeld};
use crate::domain::ledger::{GenerationUse, LedgerError, NewRevocation, OfferName};
use crate::domain::offer::Validity;
use crate::domain::ports::{Clock as _, Ledger};

#[derive(Debug, Subcommand)]
pub(super) enum TokensCommand {
    /// Refuse a token from now on, at every filter within 5 s.
    Revoke {
        #[command(flatten)]
        name: TokenName,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct TokenName {
    /// Token id, 64 hexadecimal digits, as in the trusted header and in access logs.
    #[arg(long, value_name = "HEX")]
    token_id: Option<TokenId>,
    /// Payment hash of its invoice, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    payment_hash: Option<PaymentHash>,
    /// The token itself, or one derived from it.
    #[arg(long, value_name = "BASE64")]
    macaroon: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Begin to use a new master key. Tokens that were sold stay good.
    Rotate {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Refuse everything sold under a retired generation, at every filter within 5 s.
    Revoke(RevokeKeyArgs),
    /// Show the key generations and what each is kept for.
    List {
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(super) async fn tokens(command: TokensCommand) -> ExitCode {
    let TokensCommand::Revoke { name, config } = command;
    with_config(&config, async |config| report(revoke(&name, &config).await)).await
}

pub(super) async fn keys(command: KeysCommand) -> ExitCode {
    match command {
        KeysCommand::Rotate { config } => {
            with_config(&config, async |config| report(rotate(config).await)).await
        }
        KeysCommand::Revoke(args) => revoke_key::execute(args).await,
        KeysCommand::List { config } => {
            with_config(&config, async |config| report(list(&config).await)).await
        }
    }
}

pub(super) fn report(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => print(&text),
        Err(error) => fail(error),
    }
}

/// Only a ledger that is there: a wrong path must not make a new one that nobody reads.
pub(super) async fn open(config: &Config) -> Result<AnyLedger, String> {
    must_exist(config)?;
    let ledger = AnyLedger::open(&config.ledger).await;
    ledger.map_err(|error| error.to_string())
}

/// A database is there or is not; a file would be made.
pub(super) fn must_exist(config: &Config) -> Result<(), String> {
    if let StoreConfig::Sqlite(path) = &config.ledger.store
        && !path.exists()
    {
        return Err(format!("there is no ledger at {}", path.display()));
    }
    Ok(())
}

async fn revoke(name: &TokenName, config: &Config) -> Result<String, String> {
    let ledger = open(config).await?;
    let (identifier, expires) = resolve(name, &ledger).await?;
    let clock = SystemClock::new();
    let revocation = NewRevocation {
        identifier_hash: identifier.hash(),
        expires,
        at: clock.now(),
    };
    let is_new = ledger.revoke(revocation, clock.unix_millis()).await;
    ledger.close().await;
    match is_new.map_err(|error| error.to_string())? {
        true => Ok(format!("token {} is revoked", identifier.token_id)),
        false => Ok(format!("token {} was revoked before", identifier.token_id)),
    }
}

async fn resolve(name: &TokenName, ledger: &AnyLedger) -> Result<(Identifier, Validity), String> {
    let named = identifier_of(name)?;
    let by = match (named, name.token_id, name.payment_hash) {
        (Some(identifier), ..) => OfferName::PaymentHash(identifier.payment_hash),
        (_, Some(id), _) => OfferName::TokenId(id),
        (_, _, Some(hash)) => OfferName::PaymentHash(hash),
        _ => return Err("name a token".to_owned()),
    };
    let offer = ledger
        .find_offer(by)
        .await
        .map_err(|error| error.to_string())?;
    match (named, offer) {
        (None, None) => Err("no offer of this name is in the ledger".to_owned()),
        (None, Some(offer)) => {
            let (payment_hash, token_id) = (offer.payment_hash, offer.token_id);
            Ok((
                Identifier {
                    payment_hash,
                    token_id,
                },
                offer.valid_until,
            ))
        }
        // Its end is believed to our own record only, never to the token.
        (Some(identifier), offer) => {
            let same = offer.filter(|offer| offer.token_id == identifier.token_id);
            Ok((
                identifier,
                same.map_or(Validity::Forever, |offer| offer.valid_until),
            ))
        }
    }
}

fn identifier_of(name: &TokenName) -> Result<Option<Identifier>, String> {
    let Some(text) = &name.macaroon else {
        return Ok(None);
    };
    let bytes = base64_decode_lenient(text.trim()).map_err(|error| error.to_string())?;
    let macaroon = Macaroon::parse(&bytes).map_err(|error| error.to_string())?;
    Identifier::parse(macaroon.identifier())
        .map(Some)
        .map_err(|error| error.to_string())
}

async fn rotate(config: Config) -> Result<String, String> {
    let ledger = open(&config).await?;
    let snapshot = ledger.snapshot().await.map_err(|error| error.to_string())?;
    let keys = MasterKeys::new(config.master_keys, config.master_key_file);
    let key = keys
        .next_key(&snapshot.generations, &SystemRandom)
        .map_err(|error| error.to_string())?
        .ok_or(
            "every key of the master key file is in use; add a line with a new one at its end",
        )?;
    let begun = ledger
        .begin_rotation(key, SystemClock::new().unix_millis())
        .await;
    let told = described(&ledger, &snapshot.generations).await;
    ledger.close().await;
    let error = match begun {
        Ok(id) => {
            return Ok(format!(
                "generation {id} is next; it becomes current when every live filter has \
                 acknowledged it"
            ));
        }
        Err(error) => error,
    };
    let mut lines = vec![error.to_string()];
    if let LedgerError::Held(RotationHeld::Pending { id, .. }) = error {
        lines.push(rotation::waits_for(config.admin, id).await);
    }
    lines.push(told);
    Err(lines.join("\n"))
}

async fn list(config: &Config) -> Result<String, String> {
    let ledger = open(config).await?;
    let snapshot = ledger.snapshot().await.map_err(|error| error.to_string());
    let told = match &snapshot {
        Ok(snapshot) => described(&ledger, &snapshot.generations).await,
        Err(_) => String::new(),
    };
    ledger.close().await;
    let (generations, mut text) = (snapshot?.generations, told);
    if let Some(next) = generations.iter().find(|g| g.state == KeyState::Next) {
        text.push('\n');
        text.push_str(&rotation::waits_for(config.admin, next.id).await);
    }
    Ok(text)
}

/// One line for each generation: what was issued under it, and what holds it if it is retired.
async fn described(ledger: &AnyLedger, generations: &[Generation]) -> String {
    let now = SystemClock::new().now();
    let mut lines = Vec::with_capacity(generations.len());
    for generation in generations {
        let issued = match generation.issued {
            None => "nothing issued".to_owned(),
            Some(Validity::Forever) => "issued tokens without end".to_owned(),
            Some(Validity::Until(end)) => {
                format!("issued what is valid until {}", end.to_rfc3339())
            }
        };
        // Only what is retired is held by anything.
        let held = match ledger.generation_use(generation.id, now).await {
            Ok(held) => format!("; {}", held_by(&held)),
            Err(_) => String::new(),
        };
        let (id, state) = (generation.id, generation.state);
        lines.push(format!("generation {id}: {state:?}, {issued}{held}"));
    }
    lines.join("\n")
}

fn held_by(held: &GenerationUse) -> String {
    let GenerationUse {
        sold,
        unpaid,
        sessions,
    } = held;
    format!("held by {sold} sold tokens, {unpaid} unpaid offers, {sessions} sessions")
}
