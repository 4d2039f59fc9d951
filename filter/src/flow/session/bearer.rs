//! Requests that a session pays for: a unit is spent here, or asked for.

use std::rc::Rc;

use protocol::hash::PaymentHash;
use protocol::lease::{AccountId, HolderId};
use protocol::payment::SessionCall;
use protocol::policy::{Access, PluginConfig};

use super::queue;
use super::{Asker, Bearer, Spent};
use crate::flow::asked::Asked;
use crate::flow::clean::Edit;
use crate::flow::decide::{answer, seconds};
use crate::flow::limits::Client;
use crate::flow::reply::Why;
use crate::flow::waiting::{Turn, Unoffered, Waiter, Wanted};
use crate::flow::{
    Admission, Decision, Note, Now, Outcome, RETRY_AFTER_SECONDS, State, Surroundings, millis,
    payment,
};
use crate::lease::{InVain, Spend};

/// Longest wait for units.
const PATIENCE_MS: u64 = 1_000;
/// How long it is remembered that there is no such session: it may be opened next.
const UNKNOWN_MS: u64 = 1_000;
/// How long it is remembered that a session is closed, which it stays.
const CLOSED_MS: u64 = 60_000;
/// How often the client of a session is noted as one.
const NOTED_MS: u64 = 60_000;

/// What was heard of an account.
pub(super) struct Heard {
    pub(super) account: AccountId,
    pub(super) in_vain: Option<InVain>,
    /// What the report asked for.
    pub(super) need: u64,
    /// Of the report.
    pub(super) number: u64,
    /// When it was sent, by the steady clock.
    pub(super) asked_ms: u64,
}

impl From<InVain> for Why {
    fn from(in_vain: InVain) -> Self {
        match in_vain {
            InVain::Short => Self::INSUFFICIENT_BALANCE,
            InVain::Closed => Self::SESSION_CLOSED,
            InVain::Unknown => Self::SESSION_NOT_FOUND,
        }
    }
}

