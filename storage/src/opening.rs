//! What a store says about itself: written once at its creation, read at every opening.

use std::ops::ControlFlow;

use ringpost_core::event::Entry;

use crate::batch::Batch;
use crate::error::{LogError, Malformed};
use crate::keys::{self, Family, Row, meta};
use crate::load::{View, malformed};
use crate::{FORMAT, Opening, Recovery, value};

/// Conversations that one batch of an upgrade names.
const CHATS_PER_BATCH: usize = 4_096;

/// The first batch of a store.
pub(crate) fn first(epoch: u64, node: [u8; 3], secret: u64) -> Batch {
    let mut first = Batch::new();
    first.put(Family::Meta, meta::FORMAT, &FORMAT.to_be_bytes());
    first.put(Family::Meta, meta::EPOCH, &epoch.to_be_bytes());
    first.put(Family::Meta, meta::NODE, &node);
    first.put(Family::Meta, meta::SECRET, &secret.to_be_bytes());
    first
}

/// The batch that makes a store of an earlier format one of this program's.
pub(crate) fn upgrade() -> Batch {
    let mut upgrade = Batch::new();
    upgrade.put(Family::Meta, meta::FORMAT, &FORMAT.to_be_bytes());
    upgrade
}

/// What a store of an earlier format than 3 lacks: it does not know which conversations a user has.
/// Hands it to `write` in pieces.
pub(crate) fn missing_chats(
    view: &impl View,
    mut write: impl FnMut(Batch) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut names = vec![];
    let mut next = Some(vec![]);
    while let Some(from) = next.take() {
        view.scan(Family::Rows, &from, &[u8::MAX; 3], |key, value| {
            if let Row::Conversation(conversation) = keys::parse_row(key)? {
                if names.len() == CHATS_PER_BATCH {
                    next = Some(key.to_vec());
                    return Ok(ControlFlow::Break(()));
                }
                names.push((conversation, value::conversation(value)?));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut batch = Batch::new();
        for (conversation, name) in names.drain(..) {
            for user in name.marked().cloned() {
                batch.entry(&Entry::Chat { user, conversation }, &[]);
            }
        }
        if !batch.is_empty() {
            write(batch)?;
        }
    }
    Ok(())
}

/// Whether the first batch has been written.
pub(crate) fn exists(view: &impl View) -> Result<bool, LogError> {
    Ok(view.get(Family::Meta, meta::BATCH, |_| Ok(()))?.is_some())
}

/// Reads what [`first`] and the commits since have written.
pub(crate) fn read(view: &impl View, recovery: Recovery) -> Result<Opening, LogError> {
    let format = u32::from_be_bytes(required(view, meta::FORMAT)?);
    if !(1..=FORMAT).contains(&format) {
        return Err(LogError::Format { found: format, known: FORMAT });
    }
    let mut leased = 0;
    view.scan(Family::Meta, meta::LEASES, meta::LEASES_END, |_, value| {
        leased = leased.max(u32::from_be_bytes(value::fixed(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    let batch: [u8; 16] = required(view, meta::BATCH)?;
    let (number, _seal) = batch.split_first_chunk().expect("8 bytes of 16");
    Ok(Opening {
        format,
        epoch: u64::from_be_bytes(required(view, meta::EPOCH)?),
        node: required(view, meta::NODE)?,
        secret: u64::from_be_bytes(required(view, meta::SECRET)?),
        leased,
        batch: u64::from_be_bytes(*number),
        recovery,
    })
}

fn required<const N: usize>(view: &impl View, key: &[u8]) -> Result<[u8; N], LogError> {
    let value = view.get(Family::Meta, key, value::fixed)?;
    value.ok_or_else(|| malformed(Family::Meta, key, Malformed("a key of meta is missing")))
}
