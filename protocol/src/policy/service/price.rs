//! Reads by what a service is sold, and for how much.

use super::{SessionTerms, Unit};
use crate::amount::{Msat, Sat};
use crate::policy::reader::{Node, Object, Once, or_default};

/// Deposits are this many units unless the configuration says otherwise (R-SESSION-4).
const DEFAULT_UNITS: u64 = 20;

/// By what a service is sold.
pub(super) struct Schemes {
    pub(super) l402: bool,
    pub(super) charge: bool,
    pub(super) session: bool,
}

impl Default for Schemes {
    fn default() -> Self {
        Self {
            l402: true,
            ..Self::NONE
        }
    }
}

impl Schemes {
    const NONE: Self = Self {
        l402: false,
        charge: false,
        session: false,
    };
}

pub(super) fn read_schemes(node: &Node<'_>) -> Option<Schemes> {
    const NAMES: [&str; 3] = ["l402", "charge", "session"];
    let once = Once::new("scheme");
    let mut schemes = Schemes::NONE;
    let mut is_any = false;
    for node in node.list(1..=NAMES.len()) {
        let name = node.choice(&NAMES.map(|name| (name, name)))?;
        once.check(&node, name);
        is_any = true;
        match name {
            "l402" => schemes.l402 = true,
            "charge" => schemes.charge = true,
            _ => schemes.session = true,
        }
    }
    is_any.then_some(schemes)
}

pub(super) fn read_session(node: Node<'_>, service_price: Option<Msat>) -> Option<SessionTerms> {
    let object = node.object()?;
    let price = object.optional("price").map(read_sats);
    let deposit = object.optional("deposit").map(read_sats);
    let unit = or_default(object.optional("unit"), Unit::Request, |node| {
        node.choice(&[("request", Unit::Request), ("event", Unit::Event)])
    });
    let price = match price {
        Some(price) => price?,
        None => whole_sats(&object, service_price?)?,
    };
    let deposit = match deposit {
        Some(deposit) => deposit?,
        None => default_deposit(&object, price)?,
    };
    if deposit < price {
        object.error("deposit must cover at least one unit");
    }
    object.finish();
    Some(SessionTerms {
        price,
        deposit,
        unit,
    })
}

pub(super) fn read_default_session(
    object: &Object<'_>,
    price: Option<Msat>,
) -> Option<SessionTerms> {
    let price = whole_sats(object, price?)?;
    Some(SessionTerms {
        price,
        deposit: default_deposit(object, price)?,
        unit: Unit::Request,
    })
}

/// A unit costs what the service costs, if that can be said in satoshis.
fn whole_sats(object: &Object<'_>, price: Msat) -> Option<Sat> {
    if !price.get().is_multiple_of(1_000) {
        object.error("session needs a price of whole satoshis");
        return None;
    }
    Some(Sat::price_of(price))
}

fn default_deposit(object: &Object<'_>, price: Sat) -> Option<Sat> {
    let deposit = price.get().checked_mul(DEFAULT_UNITS).and_then(Sat::new);
    if deposit.is_none() {
        object.error("session needs a deposit: 20 times the price is too much");
    }
    deposit
}

/// `{ "sat": n }`.
fn read_sats(node: Node<'_>) -> Option<Sat> {
    let object = node.object()?;
    let sat = object
        .required("sat")
        .and_then(|node| node.number(1..=Sat::MAX.get()));
    object.finish();
    Sat::new(sat?)
}

/// The Payment scheme cannot say less than a satoshi.
pub(super) fn read_price(node: Node<'_>, must_be_whole: bool) -> Option<Msat> {
    let object = node.object()?;
    let sat = object
        .optional("sat")
        .map(|node| node.number(1..=Msat::MAX.get() / 1_000));
    let msat = object
        .optional("msat")
        .map(|node| node.number(1..=Msat::MAX.get()));
    if sat.is_some() == msat.is_some() {
        object.error("expected exactly one of sat and msat");
    }
    if let Some(Some(msat)) = msat
        && must_be_whole
        && msat % 1_000 != 0
    {
        object.error("must be whole satoshis where charge is sold");
    }
    object.finish();
    match (sat, msat) {
        (Some(sat), None) => Msat::from_sat(sat?),
        (None, Some(msat)) => Msat::new(msat?),
        _ => None,
    }
}
