//! The checker: what must be true of every message of a run, and the list of what was not.
//!
//! It keeps the books of one direction between two users ([`Flow`]) and of everything that went
//! wrong ([`Faults`]). It measures no time, and knows no frames.

use std::collections::VecDeque;

/// Messages of one user to another, numbered from 1 in the order in which they are sent.
///
/// A message is *open* from being sent until it has both its receipt (to the sender) and its
/// delivery (to the receiver), or has been refused.
#[derive(Debug)]
pub struct Flow {
    /// Number of `slots[0]`; all messages before it are closed.
    first: u32,
    slots: VecDeque<Slot>,
    /// Highest number delivered so far.
    highest: u32,
    /// Slots that are open.
    open: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// When it was sent, or should have been.
    sent_ns: u64,
    state: u8,
}

const RECEIPT: u8 = 1;
const DELIVERED: u8 = 2;
const REFUSED: u8 = 4;

impl Slot {
    fn closed(self) -> bool {
        self.state & REFUSED != 0 || self.state & (RECEIPT | DELIVERED) == RECEIPT | DELIVERED
    }
}

/// What a receipt or a delivery meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// When the message was sent, or should have been.
    pub sent_ns: u64,
    /// The message is closed by this.
    pub closed: bool,
}

impl Flow {
    /// No message yet.
    pub fn new() -> Flow {
        Flow { first: 1, slots: VecDeque::new(), highest: 0, open: 0 }
    }

    /// Enters the next message; gives its number.
    pub fn sent(&mut self, sent_ns: u64) -> u32 {
        self.slots.push_back(Slot { sent_ns, state: 0 });
        self.open += 1;
        self.first + self.slots.len() as u32 - 1
    }

    /// Messages that are open.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Messages sent so far.
    pub fn count(&self) -> u32 {
        self.first + self.slots.len() as u32 - 1
    }

    /// The server told the sender that it has message `number`.
    pub fn receipt(&mut self, number: u32) -> Result<Progress, FaultKind> {
        self.mark(number, RECEIPT, FaultKind::ReceiptTwice)
    }

    /// Message `number` reached the receiver.
    ///
    /// A message out of order is marked as delivered all the same, so that it counts as one fault
    /// and not as a loss too.
    pub fn delivered(&mut self, number: u32) -> Result<Progress, FaultKind> {
        let progress = self.mark(number, DELIVERED, FaultKind::Duplicate)?;
        if number < self.highest {
            return Err(FaultKind::Reordered);
        }
        self.highest = number;
        Ok(progress)
    }

    /// The server refused message `number`: it will not be delivered.
    pub fn refused(&mut self, number: u32) -> Result<Progress, FaultKind> {
        self.mark(number, REFUSED, FaultKind::ReceiptTwice)
    }

    fn mark(&mut self, number: u32, bit: u8, twice: FaultKind) -> Result<Progress, FaultKind> {
        if number < self.first {
            return Err(if number == 0 { FaultKind::NeverSent } else { twice });
        }
        let slot = self.slots.get_mut((number - self.first) as usize);
        let slot = slot.ok_or(FaultKind::NeverSent)?;
        if slot.state & bit != 0 {
            return Err(twice);
        }
        let was_closed = slot.closed();
        slot.state |= bit;
        let progress = Progress { sent_ns: slot.sent_ns, closed: !was_closed && slot.closed() };
        self.open -= u32::from(progress.closed);
        while self.slots.front().is_some_and(|slot| slot.closed()) {
            self.slots.pop_front();
            self.first += 1;
        }
        Ok(progress)
    }

    /// What is still open, as the fault that it is when nothing more will come.
    pub fn missing(&self) -> impl Iterator<Item = (u32, FaultKind)> {
        let numbered = (self.first..).zip(&self.slots);
        numbered.filter(|(_, slot)| !slot.closed()).map(|(number, slot)| {
            let kind = match slot.state & (RECEIPT | DELIVERED) {
                RECEIPT => FaultKind::Lost,
                DELIVERED => FaultKind::NoReceipt,
                _ => FaultKind::Unanswered,
            };
            (number, kind)
        })
    }
}

