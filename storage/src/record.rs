//! A message as the log holds it: a version byte, then an rkyv archive (FORMAT.md, *Records*).
//!
//! Encoding appends to the caller's buffer; decoding checks the archive and borrows from it.
//! Neither allocates.

use std::mem::MaybeUninit;

use ringpost_core::ids::{Dialect, MessageId};
use ringpost_core::record::{Kind, Record};
use rkyv::api::low;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::error::Malformed;

/// The version byte of the records that this version of the program writes.
const VERSION: u8 = 3;

/// Version 3: it knows who has sent the last message. The seq is in the key. All archived types have
/// alignment 1 (feature `unaligned`): a RocksDB value may lie anywhere.
#[derive(Archive, Serialize)]
struct RecordV3<'a> {
    kind: u8,
    id: [u8; 12],
    time_ms: u64,
    sender_ms: Option<i64>,
    countable: u64,
    /// How many records before this one each side's last message is; [`NEVER`]: there is none, or
    /// it is not known.
    since: [u32; 2],
    dialect: u8,
    #[rkyv(with = InlineAsBox)]
    sender: &'a str,
    #[rkyv(with = InlineAsBox)]
    device: &'a str,
    #[rkyv(with = InlineAsBox)]
    client_id: &'a str,
    #[rkyv(with = InlineAsBox)]
    content: &'a [u8],
}

/// Version 2: it has a kind. Read, and not written any more.
#[derive(Archive)]
#[expect(dead_code, reason = "only its archived form is used")]
struct RecordV2<'a> {
    kind: u8,
    id: [u8; 12],
    time_ms: u64,
    sender_ms: Option<i64>,
    countable: u64,
    dialect: u8,
    #[rkyv(with = InlineAsBox)]
    sender: &'a str,
    #[rkyv(with = InlineAsBox)]
    device: &'a str,
    #[rkyv(with = InlineAsBox)]
    client_id: &'a str,
    #[rkyv(with = InlineAsBox)]
    content: &'a [u8],
}

/// Version 1: all are messages. Read, and not written any more.
#[derive(Archive)]
#[expect(dead_code, reason = "only its archived form is used")]
struct RecordV1<'a> {
    id: [u8; 12],
    time_ms: u64,
    sender_ms: Option<i64>,
    countable: u64,
    dialect: u8,
    #[rkyv(with = InlineAsBox)]
    sender: &'a str,
    #[rkyv(with = InlineAsBox)]
    device: &'a str,
    #[rkyv(with = InlineAsBox)]
    client_id: &'a str,
    #[rkyv(with = InlineAsBox)]
    content: &'a [u8],
}