impl<'h, S: Surroundings> Asked<'_, 'h, S> {
    /// A request whose credential was accepted before, if there are units for it here.
    pub(in crate::flow) fn seen_bearer(
        &self,
        state: &mut State,
        edits: &mut Vec<Edit<'h>>,
    ) -> Option<Decision<'h>> {
        let now = self.now();
        let is_private = self
            .config
            .payment
            .as_ref()
            .is_some_and(|payment| payment::is_private(payment, self.head));
        let terms = state.session_terms(self.config, self.matched.index)?;
        if !is_private || !self.has_fresh_keys(state, now.ms) {
            return None;
        }
        let (name, text) = self.only_credential()?;
        let sessions = &mut state.sessions;
        sessions.bearers.enter_generation(state.keys.generation);
        let bearer = sessions.bearers.find(&self.key(text))?.clone();
        let service = state.names.get(self.matched.index)?;
        let at = seconds(now.ms);
        let is_offered = sessions.former_prices.accept(
            (service, terms.price),
            (bearer.price, bearer.expires),
            at,
        );
        if !is_offered || !(at < bearer.expires || bearer.is_own) {
            return None;
        }
        let holder = state.spend_now(&bearer, now)?;
        let mut payer = None;
        if now.ms.abs_diff(bearer.noted_ms.get()) >= NOTED_MS {
            bearer.noted_ms.set(now.ms);
            let client = self.client();
            state.note_session(self.config, client, now.ms);
            payer = Some(client);
        }
        let spent = Rc::new(Spent {
            payer,
            tag: state.tag(self.matched.index)?,
            bearer,
            holder,
            unit: self.manner.unit(terms.unit),
            at,
            manner: self.manner,
        });
        edits.push(Edit::Remove(name));
        let edits = std::mem::take(edits);
        Some(self.serve(state, edits, spent))
    }

    fn serve(&self, state: &State, edits: Vec<Edit<'h>>, spent: Rc<Spent>) -> Decision<'h> {
        let note = Note {
            admitted: Some(Admission::Session(spent)),
            ..self.note(state, Outcome::Paid)
        };
        Decision::Forward { edits, note }
    }

    /// A bearer, or an open, at a resource. `was_late` if the challenge has ended and is not the
    /// session's own.
    pub(in crate::flow) fn session(
        &self,
        state: &mut State,
        edits: Vec<Edit<'h>>,
        (call, was_late): (SessionCall, bool),
        is_all_ours: bool,
    ) -> Decision<'h> {
        use protocol::payment::Action;

        let now = self.now();
        let index = self.matched.index;
        let service = state.names.get(index).cloned();
        let terms = state.session_terms(self.config, index);
        let (Some(service), Some(terms)) = (service, terms) else {
            return self.refuse(state, Some(Why::SCHEME_NOT_SOLD), now.ms);
        };
        let former = &state.sessions.former_prices;
        let asked = (call.price, call.expires);
        let is_offered = former.accept((&service, terms.price), asked, seconds(now.ms));
        // What was deposited late, at a price of that time, is not to be lost.
        let is_late_open = was_late && matches!(call.action, Action::Open { .. });
        if !is_offered && !is_late_open {
            return self.refuse(state, Some(Why::PRICE_NOT_OFFERED), now.ms);
        }
        let asker = Asker {
            bearer: Rc::new(Bearer::new(&call)),
            service: index,
            manner: self.manner,
            client: self.client(),
            wanted: self.wanted_after_refusal(state),
            opened: None,
            asks_from: 0,
        };
        match &call.action {
            Action::Open { .. } => self.open(state, edits, asker, (call, is_offered)),
            Action::Bearer { .. } if was_late => {
                let late = protocol::payment::Refusal::ChallengeExpired;
                self.refuse(state, Some(late.into()), now.ms)
            }
            Action::Bearer { .. } => {
                if let Some((_, text)) = self.only_credential().filter(|_| is_all_ours) {
                    let sessions = &mut state.sessions;
                    sessions.bearers.enter_generation(state.keys.generation);
                    let bearer = asker.bearer.clone();
                    sessions.bearers.insert(&self.key(text), bearer);
                }
                let place = (self.stream, now.ms);
                let turn = state.spend_or_wait(self.config, place, asker, now);
                state.report_leases(self.config, now);
                match turn {
                    None => Decision::HoldCleaned(edits),
                    Some(Turn::Spent(spent)) => self.serve(state, edits, spent),
                    Some(turn) => answer(self.config, state, turn)
                        .unwrap_or_else(|| self.unavailable(state, RETRY_AFTER_SECONDS)),
                }
            }
            // Taken care of before, wherever they come.
            Action::TopUp { .. } | Action::Close { .. } => {
                self.unavailable(state, RETRY_AFTER_SECONDS)
            }
        }
    }

    /// What a request is offered whose credential turns out to be of no use.
    pub(in crate::flow) fn wanted_after_refusal(&self, state: &State) -> Wanted {
        match self.matched.access {
            Access::NoInvoice => Wanted::NOTHING,
            Access::Free | Access::Priced => self.wanted(state),
        }
    }
}

impl State {
    /// Spends a unit, if it is here and nobody waits for it.
    fn spend_now(&mut self, bearer: &Bearer, now: Now) -> Option<HolderId> {
        let leases = &mut self.sessions.leases;
        let account = bearer.account;
        if self.waiting.units.waits_for(&account) || !leases.has(&account) {
            return None;
        }
        match leases.spend(account, bearer.price.get(), now.steady_ms) {
            Spend::Taken(holder) => Some(holder),
            Spend::Lacking => None,
        }
    }

    /// A client whose session was accepted. What is deposited only may come back: that alone gives
    /// it no larger limits.
    pub(super) fn note_session(&mut self, config: &PluginConfig, client: Client, now_ms: u64) {
        if let (Some(prefix), Some(payment)) = (client.prefix(), &config.payment) {
            let until_ms = now_ms.saturating_add(millis(payment.idle_timeout));
            self.sessions.deposits.has_session(prefix, until_ms);
        }
    }

