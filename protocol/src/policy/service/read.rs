//! Reads services and their matches.

use std::time::Duration;

use super::price::{Schemes, read_default_session, read_price, read_schemes, read_session};
use super::{ChargeTerms, Rule, Service};
use crate::amount::Sat;
use crate::api::OfferTemplate;
use crate::l402::caveat::{CAPABILITIES_SUFFIX, MAX_LIST, PREIMAGE, SERVICES, VALID_UNTIL_SUFFIX};
use crate::policy::matcher::{PathMatch, read_headers, read_hosts, read_methods};
use crate::policy::reader::{Node, Object, Once, or_default};

const MAX_NAME: usize = 64;
const MAX_MATCHES: usize = 256;
const MAX_PATHS: usize = 256;
const MAX_CONSTRAINTS: usize = 32;
const MAX_VALUE: usize = 256;
/// Ten years.
const MAX_LIFETIME: Duration = Duration::from_secs(3_653 * 86_400);

/// Reads one service and its matches; `None` after an error that leaves nothing to go on with.
pub(in crate::policy) fn read_service(
    object: Object<'_>,
    index: usize,
    names: &Once<'_>,
) -> Option<(Service, Vec<Rule>)> {
    let name = object.required("name").and_then(|node| {
        let name = read_name(&node)?;
        names.check(&node, &name);
        Some(name)
    });
    let capabilities = or_default(
        object.optional("capabilities"),
        Vec::new(),
        read_capabilities,
    );
    let rules: Option<Vec<Rule>> = object.required("match").and_then(|node| {
        let matches = node.list(1..=MAX_MATCHES).into_iter();
        // After an error in one of them nothing is said about paths that it might reach.
        let read: Vec<_> = matches
            .map(|node| read_rule(node, index, &capabilities))
            .collect();
        read.into_iter().collect()
    });
    let schemes = or_default(object.optional("schemes"), Schemes::default(), read_schemes);
    let price = object
        .required("price")
        .and_then(|node| read_price(node, schemes.charge));
    let session = object.optional("session").map(|node| {
        if !schemes.session {
            node.error("the service does not sell by session: see schemes");
        }
        read_session(node, price)
    });
    let session = match session {
        Some(terms) => Some(terms?),
        None if schemes.session => Some(read_default_session(&object, price)?),
        None => None,
    };
    let settled = or_default(object.optional("chargeSettled"), false, |node| node.bool());
    let lifetime = object
        .optional("lifetime")
        .and_then(|node| read_lifetime(&node));
    let tier = or_default(object.optional("tier"), 0, |node| node.number(0..=255));
    let constraints = object
        .optional("constraints")
        .map(|node| read_constraints(node, &capabilities))
        .unwrap_or_default();
    let read_paths = |node: &Node<'_>| Some(read_paths(node, rules.as_deref().unwrap_or_default()));
    let free = or_default(object.optional("freePaths"), Vec::new(), read_paths);
    let no_invoice = or_default(object.optional("noInvoicePaths"), Vec::new(), read_paths);
    let cors_passthrough = or_default(object.optional("corsPassthrough"), false, |node| {
        node.bool()
    });
    object.finish();
    let price = price?;
    let amount = Sat::price_of(price);
    let template = OfferTemplate {
        service: name?,
        tier: u8::try_from(tier).ok()?,
        price_msat: price,
        lifetime_seconds: lifetime.map(|lifetime| lifetime.as_secs()),
        capabilities,
        constraints,
    };
    Some((
        Service {
            index,
            template,
            free,
            no_invoice,
            cors_passthrough,
            sells_l402: schemes.l402,
            charge: schemes.charge.then_some(ChargeTerms { amount, settled }),
            session: session.filter(|_| schemes.session),
        },
        rules?,
    ))
}

