//! What the store reads: records, values, keys, batches, events.
//!
//! The first byte chooses the reader, the rest is what it reads. What is read and written again reads
//! the same, and is no longer than what it came from.

use ringpost_core::event::{DeviceRow, MemberRow};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{ConvKey, ShardId};
use ringpost_core::limits::DEDUP_KEPT_MS;
use ringpost_core::record::Page;
use ringpost_storage::format::{Malformed, key, operations, record, sealed, value};

/// How many readers there are.
pub const READERS: u8 = 19;

/// See the module.
pub fn run(data: &[u8]) {
    let Some((&reader, bytes)) = data.split_first() else { return };
    match reader % READERS {
        0 => a_record(bytes),
        1 => batch(bytes),
        2 => keys(bytes),
        3 => event(bytes),
        4 => value(bytes, value::place, |out, place| value::put_place(out, place.0, place.1)),
        5 => stored(bytes),
        6 => value(bytes, value::conversation, value::put_conversation),
        7 => value(bytes, value::scheduled, value::put_scheduled),
        8 => value(bytes, value::group, value::put_group),
        9 => value(bytes, value::member, |out, row: &MemberRow| value::put_member(out, row)),
        10 => value(bytes, value::membership, value::put_membership),
        11 => user(bytes),
        12 => value(bytes, value::relation, value::put_relation),
        13 => value(bytes, value::owed, value::put_owed),
        14 => value(bytes, value::device, |out, row: &DeviceRow| value::put_device(out, *row)),
        15 => value(bytes, value::position, value::put_position),
        16 => value(bytes, value::present, |out, ()| value::put_present(out)),
        17 => value(bytes, value::seq, |out, seq| value::put_seq(out, *seq)),
        _ => {
            let fixed = value::fixed::<8>(bytes);
            assert_eq!(
                fixed.ok().as_ref().map(|fixed| &fixed[..]),
                (bytes.len() == 8).then_some(bytes)
            );
        }
    }
}

/// One kind of value.
fn value<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    get: impl Fn(&[u8]) -> Result<T, Malformed>,
    put: impl Fn(&mut Vec<u8>, &T),
) {
    let Ok(row) = get(bytes) else { return };
    let mut out = vec![0xff];
    put(&mut out, &row);
    let written = &out[1..];
    assert!(written.len() <= bytes.len(), "{row:?}");
    assert_eq!(get(written).as_ref(), Ok(&row));
    // No value is the beginning of another, unless it ends in text or in ranges.
    if let Some((_, cut)) = written.split_last() {
        assert_ne!(get(cut).as_ref(), Ok(&row), "its last byte says something");
    }
}

fn stored(bytes: &[u8]) {
    value(bytes, value::stored, |out, stored| value::put_stored(out, *stored));
    match (value::stored(bytes), value::dedup_expires_ms(bytes)) {
        (Ok(stored), expires) => {
            assert_eq!(expires, Ok(stored.time_ms.saturating_add(DEDUP_KEPT_MS)));
        }
        (Err(_), Ok(_)) => assert_eq!(bytes[0], 2, "only that kind says it itself"),
        (Err(_), Err(_)) => {}
    }
}

fn user(bytes: &[u8]) {
    value(bytes, value::user, value::put_user);
    if let Ok(row) = value::user(bytes) {
        assert_eq!(value::user_exists(bytes), Ok(row.standing.cancelled_ms == 0));
    }
}

