//! Pings: what the server answers at once and without a store. Beside a bare echo of as many bytes
//! it shows what the server adds to the kernel's sockets.

use std::collections::VecDeque;
use std::ops::Range;

use super::{Outcome, Scenario, Times};
use crate::check::FaultKind;
use crate::crowd::shown;
use crate::dialect::{Dialect, Incoming};
use crate::outbox::Outbox;
use crate::run::Run;

/// One thread's users.
pub struct Echo {
    first_user: u32,
    in_flight: u32,
    run: Run,
    dialect: Box<dyn Dialect>,
    ping: Vec<u8>,
    /// When each ping was sent that is not answered, by connection.
    asked: Vec<VecDeque<u64>>,
    connected: Vec<bool>,
    sending: bool,
    measured_ns: Range<u64>,
    outcome: Outcome,
}

impl Echo {
    /// `users` of them; nothing is sent before [`Scenario::start`].
    pub fn new(
        first_user: u16,
        users: u16,
        in_flight: u32,
        run: Run,
        dialect: Box<dyn Dialect>,
    ) -> Echo {
        let mut ping = Vec::new();
        dialect.probe(&mut ping);
        Echo {
            first_user: first_user.into(),
            in_flight,
            run,
            dialect,
            ping,
            asked: vec![VecDeque::new(); usize::from(users)],
            connected: vec![true; usize::from(users)],
            sending: false,
            measured_ns: 0..0,
            outcome: Outcome::new(),
        }
    }

    fn ask(&mut self, conn: u16, now_ns: u64, out: &mut Outbox) {
        self.asked[usize::from(conn)].push_back(now_ns);
        self.outcome.sent += 1;
        out.text(conn, &self.ping);
    }

    fn fault(&mut self, kind: FaultKind, conn: u16, what: &str) {
        let name = self.run.user(self.first_user + u32::from(conn));
        self.outcome.faults.add(kind, || format!("{name}: {what}"));
    }
}

impl Scenario for Echo {
    fn start(&mut self, times: &Times, out: &mut Outbox) {
        self.sending = true;
        self.measured_ns = times.measured_ns.clone();
        for conn in 0..self.asked.len() as u16 {
            for _ in 0..self.in_flight {
                self.ask(conn, times.start_ns, out);
            }
        }
    }

    fn on_text(&mut self, conn: u16, text: &[u8], now_ns: u64, out: &mut Outbox) {
        match self.dialect.decode(text) {
            Ok(Incoming::Probe) => {}
            Ok(Incoming::Notice { .. }) => return,
            _ => return self.fault(FaultKind::Unexpected, conn, &shown(text)),
        }
        let Some(asked_ns) = self.asked[usize::from(conn)].pop_front() else {
            return self.fault(FaultKind::Unexpected, conn, "an answer to no ping");
        };
        self.outcome.receipts += 1;
        if self.measured_ns.contains(&now_ns) {
            self.outcome.completed += 1;
            self.outcome.receipt.record(now_ns.saturating_sub(asked_ns));
        }
        if self.sending {
            self.ask(conn, now_ns, out);
        }
    }

    fn on_closed(&mut self, conn: u16, why: &str) {
        if std::mem::replace(&mut self.connected[usize::from(conn)], false) {
            self.fault(FaultKind::Disconnected, conn, why);
        }
    }

    fn on_time(&mut self, _: u64, _: &mut Outbox) -> Option<u64> {
        None
    }

    fn stop(&mut self, _: u64, _: &mut Outbox) {
        self.sending = false;
    }

    fn is_settled(&self) -> bool {
        let mut each = self.asked.iter().zip(&self.connected);
        each.all(|(asked, connected)| asked.is_empty() || !connected)
    }

    fn finish(mut self) -> Outcome {
        for conn in 0..self.asked.len() as u16 {
            for _ in 0..self.asked[usize::from(conn)].len() {
                self.fault(FaultKind::Unanswered, conn, "a ping");
            }
        }
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::DialectName;
    use crate::dialect;
    use crate::show::Show;

    const PONG: &[u8] = b"pong2";

    #[test]
    fn each_answer_is_followed_by_a_ping_and_each_ping_wants_an_answer() {
        let dialect = dialect::by_name(DialectName::Imboy);
        let mut echo = Echo::new(0, 2, 3, Run::new(Some("u")), dialect);
        let mut out = Outbox::new(2, 1, Show::default());
        let times = Times { start_ns: 0, measured_ns: 10..20, deadline_ns: 30 };
        echo.start(&times, &mut out);
        for now_ns in [5, 10, 15] {
            echo.on_text(1, PONG, now_ns, &mut out);
        }
        assert_eq!((echo.outcome.sent, echo.outcome.completed), (9, 2));
        echo.stop(20, &mut out);
        (0..3).for_each(|_| echo.on_text(0, PONG, 25, &mut out));
        assert!(!echo.is_settled());
        (0..2).for_each(|_| echo.on_text(1, PONG, 25, &mut out));
        let outcome = echo.finish();
        assert_eq!((outcome.sent, outcome.receipts, outcome.completed), (9, 8, 2));
        assert_eq!(outcome.faults.count(FaultKind::Unanswered), 1);
    }

    #[test]
    fn what_was_not_asked_for_is_a_fault() {
        let dialect = dialect::by_name(DialectName::Imboy);
        let mut echo = Echo::new(0, 1, 1, Run::new(Some("u")), dialect);
        let mut out = Outbox::new(1, 1, Show::default());
        echo.on_text(0, PONG, 0, &mut out);
        echo.on_text(0, b"surprise", 0, &mut out);
        echo.on_closed(0, "gone");
        let faults = echo.finish().faults;
        assert_eq!(faults.count(FaultKind::Unexpected), 2);
        assert_eq!(faults.count(FaultKind::Disconnected), 1);
    }
}
