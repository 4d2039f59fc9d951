//! Offers from the sidecar: asked for ahead of need, or for who waits.

use protocol::api::charge::CHARGE_OFFERS_PATH;
use protocol::api::session::DEPOSIT_OFFERS_PATH;
use protocol::api::{self, ClientHint};
use protocol::encoding::hex_encode;
use protocol::json::Json;
use protocol::payment::jcs::Object;
use protocol::policy::{PluginConfig, SidecarRef};

use super::{Answer, CallKind, LONGEST_RETRY_SECONDS, Loudness, Notice, Sidecar};
use crate::flow::bootstrap::FaultKind;
use crate::flow::stock::{Goods, NoOffers, Offer, Scheme, Shelf, Wares};
use crate::flow::{Gate, RETRY_AFTER_SECONDS, State};
use crate::outcome::CallResult;

/// Offers that all shelves of a gate may hold together, beyond what waiting requests need.
const ALL_OFFERS: usize = 2_048;

impl Sidecar {
    fn ask_for_offers(
        &mut self,
        config: &PluginConfig,
        (shelf, count): (usize, u16),
        wares: &Wares,
        client: Option<&ClientHint>,
    ) -> bool {
        self.requests += 1;
        let start = self.vm.get(..16).unwrap_or_default();
        let request_id = [start, &hex_encode(&self.requests.to_be_bytes())].concat();
        let mut body = Object::with_capacity(512);
        body.text("vm", &self.vm)
            .text("request_id", &request_id)
            .number("count", count.into());
        if let Some(client) = client {
            body.object("client", |object| {
                object
                    .text("prefix", &client.prefix)
                    .boolean("has_paid", client.has_paid);
            });
        }
        let path = match wares {
            Wares::Tokens(template) => {
                body.object("template", |object| write_template(object, template));
                api::OFFERS_PATH
            }
            Wares::Charges { service, amount } => {
                body.text("service", service).number("amount", amount.get());
                CHARGE_OFFERS_PATH
            }
            Wares::Deposits { service, deposit } => {
                let amount = deposit.get();
                body.text("service", service).number("amount", amount);
                DEPOSIT_OFFERS_PATH
            }
        };
        let kind = CallKind::Offers { shelf, count };
        let target = ("POST", path.to_owned());
        let body = body.finish().into_bytes();
        self.call(config, kind, &config.sidecar.offers_cluster, target, body)
    }
}

impl Sidecar {
    /// Says why there are no offers, once until there are some.
    fn say_no_offers(&mut self, config: &PluginConfig, answer: &Answer<'_>, now_ms: u64) {
        let SidecarRef {
            cluster,
            offers_cluster,
            ..
        } = &config.sidecar;
        let setting = match offers_cluster == cluster {
            true => "sidecar.cluster",
            false => "sidecar.offersCluster",
        };
        let absence = answer.absence(offers_cluster, setting);
        let may_pass = (absence.as_ref()).is_some_and(|fault| fault.kind != FaultKind::Wrong)
            && self.poll.has_just_begun(now_ms);
        let loudness = match may_pass {
            true => Loudness::Low,
            false => Loudness::High,
        };
        // What did not pass is said once more, and louder.
        let is_said = |said| said == loudness || said == Loudness::High;
        if self.says_no_offers.is_some_and(is_said) {
            return;
        }
        self.says_no_offers = Some(loudness);
        let why = absence.map_or_else(|| format!("status {}", answer.status), |fault| fault.text);
        self.notices.push_back(match loudness {
            Loudness::Low => Notice::Info(format!("no offers from the sidecar yet: {why}")),
            Loudness::High => Notice::Error(format!("no offers from the sidecar: {why}")),
        });
    }
}

fn write_template(object: &mut Object, template: &api::OfferTemplate) {
    object
        .text("service", &template.service)
        .number("tier", template.tier.into())
        .number("price_msat", template.price_msat.get());
    if let Some(seconds) = template.lifetime_seconds {
        object.number("lifetime_seconds", seconds);
    }
    object
        .texts("capabilities", &template.capabilities)
        .pairs("constraints", &template.constraints);
}

impl State {
    pub(in crate::flow) fn restock_all(&mut self, config: &PluginConfig, now_ms: u64) {
        for index in 0..self.shelves.len() {
            self.restock(config, index, now_ms);
        }
    }