/// The ways in which a run can go wrong. Each is a failed check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Acknowledged to the sender, never delivered.
    Lost,
    /// Neither acknowledged nor delivered.
    Unanswered,
    /// Delivered, never acknowledged to the sender.
    NoReceipt,
    /// Delivered more than once.
    Duplicate,
    /// Delivered after a later one of the same sender.
    Reordered,
    /// Delivered with another content, sender or receiver than it was sent with.
    Damaged,
    /// Delivered to somebody else.
    Misrouted,
    /// A receipt or delivery of a message that was never sent.
    NeverSent,
    /// More than one receipt.
    ReceiptTwice,
    /// Answered with an error.
    Refused,
    /// A frame that the protocol does not have, or an error that names no message.
    Unexpected,
    /// The connection ended during the run.
    Disconnected,
}

impl FaultKind {
    /// All of them, in the order of their declaration.
    pub const ALL: [FaultKind; 12] = [
        FaultKind::Lost,
        FaultKind::Unanswered,
        FaultKind::NoReceipt,
        FaultKind::Duplicate,
        FaultKind::Reordered,
        FaultKind::Damaged,
        FaultKind::Misrouted,
        FaultKind::NeverSent,
        FaultKind::ReceiptTwice,
        FaultKind::Refused,
        FaultKind::Unexpected,
        FaultKind::Disconnected,
    ];

    /// For programs.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// For people.
    pub fn describe(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            FaultKind::Lost => ("lost", "lost: acknowledged, not delivered"),
            FaultKind::Unanswered => ("unanswered", "neither acknowledged nor delivered"),
            FaultKind::NoReceipt => ("no_receipt", "delivered, not acknowledged"),
            FaultKind::Duplicate => ("duplicate", "delivered more than once"),
            FaultKind::Reordered => ("reordered", "delivered out of order"),
            FaultKind::Damaged => ("damaged", "delivered with another content or other names"),
            FaultKind::Misrouted => ("misrouted", "delivered to the wrong user"),
            FaultKind::NeverSent => ("never_sent", "answered or delivered but never sent"),
            FaultKind::ReceiptTwice => ("receipt_twice", "acknowledged more than once"),
            FaultKind::Refused => ("refused", "refused"),
            FaultKind::Unexpected => ("unexpected", "unexpected frame"),
            FaultKind::Disconnected => ("disconnected", "connection ended"),
        }
    }
}

/// Everything that went wrong: a count of each kind, and the first few in words.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    counts: [u64; FaultKind::ALL.len()],
    examples: Vec<(FaultKind, String)>,
}

impl Faults {
    /// Examples kept of each kind.
    const EXAMPLES_MAX: u64 = 8;

    /// Enters one; `example` is called only while examples are still wanted.
    pub fn add(&mut self, kind: FaultKind, example: impl FnOnce() -> String) {
        self.add_many(kind, 1, example);
    }

    /// Enters several that one example stands for.
    pub fn add_many(&mut self, kind: FaultKind, many: u64, example: impl FnOnce() -> String) {
        let count = &mut self.counts[kind as usize];
        if *count < Self::EXAMPLES_MAX && many > 0 {
            self.examples.push((kind, example()));
        }
        *count += many;
    }

