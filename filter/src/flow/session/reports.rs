//! What this VM and the ledger tell each other about leases: one call for all of a tick.

use std::collections::VecDeque;

use protocol::json::Json;
use protocol::lease::{AccountId, AccountState, Answer, LEASES_PATH, Report, Terms};
use protocol::payment::jcs::Object;
use protocol::policy::PluginConfig;

use crate::flow::sidecar::{self, CallKind};
use crate::flow::{Gate, Now, State, millis};
use crate::lease::InVain;
use crate::outcome::CallResult;

/// Ticks come a little early or late.
const SLACK_MS: u64 = 5;
/// Longest time for one call: whoever waits gives up as early, and a lease lasts longer.
const TIMEOUT_MS: u64 = 1_000;
/// Calls whose answers are still listened to.
const MOST_UNDER_WAY: usize = 4;

/// One call.
struct Sent {
    number: u64,
    at_ms: u64,
    /// What was needed at once, by account.
    needs: Vec<(AccountId, u64)>,
}

/// The calls about leases. Times are those of the steady clock.
#[derive(Default)]
pub(in crate::flow) struct Reports {
    /// As the sidecar said last.
    terms: Terms,
    /// Of the latest call.
    number: u64,
    sent_ms: Option<u64>,
    /// When all leases were last reported.
    all_ms: Option<u64>,
    /// Oldest first. Only the last one is waited for.
    under_way: VecDeque<Sent>,
    /// Somebody has just begun to wait, or need not wait any longer for money that has come.
    is_urgent: bool,
}

impl Reports {
    /// The number of the next call.
    pub(in crate::flow) const fn next_number(&self) -> u64 {
        self.number + 1
    }

    pub(in crate::flow) const fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// A report is due before the next tick.
    pub(in crate::flow) const fn are_urgent(&self) -> bool {
        self.is_urgent
    }

    /// What is to be reported now.
    fn due(&self, is_awaited: bool, timeout_ms: u64, now_ms: u64) -> Option<Scope> {
        let age = |since: Option<u64>| {
            since.map_or(u64::MAX, |since_ms| {
                now_ms.saturating_sub(since_ms).saturating_add(SLACK_MS)
            })
        };
        let quiet_ms = age(self.sent_ms);
        if !self.under_way.is_empty() && quiet_ms <= timeout_ms.saturating_add(SLACK_MS) {
            return None;
        }
        if age(self.all_ms) >= self.terms.tick_ms {
            return Some(Scope::All);
        }
        let is_urgent = is_awaited || self.is_urgent;
        (is_urgent && quiet_ms >= self.terms.waiting_tick_ms).then_some(Scope::Needed)
    }
}

/// What one call tells of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    /// All leases.
    All,
    /// Those of which somebody here waits for units.
    Needed,
}

impl State {
    /// What an answer that grants says of how to keep leases, if it makes sense.
    pub(super) fn heard_terms(&mut self, answer: &Json<'_>) {
        let Some(terms) = answer.get("terms").and_then(read_terms) else {
            return;
        };
        self.sessions.reports.terms = terms;
        self.sessions.leases.set_valid_ms(terms.valid_ms);
    }