fn read_rule(node: Node<'_>, service: usize, capabilities: &[String]) -> Option<Rule> {
    let object = node.object()?;
    let hosts = object.required("hosts").map(|node| read_hosts(&node));
    let path = object.optional("path").map(PathMatch::read);
    let methods = or_default(object.optional("methods"), Vec::new(), read_methods);
    let headers = or_default(object.optional("headers"), Vec::new(), read_headers);
    let capability = object.optional("capability").and_then(|node| {
        let capability = read_name(&node)?;
        if !capabilities.is_empty() && !capabilities.contains(&capability) {
            node.error("not among the capabilities of the service: no token could ever have it");
        }
        Some(capability)
    });
    object.finish();
    // A path that could not be read must not become any path.
    let path = match path {
        Some(path) => Some(path?),
        None => None,
    };
    Some(Rule {
        service,
        hosts: hosts?,
        path,
        methods,
        headers,
        capability,
    })
}

/// Names become parts of caveats, header values and metric labels.
fn read_name(node: &Node<'_>) -> Option<String> {
    let text = node.string()?;
    if !is_name(text) {
        node.error(format!(
            "expected 1 to {MAX_NAME} ASCII letters, digits, \"-\" or \"_\""
        ));
        return None;
    }
    Some(text.to_owned())
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn read_capabilities(node: &Node<'_>) -> Option<Vec<String>> {
    let once = Once::new("capability");
    let read = |node: Node<'_>| {
        let name = read_name(&node)?;
        once.check(&node, &name);
        Some(name)
    };
    Some(
        node.list(0..=MAX_LIST)
            .into_iter()
            .filter_map(read)
            .collect(),
    )
}

fn read_lifetime(node: &Node<'_>) -> Option<Duration> {
    let lifetime = node.duration(Duration::from_secs(1)..=MAX_LIFETIME)?;
    if lifetime.subsec_millis() != 0 {
        node.error("expected whole seconds");
    }
    Some(lifetime)
}

/// Further caveats; must not read as one that the service writes itself.
fn read_constraints(node: Node<'_>, capabilities: &[String]) -> Vec<(String, String)> {
    let Some(object) = node.object() else {
        return Vec::new();
    };
    let mut constraints = Vec::new();
    for (condition, node) in object.all() {
        check_condition(condition, &node, capabilities);
        let Some(value) = node.string() else { continue };
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            node.error(format!(
                "expected at most {MAX_VALUE} bytes without control characters"
            ));
        }
        constraints.push((condition.to_owned(), value.to_owned()));
    }
    if constraints.len() > MAX_CONSTRAINTS {
        object.error(format!("expected at most {MAX_CONSTRAINTS} entries"));
    }
    constraints
}

fn check_condition(condition: &str, node: &Node<'_>, capabilities: &[String]) {
    let is_reserved = [SERVICES, PREIMAGE].contains(&condition)
        || condition.ends_with(CAPABILITIES_SUFFIX)
        || condition.ends_with(VALID_UNTIL_SUFFIX);
    if !is_name(condition) {
        node.error(format!(
            "expected a key of 1 to {MAX_NAME} ASCII letters, digits, \"-\" or \"_\""
        ));
    } else if is_reserved {
        node.error("this caveat has a meaning of its own");
    } else if !capabilities.is_empty() {
        let constrains = |capability: &String| {
            condition
                .strip_prefix(capability.as_str())
                .is_some_and(|rest| rest.starts_with('_'))
        };
        if !capabilities.iter().any(constrains) {
            node.error("must begin with a capability of the service and \"_\"");
        }
    }
}

/// Each must be within reach of a rule: else it is a mistake that would show only as a path that
/// is sold, or not there.
fn read_paths(node: &Node<'_>, rules: &[Rule]) -> Vec<PathMatch> {
    let read = |node: Node<'_>| {
        let place = node.place();
        let path = PathMatch::read(node)?;
        let is_reached = |rule: &Rule| rule.path.as_ref().is_none_or(|rule| rule.may_meet(&path));
        if !rules.is_empty() && !rules.iter().any(is_reached) {
            place.error("no match of this service reaches it");
        }
        Some(path)
    };
    let paths = node.list(0..=MAX_PATHS).into_iter();
    paths.filter_map(read).collect()
}