/// Bytes of a version 3 archive's fixed part, behind the variable ones.
const FIXED: usize = size_of::<ArchivedRecordV3<'_>>();
const _: () = {
    assert!(align_of::<ArchivedRecordV3<'_>>() == 1, "values are read where they lie");
    assert!(FIXED == 1 + 12 + 8 + 9 + 8 + 8 + 1 + 4 * 8, "as the format document says");
    assert!(size_of::<ArchivedRecordV2<'_>>() == FIXED - 8, "as the format document says");
    assert!(size_of::<ArchivedRecordV1<'_>>() == FIXED - 9, "as the format document says");
};

/// See [`RecordV3::since`].
const NEVER: u32 = u32::MAX;

fn since(seq: u64, sent: u64) -> u32 {
    let ago = seq.checked_sub(sent).filter(|_| sent > 0);
    ago.and_then(|ago| u32::try_from(ago).ok()).unwrap_or(NEVER)
}

fn sent(seq: u64, since: u32) -> Result<u64, Malformed> {
    if since == NEVER {
        return Ok(0);
    }
    let sent = seq.checked_sub(since.into()).filter(|sent| *sent > 0);
    sent.ok_or(Malformed("a record follows a message before the first"))
}

/// How many bytes [`put`] appends.
pub fn len(record: &Record<'_>) -> usize {
    let Record { sender, device, client_id, content, .. } = record;
    1 + sender.len() + device.len() + client_id.len() + content.len() + FIXED
}

/// Appends the value of `record`.
pub fn put(out: &mut Vec<u8>, record: &Record<'_>) {
    let expected = out.len() + len(record);
    out.push(VERSION);
    let value = RecordV3 {
        kind: record.kind.number(),
        id: record.id.0,
        time_ms: record.time_ms,
        sender_ms: record.sender_ms,
        countable: record.countable,
        since: record.sent.map(|sent| since(record.seq, sent)),
        dialect: record.dialect.number(),
        sender: record.sender,
        device: record.device,
        client_id: record.client_id,
        content: record.content,
    };
    // Plain bytes need no scratch memory to be archived.
    let mut scratch: [MaybeUninit<u8>; 0] = [];
    let scratch = SubAllocator::new(&mut scratch);
    low::to_bytes_in_with_alloc::<_, _, Failure>(&value, &mut *out, scratch)
        .expect("a Vec takes everything, and offsets within a batch fit into 32 bits");
    assert_eq!(out.len(), expected, "the batch has written this length in front of it");
}

/// The record at `seq` in a value, checked.
pub fn get(seq: u64, value: &[u8]) -> Result<Record<'_>, Malformed> {
    match value.split_first() {
        Some((&VERSION, archive)) => get_v3(seq, archive),
        Some((&2, archive)) => get_v2(seq, archive),
        Some((&1, archive)) => get_v1(seq, archive),
        Some(_) => Err(Malformed("a record has a version that this program does not know")),
        None => Err(Malformed("a record is empty")),
    }
}

const NOT_VALID: Malformed = Malformed("a record's archive is not valid");
const LATER_DIALECT: Malformed = Malformed("a record has a dialect of a later version");

fn get_v3(seq: u64, archive: &[u8]) -> Result<Record<'_>, Malformed> {
    let archived = low::access::<ArchivedRecordV3<'_>, Failure>(archive).map_err(|_| NOT_VALID)?;
    let [one, other] = archived.since;
    Ok(Record {
        seq,
        kind: Kind::from_number(archived.kind)
            .ok_or(Malformed("a record has a kind of a later version"))?,
        id: MessageId(archived.id),
        time_ms: archived.time_ms.to_native(),
        sender_ms: archived.sender_ms.as_ref().map(|ms| ms.to_native()),
        countable: archived.countable.to_native(),
        sent: [sent(seq, one.to_native())?, sent(seq, other.to_native())?],
        sender: &archived.sender,
        dialect: Dialect::from_number(archived.dialect).ok_or(LATER_DIALECT)?,
        device: &archived.device,
        client_id: &archived.client_id,
        content: &archived.content,
    })
}

fn get_v2(seq: u64, archive: &[u8]) -> Result<Record<'_>, Malformed> {
    let archived = low::access::<ArchivedRecordV2<'_>, Failure>(archive).map_err(|_| NOT_VALID)?;
    Ok(Record {
        seq,
        kind: Kind::from_number(archived.kind)
            .ok_or(Malformed("a record has a kind of a later version"))?,
        id: MessageId(archived.id),
        time_ms: archived.time_ms.to_native(),
        sender_ms: archived.sender_ms.as_ref().map(|ms| ms.to_native()),
        countable: archived.countable.to_native(),
        sent: [0; 2],
        sender: &archived.sender,
        dialect: Dialect::from_number(archived.dialect).ok_or(LATER_DIALECT)?,
        device: &archived.device,
        client_id: &archived.client_id,
        content: &archived.content,
    })
}