    /// Spends a unit for a request that arrived at that `place`, or refuses it; `None` if it waits.
    pub(super) fn spend_or_wait(
        &mut self,
        config: &PluginConfig,
        place: (u32, u64),
        mut asker: Asker,
        now: Now,
    ) -> Option<Turn> {
        let account = asker.bearer.account;
        let (service, manner, client) = (asker.service, asker.manner, asker.client);
        if let Some(in_vain) = self.sessions.in_vain.find(&account, now.steady_ms) {
            return self.refuse_asker(config, place, asker, in_vain.into(), now.ms);
        }
        if let Some(holder) = self.spend_now(&asker.bearer, now) {
            return self
                .spent(config, asker, holder, now)
                .or(Some(Turn::come_again(Some(service), manner)));
        }
        let leases = &self.sessions.leases;
        let is_new = !leases.has(&account) && !self.waiting.units.waits_for(&account);
        let is_full = self.is_full(config)
            || self.waiting.units.is_full_for(&account)
            || is_new && leases.is_full();
        if is_full {
            self.stop_asking_in_vain(&account);
            return Some(Turn::come_again(Some(service), manner));
        }
        let look_up = match is_new.then(|| self.look_up(client, now.ms)) {
            None => None,
            Some(Ok(look_up)) => Some(look_up),
            Some(Err((status, retry_after_seconds))) => {
                return Some(Turn::Refuse {
                    service: Some(service),
                    manner,
                    status,
                    retry_after_seconds,
                });
            }
        };
        if is_new {
            // Whatever deposit it is, it was paid for, perhaps by way of another worker.
            self.sessions.deposits.presented(PaymentHash(account.0));
        }
        if !self.waiting.units.waits_for(&account) {
            // Nothing is there, as was just seen: this says what is needed.
            let price = asker.bearer.price.get();
            let leases = &mut self.sessions.leases;
            if let Spend::Taken(holder) = leases.spend(account, price, now.steady_ms) {
                leases.give_back(&account, holder, price);
            }
        }
        asker.asks_from = self.sessions.reports.next_number();
        let waiter = Waiter {
            stream: place.0,
            since_ms: place.1,
            deadline_ms: now.ms.saturating_add(PATIENCE_MS),
            what: asker,
        };
        self.waiting.units.push(waiter, look_up);
        self.sessions.leases.ask_now(&account);
        self.sessions.reports.hurry();
        None
    }

    /// Takes what it costs to ask for a session that this VM knows nothing of, or says with what
    /// status and `Retry-After` that is refused.
    fn look_up(&mut self, client: Client, now_ms: u64) -> Result<queue::LookUp, (u16, u64)> {
        let has_paid = client
            .prefix()
            .is_some_and(|prefix| self.clients.is_known_to_have_paid(prefix));
        if !has_paid && self.waiting.units.is_full_of_strangers() {
            return Err((503, RETRY_AFTER_SECONDS));
        }
        let taken = self.sessions.look_ups.take(client, now_ms);
        taken.map_err(|retry_after| (429, retry_after))?;
        Ok(queue::LookUp {
            client,
            is_stranger: !has_paid,
        })
    }

    /// `None` only if there is no such service.
    fn spent(
        &mut self,
        config: &PluginConfig,
        asker: Asker,
        holder: HolderId,
        now: Now,
    ) -> Option<Turn> {
        let terms = self.session_terms(config, asker.service);
        let (Some(tag), Some(terms)) = (self.tag(asker.service), terms) else {
            let price = asker.bearer.price.get();
            let leases = &mut self.sessions.leases;
            leases.give_back(&asker.bearer.account, holder, price);
            return None;
        };
        asker.bearer.noted_ms.set(now.ms);
        self.note_session(config, asker.client, now.ms);
        Some(Turn::Spent(Rc::new(Spent {
            payer: Some(asker.client),
            tag,
            bearer: asker.bearer,
            holder,
            unit: asker.manner.unit(terms.unit),
            at: asker.opened.unwrap_or_else(|| seconds(now.ms)),
            manner: asker.manner,
        })))
    }

    /// 402 with a fresh challenge, or 401 where none may be made; `None` if it waits for offers.
    pub(super) fn refuse_asker(
        &mut self,
        config: &PluginConfig,
        place: (u32, u64),
        asker: Asker,
        why: Why,
        now_ms: u64,
    ) -> Option<Turn> {
        let unoffered = Unoffered {
            manner: asker.manner,
            refused: Some(why),
            client: asker.client,
            wanted: asker.wanted,
            deposit: None,
        };
        self.refuse_held(config, place, asker.service, unoffered, now_ms)
    }