    /// Reports on leases, if it is time.
    pub(in crate::flow) fn report_leases(&mut self, config: &PluginConfig, now: Now) {
        let sessions = &mut self.sessions;
        if !sessions.are_sold() {
            return;
        }
        let timeout_ms = millis(config.sidecar.timeout).min(TIMEOUT_MS);
        let is_awaited = self.waiting.units.len() > 0 || sessions.streams.are_hopeful();
        // A call that never came back by itself: the host answers each, if only with a timeout.
        let lost_ms = timeout_ms.saturating_add(250);
        let Some(scope) = sessions.reports.due(is_awaited, lost_ms, now.steady_ms) else {
            return;
        };
        for (account, units) in self.waiting.units.awaited() {
            sessions.leases.expect(account, units);
        }
        let reports = match scope {
            Scope::All => sessions.leases.reports(now.steady_ms),
            Scope::Needed => sessions.leases.urgent_reports(now.steady_ms),
        };
        sessions.reports.is_urgent = false;
        if reports.is_empty() {
            return;
        }
        let sent = &mut sessions.reports;
        sent.number += 1;
        let number = sent.number;
        let body = Object::with_capacity(256 * (reports.len() + 1))
            .text("vm", self.sidecar.vm())
            .objects("reports", &reports, write_report)
            .finish();
        let target = ("POST", LEASES_PATH.to_owned());
        let cluster = &config.sidecar.cluster;
        let kind = CallKind::Leases { number };
        let is_made =
            self.sidecar
                .call_within(config, kind, cluster, target, body.into_bytes(), timeout_ms);
        if !is_made {
            return;
        }
        sent.sent_ms = Some(now.steady_ms);
        if scope == Scope::All {
            sent.all_ms = Some(now.steady_ms);
        }
        sent.under_way.push_back(Sent {
            number,
            at_ms: now.steady_ms,
            needs: reports
                .iter()
                .filter(|report| report.need > 0)
                .map(|report| (report.account, report.need))
                .collect(),
        });
        if sent.under_way.len() > MOST_UNDER_WAY {
            sent.under_way.pop_front();
        }
    }
}

impl Gate {
    pub(in crate::flow) fn reported(
        &mut self,
        number: u64,
        answer: &sidecar::Answer<'_>,
        now: Now,
    ) -> CallResult {
        let state = &mut self.state;
        let under_way = &mut state.sessions.reports.under_way;
        let place = under_way.iter().position(|sent| sent.number == number);
        let Some(sent) = place.and_then(|place| under_way.remove(place)) else {
            return CallResult::Failed;
        };
        if !answer.is_marked || answer.status != 200 {
            return match answer.is_marked {
                true => CallResult::Refused,
                false => CallResult::Failed,
            };
        }
        let json = Json::parse(answer.body);
        let Some((json, answers)) = json
            .as_ref()
            .and_then(|json| Some((json, json.list("answers")?)))
        else {
            return CallResult::Failed;
        };
        state.heard_terms(json);
        let mut result = CallResult::Ok;
        for answer in answers {
            let Some(answer) = read_answer(answer) else {
                result = CallResult::Failed;
                continue;
            };
            let in_vain = state.sessions.leases.answered(&answer, sent.at_ms);
            let need = sent.needs.iter().find(|(of, _)| *of == answer.account);
            let in_vain = in_vain.filter(|why| *why != InVain::Short || need.is_some());
            let heard = super::bearer::Heard {
                account: answer.account,
                in_vain,
                need: need.map_or(0, |(_, need)| *need),
                number,
                asked_ms: sent.at_ms,
            };
            state.heard_of(&self.config, &heard, now);
        }
        // Who waits still asks again soon.
        state.report_leases(&self.config, now);
        result
    }
}

/// As [`Terms`] are written; `None` if they are none to keep to.
fn read_terms(json: &Json<'_>) -> Option<Terms> {
    let terms = Terms {
        valid_ms: json.number("valid_ms")?,
        tick_ms: json.number("tick_ms")?,
        waiting_tick_ms: json.number("waiting_tick_ms")?,
    };
    terms.are_sound().then_some(terms)
}

/// As [`Report`] is read.
pub(super) fn write_report(object: &mut Object, report: &Report) {
    object
        .text("account", &report.account.to_string())
        .text("holder", &report.holder.to_string())
        .number("used", report.used)
        .number("returned", report.returned)
        .number("want", report.want)
        .number("need", report.need)
        .number("price", report.price)
        .boolean("release", report.release);
}

/// As [`Answer`] is written.
pub(super) fn read_answer(json: &Json<'_>) -> Option<Answer> {
    Some(Answer {
        account: json.text("account")?.parse().ok()?,
        holder: json.text("holder")?.parse().ok()?,
        granted: json.number("granted")?,
        returned: json.number("returned")?,
        spent: json.number("spent")?,
        recall: json.bool("recall")?,
        r#final: json.bool("final")?,
        short: json.bool("short")?,
        state: match json.text("state")? {
            "open" => AccountState::Open,
            "closed" => AccountState::Closed,
            "unknown" => AccountState::Unknown,
            _ => return None,
        },
    })
}
