//! Whatever is presented and however the sidecar answers: nothing is forwarded without a spent
//! unit, and every held request is decided once.

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Bearer {
        session: usize,
        path: usize,
        line: usize,
    },
    Manage {
        session: usize,
        action: usize,
        line: usize,
    },
    Answer {
        which: usize,
        fault: u8,
    },
    Wait(u64),
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_usize, 0..4_usize, 0..4_usize)
            .prop_map(|(session, path, line)| Step::Bearer { session, path, line }),
        1 => (0..4_usize, 0..3_usize, 0..4_usize)
            .prop_map(|(session, action, line)| Step::Manage { session, action, line }),
        6 => (0..3_usize, 0..12_u8).prop_map(|(which, fault)| Step::Answer { which, fault }),
        4 => (1..400_u64).prop_map(Step::Wait),
        1 => (0..3_usize).prop_map(Step::Close),
    ];
    prop::collection::vec(step, 1..120)
}

/// A run: what is held, and what was forwarded for how much.
struct Run {
    world: World,
    sessions: Vec<Session>,
    lines: Vec<String>,
    calls: Vec<(CallKind, Vec<u8>)>,
    held: BTreeSet<u32>,
    served: BTreeMap<AccountId, u64>,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        let sessions: Vec<_> = [4, 20, 400]
            .map(|deposit| world.session("/v3/x", deposit))
            .to_vec();
        let served = sessions.iter().map(|one| (one.id.parse().unwrap(), 2));
        let served = served.collect();
        let mut lines: Vec<_> = sessions.iter().map(|one| one.line.clone()).collect();
        lines.push(world.challenge("/v4/x"));
        let mut sessions = sessions;
        let preimage = world.preimage();
        sessions.push(Session {
            id: preimage.hash().to_string(),
            preimage: hex_encode(preimage.expose()),
            line: lines[0].clone(),
        });
        Self {
            world,
            sessions,
            lines,
            calls: Vec::new(),
            held: BTreeSet::new(),
            served,
        }
    }

    fn note(&mut self, stream: u32, seen: &Seen) {
        if let Seen::Forwarded(note) = seen {
            let Some(Admission::Session(spent)) = &note.admitted else {
                panic!("stream {stream} is forwarded for nothing: {note:?}")
            };
            *self.served.entry(spent.account()).or_default() += spent.price().get();
        }
    }

    fn ask(&mut self, sent: &Sent) {
        let seen = self.world.at_once(sent);
        let stream = self.world.gate.stream();
        if matches!(seen, Seen::Held) {
            assert!(self.held.insert(stream));
        }
        self.note(stream, &seen);
    }

    fn collect(&mut self) {
        while let Some((kind, _, _, body)) = self.world.gate.call() {
            self.calls.push((kind, body));
        }
        while let Some((stream, seen)) = self.world.next_due() {
            assert!(self.held.remove(&stream), "{stream} was decided before");
            self.note(stream, &seen);
        }
    }

    fn answer(&mut self, which: usize, fault: u8) {
        if self.calls.is_empty() {
            return;
        }
        let (kind, body) = self.calls.remove(which % self.calls.len());
        let gate = &mut self.world.gate;
        match (fault, kind) {
            (0, _) => gate.respond(kind, 503, true, "{}"),
            (1, _) => gate.respond(kind, 504, false, ""),
            (2, _) => gate.respond(kind, 200, true, "[]"),
            (_, CallKind::Leases { .. }) => {
                self.world.answer_reports(kind, &body);
                if fault == 3 {
                    // Told twice.
                    self.world.gate.respond(kind, 200, true, "{\"answers\":[]}");
                }
            }
            (_, CallKind::Offers { count, .. }) => match kind {
                CallKind::Offers { shelf: 0, .. } => gate.offers(kind, 0),
                _ if String::from_utf8_lossy(&body).contains("template") => gate.offers(kind, 0),
                _ => self.world.deposit_offers(kind, count),
            },
            (_, CallKind::TopUp { .. }) => {
                gate.respond(kind, 200, true, r#"{"result":"consumed","at":0}"#)
            }
            _ => gate.respond(kind, 200, true, r#"{"result":"not-found","at":0}"#),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Bearer {
                session,
                path,
                line,
            } => {
                let path = ["/v1/x", "/v3/x", "/v4/x", "/v3/cb/x"][*path];
                let session = self.sessions[*session].clone();
                let line = self.lines[*line].clone();
                let sent = self.world.bearer_by(&session, path, &line);
                self.ask(&sent);
            }
            Step::Manage {
                session,
                action,
                line,
            } => {
                let action = ["topUp", "close", "open"][*action];
                let session = self.sessions[*session].clone();
                let members: &[(&str, &str)] = match action {
                    "topUp" => &[("sessionId", &session.id)],
                    "close" => &[("sessionId", &session.id), ("preimage", &session.preimage)],
                    _ => &[("returnInvoice", RETURN)],
                };
                let line = self.lines[*line].clone();
                let credential = self.world.paid(&line, action, members);
                let sent = Sent::get("/v3/x").with("authorization", &credential);
                self.ask(&sent);
            }
            Step::Answer { which, fault } => self.answer(*which, *fault),
            Step::Wait(ms) => {
                self.world.gate.now_ms += ms;
                self.world.gate.gate.tick(self.world.gate.now());
            }
            Step::Close(session) => {
                let session = self.sessions[*session].clone();
                self.world.account(&session).is_closed = true;
            }
        }
        self.collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn nothing_is_forwarded_without_a_unit_and_all_is_decided_once(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        // In the end everything is answered, and everything is told.
        for _ in 0..200 {
            run.world.gate.now_ms += 100;
            run.world.gate.gate.tick(run.world.gate.now());
            run.collect();
            while !run.calls.is_empty() {
                run.answer(0, 11);
                run.collect();
            }
        }
        prop_assert!(run.held.is_empty(), "{:?} are held still", run.held);
        for (account, served) in &run.served {
            let account = &run.world.accounts[account];
            prop_assert!(*served <= account.deposited);
            prop_assert!(account.is_closed || *served == account.spent, "{served} {}", account.spent);
            prop_assert!(account.spent <= *served);
        }
        prop_assert!(run.world.gate.gate.state.sessions.leases.is_empty());
    }
}