    /// News of an account: whoever waits for it is served, refused, or goes on waiting.
    pub(super) fn heard_of(&mut self, config: &PluginConfig, heard: &Heard, now: Now) {
        let Heard {
            account,
            in_vain,
            need,
            number,
            ..
        } = *heard;
        let remembered = match in_vain {
            Some(InVain::Unknown) => Some(UNKNOWN_MS),
            Some(InVain::Closed) => Some(CLOSED_MS),
            Some(InVain::Short) | None => None,
        };
        let look_up = self.waiting.units.looked_up(&account);
        match (in_vain.zip(remembered), look_up) {
            (Some((why, for_ms)), _) => {
                let until_ms = now.steady_ms.saturating_add(for_ms);
                self.sessions.in_vain.note(account, why, until_ms);
            }
            // There is such a session: that was a look-up that costs nothing.
            (None, Some(look_up)) => self.sessions.look_ups.give_back(look_up.client, now.ms),
            (None, None) => {}
        }
        if let Some(why) = in_vain {
            // Money may have come since for those who were not asked for.
            let is_in_vain = |waiter: &Waiter<Asker>| {
                let price = waiter.what.bearer.price.get();
                waiter.what.asks_from <= number && (why != InVain::Short || price >= need)
            };
            while let Some(waiter) = self.waiting.units.take(&account, is_in_vain) {
                let place = waiter.place();
                let turn = self.refuse_asker(config, place, waiter.what, why.into(), now.ms);
                if let Some(turn) = turn {
                    self.waiting.is_due(place, turn);
                }
            }
        }
        self.serve_waiting(config, account, now);
        self.streams_heard_of(heard);
    }

    /// Spends what has come for those who wait, in the order of their arrival.
    fn serve_waiting(&mut self, config: &PluginConfig, account: AccountId, now: Now) {
        while let Some(first) = self.waiting.units.first(&account) {
            let price = first.what.bearer.price.get();
            let leases = &mut self.sessions.leases;
            let Spend::Taken(holder) = leases.spend(account, price, now.steady_ms) else {
                return;
            };
            let Some(waiter) = self.waiting.units.pop(&account) else {
                leases.give_back(&account, holder, price);
                return;
            };
            let (place, service, manner) =
                (waiter.place(), waiter.what.service, waiter.what.manner);
            let turn = self
                .spent(config, waiter.what, holder, now)
                .unwrap_or_else(|| Turn::come_again(Some(service), manner));
            self.waiting.is_due(place, turn);
        }
        self.stop_asking_in_vain(&account);
    }

    /// Nobody is to be asked for on behalf of nobody.
    pub(super) fn stop_asking_in_vain(&mut self, account: &AccountId) {
        if self.waiting.units.first(account).is_none() {
            if !self.sessions.streams.wait_for(account) {
                self.sessions.leases.stop_waiting(account);
            }
            self.waiting.units.forget_empty(account);
        }
    }

    /// Who has waited too long is told to come again.
    pub(in crate::flow) fn expire_askers(&mut self, now_ms: u64) {
        for account in self.waiting.units.late(now_ms) {
            let is_late = |waiter: &Waiter<Asker>| waiter.deadline_ms <= now_ms;
            while let Some(waiter) = self.waiting.units.take(&account, is_late) {
                let turn = Turn::come_again(Some(waiter.what.service), waiter.what.manner);
                self.waiting.is_due(waiter.place(), turn);
            }
            self.end_look_up(&account, now_ms);
        }
    }

    /// A look-up for which nobody waits any longer was not answered, which is no fault of the
    /// client's.
    fn end_look_up(&mut self, account: &AccountId, now_ms: u64) {
        if self.waiting.units.first(account).is_none() {
            if let Some(look_up) = self.waiting.units.looked_up(account) {
                self.sessions.look_ups.give_back(look_up.client, now_ms);
            }
            self.stop_asking_in_vain(account);
        }
    }

    /// The stream has been answered otherwise while it waited.
    pub(in crate::flow) fn let_asker_go(&mut self, stream: u32) {
        if let Some(account) = self.waiting.units.let_go(stream) {
            self.stop_asking_in_vain(&account);
        }
    }
}