fn get_v1(seq: u64, archive: &[u8]) -> Result<Record<'_>, Malformed> {
    let archived = low::access::<ArchivedRecordV1<'_>, Failure>(archive).map_err(|_| NOT_VALID)?;
    Ok(Record {
        seq,
        kind: Kind::Message,
        id: MessageId(archived.id),
        time_ms: archived.time_ms.to_native(),
        sender_ms: archived.sender_ms.as_ref().map(|ms| ms.to_native()),
        countable: archived.countable.to_native(),
        sent: [0; 2],
        sender: &archived.sender,
        dialect: Dialect::from_number(archived.dialect).ok_or(LATER_DIALECT)?,
        device: &archived.device,
        client_id: &archived.client_id,
        content: &archived.content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &[u8]) -> Record<'_> {
        Record {
            seq: 7,
            kind: Kind::Revoked,
            id: MessageId([0xa1; 12]),
            time_ms: 0x0102_0304_0506_0708,
            sender_ms: Some(-2),
            countable: 6,
            sent: [5, 0],
            sender: "ann",
            dialect: Dialect::Imboy,
            device: "dev",
            client_id: "c1",
            content,
        }
    }

    /// What FORMAT.md shows as its example; a change here is a change of the format.
    #[rustfmt::skip]
    const EXAMPLE: &[u8] = &[
        3,
        b'a', b'n', b'n', b'd', b'e', b'v', b'c', b'1', b'h', b'i', b'!',
        2,
        0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1,
        8, 7, 6, 5, 4, 3, 2, 1,
        1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        6, 0, 0, 0, 0, 0, 0, 0,
        2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
        1,
        0xc6, 0xff, 0xff, 0xff, 3, 0, 0, 0,
        0xc1, 0xff, 0xff, 0xff, 3, 0, 0, 0,
        0xbc, 0xff, 0xff, 0xff, 2, 0, 0, 0,
        0xb6, 0xff, 0xff, 0xff, 3, 0, 0, 0,
    ];

    /// The same as version 2 wrote it, which did not know who sent last.
    #[rustfmt::skip]
    const EXAMPLE_V2: &[u8] = &[
        2,
        b'a', b'n', b'n', b'd', b'e', b'v', b'c', b'1', b'h', b'i', b'!',
        2,
        0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1,
        8, 7, 6, 5, 4, 3, 2, 1,
        1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        6, 0, 0, 0, 0, 0, 0, 0,
        1,
        0xce, 0xff, 0xff, 0xff, 3, 0, 0, 0,
        0xc9, 0xff, 0xff, 0xff, 3, 0, 0, 0,
        0xc4, 0xff, 0xff, 0xff, 2, 0, 0, 0,
        0xbe, 0xff, 0xff, 0xff, 3, 0, 0, 0,
    ];

    /// The same as version 1 wrote it, all of which were messages.
    #[rustfmt::skip]
    const EXAMPLE_V1: &[u8] = &[
        1,
        b'a', b'n', b'n', b'd', b'e', b'v', b'c', b'1', b'h', b'i', b'!',
        0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1,
        8, 7, 6, 5, 4, 3, 2, 1,
        1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        6, 0, 0, 0, 0, 0, 0, 0,
        1,
        0xcf, 0xff, 0xff, 0xff, 3, 0, 0, 0,
        0xca, 0xff, 0xff, 0xff, 3, 0, 0, 0,
        0xc5, 0xff, 0xff, 0xff, 2, 0, 0, 0,
        0xbf, 0xff, 0xff, 0xff, 3, 0, 0, 0,
    ];

    #[test]
    fn a_record_is_the_bytes_of_the_format_document() {
        let mut out = vec![];
        put(&mut out, &record(b"hi!"));
        assert_eq!(out, EXAMPLE);
        assert_eq!(get(7, EXAMPLE), Ok(record(b"hi!")));
        let earlier = Record { sent: [0; 2], ..record(b"hi!") };
        assert_eq!(get(7, EXAMPLE_V2), Ok(earlier));
        assert_eq!(get(7, EXAMPLE_V1), Ok(Record { kind: Kind::Message, ..earlier }));
    }

    #[test]
    fn records_come_back_from_any_place() {
        let large = vec![0xee; 64 << 10];
        for content in [&b""[..], b"x", &large] {
            for sender_ms in [None, Some(i64::MIN), Some(i64::MAX)] {
                let record = Record { sender_ms, ..record(content) };
                for shift in 0..8 {
                    let mut out = vec![0xff; shift];
                    put(&mut out, &record);
                    assert_eq!(out.len() - shift, len(&record));
                    assert_eq!(get(7, &out[shift..]), Ok(record));
                }
            }
        }
        let empty = Record { sender: "", device: "", client_id: "", ..record(b"") };
        let mut out = vec![];
        put(&mut out, &empty);
        assert_eq!(get(7, &out), Ok(empty));
    }

    #[test]
    fn damaged_records_are_refused_or_read_but_never_believed_blindly() {
        for end in 0..EXAMPLE.len() {
            assert!(get(7, &EXAMPLE[..end]).is_err(), "cut at {end}");
        }
        // A flipped bit may give another valid record (a time, a letter); RocksDB's checksums are
        // what finds those. It must not give bytes from outside of the value.
        let range = EXAMPLE.len();
        for at in 0..range {
            for bit in 0..8 {
                let mut bytes = EXAMPLE.to_vec();
                bytes[at] ^= 1 << bit;
                if let Ok(record) = get(7, &bytes) {
                    let parts = [record.sender, record.device, record.client_id];
                    let total: usize = parts.iter().map(|part| part.len()).sum();
                    assert!(total + record.content.len() <= range);
                }
            }
        }
        assert!(get(1, EXAMPLE).is_err(), "sent before the first record");
        assert!(get(7, b"\x04").is_err(), "version 4");
        let mut later = EXAMPLE.to_vec();
        later[1 + 11 + 1 + 12 + 8 + 9 + 8 + 8] = 200;
        assert_eq!(get(7, &later), Err(Malformed("a record has a dialect of a later version")));
    }
}