/// The first 8 bytes are the seq, which is the key's.
fn a_record(bytes: &[u8]) {
    let Some((seq, bytes)) = bytes.split_first_chunk::<8>() else { return };
    let seq = u64::from_be_bytes(*seq);
    let Ok(read) = record::get(seq, bytes) else { return };
    let text = read.sender.len() + read.device.len() + read.client_id.len() + read.content.len();
    // Parts of a damaged archive may lie over each other, but not outside of it.
    for part in
        [read.sender.as_bytes(), read.device.as_bytes(), read.client_id.as_bytes(), read.content]
    {
        let (start, end) = (bytes.as_ptr_range().start, bytes.as_ptr_range().end);
        let part = part.as_ptr_range();
        assert!(part.start == part.end || start <= part.start && part.end <= end);
    }
    assert!(text <= 4 * bytes.len());
    for shift in [0, 1, 7] {
        let mut out = vec![0xff; shift];
        record::put(&mut out, &read);
        assert_eq!(out.len() - shift, record::len(&read));
        match record::get(seq, &out[shift..]) {
            Ok(again) => assert_eq!(again, read),
            Err(error) => panic!("{error}: {read:?}"),
        }
    }
    let mut page = Page::default();
    page.push(&read);
    assert_eq!(page.get(0), Some(read));
    if let Some(happened) = Happened::decode(read.content) {
        let mut out = Vec::new();
        happened.encode(&mut out);
        assert_eq!(Happened::decode(&out), Some(happened));
    }
}

fn event(bytes: &[u8]) {
    let Some(happened) = Happened::decode(bytes) else { return };
    let mut out = Vec::new();
    happened.encode(&mut out);
    assert!(out.len() <= bytes.len(), "{happened:?}");
    assert_eq!(Happened::decode(&out), Some(happened));
}

fn batch(bytes: &[u8]) {
    let mut total = 0;
    let mut failed = false;
    for op in operations(bytes) {
        assert!(!failed, "nothing comes behind an error");
        let Ok((family, key, value)) = op else {
            failed = true;
            continue;
        };
        assert!((1..=7).contains(&family));
        total += 3 + key.len() + value.map_or(0, |value| value.len() + 1);
        assert!(total <= bytes.len());
    }
    if let Some(mark) = bytes.last_chunk::<8>()
        && let Some(number) = sealed(bytes, *mark)
    {
        let at = bytes.len() - 16;
        assert_eq!(number.to_be_bytes(), bytes[at..at + 8]);
        assert_eq!(sealed(bytes, mark.map(|byte| !byte)), None);
    }
}

/// A key that is read is written the same.
fn keys(bytes: &[u8]) {
    if let Ok((conversation, seq)) = key::parse_log(bytes) {
        assert_eq!(key::log(conversation, seq), bytes);
        assert_eq!(key::log_seq(bytes), Ok(seq));
    }
    if let Ok(conversation) = key::parse_conv(bytes) {
        assert_eq!(key::conv(conversation), bytes);
    }
    if let Ok((slot, id)) = key::parse_owed(bytes) {
        assert_eq!(key::owed(slot, id), bytes);
    }
    if let Ok(due) = key::parse_due(bytes) {
        assert_eq!(key::due(due), bytes);
    }
    if let Ok(device) = key::parse_device(bytes) {
        assert_eq!((device.dialect.number(), device.name.as_bytes()), (bytes[0], &bytes[1..]));
    }
    if let Ok(user) = key::parse_user(bytes) {
        assert_eq!(user.as_str().as_bytes(), bytes);
        let (key, end) = (key::user(&user), key::user(&user).end());
        assert!(key[..] < end[..]);
        assert_eq!(key::parse_row(&key), Ok(key::Row::User));
        let conversation = ConvKey { slot: user.slot(), hash: [0xff; 16] };
        let mark = key::mark(&user, conversation);
        assert_eq!(key::parse_row(&mark), Ok(key::Row::Mark(conversation)));
        assert!(key::marks(&user)[..] < mark[..] && mark[..] < key::marks(&user).end()[..]);
        let mention = key::mention(&user, conversation, 7);
        assert_eq!(key::parse_row(&mention), Ok(key::Row::Mention(conversation, 7)));
    }
    let row = key::parse_row(bytes);
    if let Ok(key::Row::Conversation(conversation)) = row {
        assert_eq!(key::conversation(conversation)[..], *bytes);
    }
    if let Ok(key::Row::Mention(_, seq)) = row {
        assert_eq!(key::mention_seq(bytes), Ok(seq));
    }
    assert!(key::lease(ShardId(1)).starts_with(key::meta::LEASES));
}
