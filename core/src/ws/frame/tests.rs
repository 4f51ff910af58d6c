//! Heads against tables of RFC 6455 section 5.2, masks against the byte-wise definition.

use super::*;
use crate::ws::testing::{FIN, Prng, frame, head};

const HELLO_MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The frame as the functions for servers write it, each way.
fn server_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut known = Vec::new();
    encode_head(opcode, payload.len(), &mut known);
    known.extend_from_slice(payload);

    let mut arena = b"before".to_vec();
    let start = begin_frame(&mut arena);
    arena.extend_from_slice(payload);
    let range = end_frame(&mut arena, start, opcode);
    assert!(arena.starts_with(b"before"));
    assert!(range.start as usize - b"before".len() <= 8, "the room is one head");
    assert_eq!(range.end as usize, arena.len());
    assert_eq!(&arena[range.start as usize..range.end as usize], known);
    known
}

#[test]
fn section_5_7_examples_are_written_byte_for_byte() {
    assert_eq!(server_frame(Opcode::Text, b"Hello"), b"\x81\x05Hello");
    let mut out = Vec::new();
    encode_masked(Opcode::Text, b"Hello", HELLO_MASK, &mut out);
    assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    out.clear();
    encode_ping(b"Hello", &mut out);
    assert_eq!(out, b"\x89\x05Hello");
    out.clear();
    encode_masked(Opcode::Pong, b"Hello", HELLO_MASK, &mut out);
    assert_eq!(out, b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    out.clear();
    encode_pong(b"Hello", &mut out);
    assert_eq!(out, b"\x8a\x05Hello");
    assert!(server_frame(Opcode::Binary, &[7; 256]).starts_with(b"\x82\x7e\x01\x00\x07"));
    let long = server_frame(Opcode::Binary, &[7; 65_536]);
    assert!(long.starts_with(b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00\x07"));
}

#[test]
fn section_5_2_lengths_have_the_shortest_form() {
    for len in [0, 1, 124, 125, 126, 127, 128, 255, 256, 65_534, 65_535, 65_536, 65_537, 1 << 20] {
        let payload = vec![b'x'; len];
        for opcode in [Opcode::Continuation, Opcode::Text, Opcode::Binary] {
            assert_eq!(server_frame(opcode, &payload), frame(FIN | opcode as u8, None, &payload));
        }
        let mut out = b"before".to_vec();
        encode_masked(Opcode::Text, &payload, [1, 2, 3, 4], &mut out);
        assert_eq!(out[6..], frame(0x81, Some([1, 2, 3, 4]), &payload));
    }
}

#[test]
fn rfc_7692_section_6_a_compressed_message_has_rsv1() {
    let payload = [b'x'; 300];
    for (opcode, first) in [(Opcode::Text, 0xc1), (Opcode::Binary, 0xc2)] {
        for len in [0, 125, 126, 300] {
            let mut out = b"before".to_vec();
            encode_compressed_head(opcode, len, &mut out);
            out.extend_from_slice(&payload[..len]);
            assert_eq!(out[6..], frame(first, None, &payload[..len]));
        }
    }
}

#[test]
fn frames_share_an_arena() {
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    for text in ["one", "", "three"] {
        let start = begin_frame(&mut arena);
        arena.extend_from_slice(text.as_bytes());
        ranges.push(end_frame(&mut arena, start, Opcode::Text));
    }
    let at = |range: &Range<u32>| &arena[range.start as usize..range.end as usize];
    assert_eq!(at(&ranges[0]), b"\x81\x03one");
    assert_eq!(at(&ranges[1]), b"\x81\x00");
    assert_eq!(at(&ranges[2]), b"\x81\x05three");
}

/// What section 5 (and RFC 7692 section 6, with `deflate`) says of the first two bytes, written as
/// a list of rules.
fn rules(first: u8, second: u8, role: Role, deflate: bool) -> Result<(), WsError> {
    let opcode = first & 15;
    let control = opcode >= 8;
    if first & 0b0011_0000 != 0 {
        return Err(WsError::ReservedBits);
    }
    if first & 0b0100_0000 != 0 && (!deflate || opcode != 1 && opcode != 2) {
        return Err(WsError::ReservedBits);
    }
    if (3..=7).contains(&opcode) || opcode >= 11 {
        return Err(WsError::ReservedOpcode);
    }
    if (second >= 128) != (role == Role::Server) {
        return Err(WsError::Masking);
    }
    if control && (first < 128 || second % 128 > 125) {
        return Err(WsError::ControlFrame);
    }
    Ok(())
}

#[test]
fn section_5_2_every_pair_of_first_bytes() {
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            for (role, deflate) in [
                (Role::Server, false),
                (Role::Client, false),
                (Role::Server, true),
                (Role::Client, true),
            ] {
                let expected = rules(first, second, role, deflate);
                // With nothing behind them they already tell what is wrong.
                let short = decode_head(&[first, second], role, deflate);
                assert_eq!(short.map(|_| ()), expected, "{first:02x} {second:02x} {role:?}");
                let len: u64 = match second % 128 {
                    126 => 0x0102,
                    127 => 0x0102_0304_0506,
                    len => len.into(),
                };
                let mask = (second >= 128).then_some([9, 8, 7, 6]);
                let mut bytes = head(first, mask, len);
                let head_len = bytes.len();
                bytes.extend([0xaa; 3]);
                let long = decode_head(&bytes, role, deflate);
                let Ok(()) = expected else {
                    assert_eq!(long, Err(expected.unwrap_err()));
                    continue;
                };
                let head = long.unwrap().unwrap();
                assert_eq!((head.fin, head.opcode as u8), (first >= 128, first & 15));
                assert_eq!(head.compressed, first & 0x40 != 0);
                assert_eq!((head.payload_len, head.head_len), (len, head_len));
                assert_eq!(head.mask, mask.unwrap_or_default());
                assert!(head_len <= HEAD_BYTES_MAX);
                for cut in 0..head_len {
                    assert_eq!(decode_head(&bytes[..cut], role, deflate), Ok(None), "{cut}");
                }
            }
        }
    }
}

#[test]
fn section_5_2_longer_forms_of_a_length_and_the_top_bit_are_refused() {
    let short = |len: u16| [&[0x82, 126][..], &len.to_be_bytes()].concat();
    let long = |len: u64| [&[0x82, 127][..], &len.to_be_bytes()].concat();
    for len in [0, 1, 125] {
        assert_eq!(decode_head(&short(len), Role::Client, false), Err(WsError::LengthForm));
    }
    for len in [0, 125, 126, 65_535, 1 << 63, u64::MAX] {
        assert_eq!(decode_head(&long(len), Role::Client, false), Err(WsError::LengthForm));
    }
    let len = |bytes: &[u8]| decode_head(bytes, Role::Client, false).unwrap().unwrap().payload_len;
    assert_eq!(len(&short(126)), 126);
    assert_eq!(len(&short(65_535)), 65_535);
    assert_eq!(len(&long(65_536)), 65_536);
    assert_eq!(len(&long((1 << 63) - 1)), (1 << 63) - 1);
    // Told before the mask has come.
    assert_eq!(decode_head(b"\x82\xfe\x00\x7d", Role::Server, false), Err(WsError::LengthForm));
}

#[test]
fn section_5_3_the_mask_goes_round_by_byte() {
    let mut prng = Prng(53);
    for len in (0..80).chain([255, 256, 1000, 1024, 4096 + 15]) {
        for offset in [0, 1, 2, 3, 4, 5, 126, 65_535] {
            // Starts at any alignment.
            for start in 0..4 {
                let mask = prng.mask();
                let whole = prng.bytes(start + len);
                let mut bytes = whole.clone();
                unmask(&mut bytes[start..], mask, offset);
                assert_eq!(bytes[..start], whole[..start]);
                for at in 0..len {
                    assert_eq!(bytes[start + at], whole[start + at] ^ mask[(offset + at) % 4]);
                }
            }
        }
    }
}

#[test]
fn section_5_3_parts_are_masked_like_the_whole() {
    let mut prng = Prng(531);
    for _ in 0..300 {
        let mask = prng.mask();
        let len = prng.size(3000);
        let plain = prng.bytes(len);
        let mut whole = plain.clone();
        unmask(&mut whole, mask, 0);
        let mut parts = Vec::new();
        for piece in prng.cut(&plain, 100) {
            let mut piece = piece.to_vec();
            unmask(&mut piece, mask, parts.len());
            parts.extend(piece);
        }
        assert_eq!(parts, whole);
        unmask(&mut whole, mask, 0);
        assert_eq!(whole, plain);
    }
}

#[test]
fn section_5_5_1_close_frames() {
    let close = |code, reason: &str| {
        let mut out = Vec::new();
        encode_close(code, reason, &mut out);
        out
    };
    assert_eq!(close(None, "not sent"), b"\x88\x00");
    assert_eq!(close(Some(1000), ""), b"\x88\x02\x03\xe8");
    assert_eq!(close(Some(4006), "log in"), b"\x88\x08\x0f\xa6log in");
    // 123 bytes of reason fit; a longer one is cut between characters.
    let fits = "x".repeat(123);
    assert_eq!(close(Some(1000), &fits), [b"\x88\x7d\x03\xe8", fits.as_bytes()].concat());
    let long = "é".repeat(80);
    assert_eq!(close(Some(1000), &long), [b"\x88\x7c\x03\xe8", &long.as_bytes()[..122]].concat());
}

#[test]
fn section_7_4_codes_that_may_be_sent() {
    let valid: Vec<u16> = (0..=u16::MAX).filter(|&code| may_be_sent(code)).collect();
    let expected: Vec<u16> =
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
            .into_iter()
            .chain(3000..5000)
            .collect();
    assert_eq!(valid, expected);
}