    /// Asks for what a shelf lacks.
    pub(in crate::flow) fn restock(&mut self, config: &PluginConfig, index: usize, now_ms: u64) {
        let Some(shelf) = self.shelves.get_mut(index) else {
            return;
        };
        let service = shelf.service;
        let waiting = self.waiting.count_for(service, shelf.wares.scheme());
        if !shelf.may_want(now_ms, waiting) {
            return;
        }
        let held: usize = self.shelves.iter().map(Shelf::len).sum();
        let mut room = ALL_OFFERS.saturating_sub(held);
        let client = self.waiting.only_client(service).map(|prefix| ClientHint {
            prefix: prefix.to_string(),
            has_paid: self.clients.is_known_to_have_paid(prefix),
        });
        if client.is_some() {
            // On behalf of one client only what it waits for; the stock is filled by itself.
            room = 0;
        }
        let Some(shelf) = self.shelves.get_mut(index) else {
            return;
        };
        while let Some(count) = shelf.wanted(now_ms, waiting, room) {
            let what = (index, count);
            if !self
                .sidecar
                .ask_for_offers(config, what, &shelf.wares, client.as_ref())
            {
                return;
            }
            shelf.call_begun(count);
            room = room.saturating_sub(usize::from(count));
        }
    }
}

impl Gate {
    pub(super) fn offered(
        &mut self,
        index: usize,
        count: u16,
        answer: &Answer<'_>,
        now_ms: u64,
    ) -> CallResult {
        let state = &mut self.state;
        let Some(shelf) = state.shelves.get_mut(index) else {
            return CallResult::Failed;
        };
        let (service, scheme) = (shelf.service, shelf.wares.scheme());
        let result = match offers_in(answer, scheme) {
            Ok(offers) => {
                for offer in &offers {
                    if let Goods::Deposit(invoiced) = offer.goods {
                        state.sessions.former_prices.note_end(invoiced.expires);
                    }
                }
                shelf.arrived(count, offers);
                if state.sidecar.says_no_offers.take().is_some() {
                    let notice = "the sidecar makes offers again".to_owned();
                    state.sidecar.notices.push_back(Notice::Info(notice));
                }
                CallResult::Ok
            }
            Err(no_offers) => {
                shelf.failed(count, now_ms, no_offers);
                state.sidecar.say_no_offers(&self.config, answer, now_ms);
                let NoOffers {
                    status,
                    retry_after_seconds,
                } = no_offers;
                let count = usize::from(count);
                let State {
                    waiting, clients, ..
                } = &mut *state;
                let what = (service, scheme);
                waiting.offers_refused(what, count, status, retry_after_seconds, |client| {
                    clients.give_back(client, now_ms);
                });
                if answer.is_marked {
                    CallResult::Refused
                } else {
                    CallResult::Failed
                }
            }
        };
        state.hand_out(service, now_ms);
        state.restock_service(&self.config, service, now_ms);
        result
    }
}

/// The offers, or what a client is told instead.
fn offers_in(answer: &Answer<'_>, scheme: Scheme) -> Result<Vec<Offer>, NoOffers> {
    let retry_after_seconds = answer
        .retry_after
        .unwrap_or(RETRY_AFTER_SECONDS)
        .clamp(1, LONGEST_RETRY_SECONDS);
    let no_offers = |status| NoOffers {
        status,
        retry_after_seconds,
    };
    match answer {
        Answer {
            is_marked: true,
            status: 200,
            body,
            ..
        } => {
            let json = Json::parse(body);
            let offers = json
                .as_ref()
                .and_then(|json| json.list("offers"))
                .unwrap_or_default();
            let offers: Option<Vec<_>> = offers
                .iter()
                .map(|offer| Offer::read(offer, scheme))
                .collect();
            offers
                .filter(|offers| !offers.is_empty())
                .ok_or(no_offers(503))
        }
        Answer {
            is_marked: true,
            status: 429,
            ..
        } => Err(no_offers(429)),
        Answer {
            is_marked: true, ..
        } => Err(no_offers(503)),
        Answer { .. } => Err(NoOffers {
            status: 503,
            retry_after_seconds: RETRY_AFTER_SECONDS,
        }),
    }
}