    /// Enters all of `other`.
    pub fn merge(&mut self, other: Faults) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        for (kind, example) in other.examples {
            let kept = self.examples.iter().filter(|(known, _)| *known == kind).count();
            if (kept as u64) < Self::EXAMPLES_MAX {
                self.examples.push((kind, example));
            }
        }
    }

    /// How many of this kind.
    pub fn count(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }

    /// The first few of each kind, in words.
    pub fn examples(&self) -> &[(FaultKind, String)] {
        &self.examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_sent() -> Flow {
        let mut flow = Flow::new();
        for (at, number) in [(10, 1), (20, 2), (30, 3)] {
            assert_eq!(flow.sent(at), number);
        }
        flow
    }

    fn missing(flow: &Flow) -> Vec<(u32, FaultKind)> {
        flow.missing().collect()
    }

    #[test]
    fn a_message_is_closed_by_receipt_and_delivery_in_either_order() {
        let mut flow = three_sent();
        assert_eq!(flow.receipt(1), Ok(Progress { sent_ns: 10, closed: false }));
        assert_eq!(flow.delivered(1), Ok(Progress { sent_ns: 10, closed: true }));
        assert_eq!(flow.delivered(2), Ok(Progress { sent_ns: 20, closed: false }));
        assert_eq!(flow.receipt(2), Ok(Progress { sent_ns: 20, closed: true }));
        assert_eq!((flow.open(), flow.count()), (1, 3));
        assert_eq!(missing(&flow), [(3, FaultKind::Unanswered)]);
        assert_eq!(flow.sent(40), 4, "numbers go on when closed messages are forgotten");
    }

    #[test]
    fn losses_are_told_apart() {
        let mut flow = three_sent();
        assert!(flow.receipt(1).is_ok());
        assert!(flow.delivered(2).is_ok());
        let lost = [(1, FaultKind::Lost), (2, FaultKind::NoReceipt), (3, FaultKind::Unanswered)];
        assert_eq!(missing(&flow), lost);
        assert_eq!(flow.open(), 3);
    }

    #[test]
    fn duplicates_are_found_before_and_after_a_message_is_closed() {
        let mut flow = three_sent();
        assert!(flow.delivered(1).is_ok());
        assert_eq!(flow.delivered(1), Err(FaultKind::Duplicate));
        assert!(flow.receipt(1).is_ok());
        assert_eq!(flow.delivered(1), Err(FaultKind::Duplicate));
        assert_eq!(flow.receipt(1), Err(FaultKind::ReceiptTwice));
        assert_eq!(flow.open(), 2);
    }

    #[test]
    fn a_reordered_message_is_one_fault_and_no_loss() {
        let mut flow = three_sent();
        for number in 1..=3 {
            assert!(flow.receipt(number).is_ok());
        }
        assert!(flow.delivered(2).is_ok());
        assert_eq!(flow.delivered(1), Err(FaultKind::Reordered));
        assert!(flow.delivered(3).is_ok());
        assert_eq!(missing(&flow), []);
        assert_eq!(flow.open(), 0);
    }

    #[test]
    fn numbers_that_were_never_sent_are_faults() {
        let mut flow = three_sent();
        assert_eq!(flow.delivered(4), Err(FaultKind::NeverSent));
        assert_eq!(flow.receipt(0), Err(FaultKind::NeverSent));
        assert_eq!(Flow::new().receipt(1), Err(FaultKind::NeverSent));
    }

    #[test]
    fn a_refused_message_is_closed_but_a_delivery_of_it_still_counts() {
        let mut flow = three_sent();
        assert_eq!(flow.refused(2), Ok(Progress { sent_ns: 20, closed: true }));
        assert_eq!(flow.delivered(2), Ok(Progress { sent_ns: 20, closed: false }));
        assert_eq!(flow.open(), 2);
    }

    #[test]
    fn faults_are_counted_and_the_first_few_are_told() {
        let mut faults = Faults::default();
        for number in 0..20 {
            faults.add(FaultKind::Lost, || format!("message {number}"));
        }
        let mut all = Faults::default();
        all.add(FaultKind::Damaged, || "one".to_owned());
        all.merge(faults.clone());
        all.merge(faults);
        assert_eq!((all.count(FaultKind::Lost), all.count(FaultKind::Damaged)), (40, 1));
        assert_eq!(all.examples().len(), 1 + Faults::EXAMPLES_MAX as usize);
    }

    #[test]
    fn counts_are_indexed_by_declaration() {
        for (index, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }
}
