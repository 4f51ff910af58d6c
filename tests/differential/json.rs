//! Documents, most of them right.

use ringpost_core::dialect::imboy::{self, Frame};
use ringpost_core::dialect::json::Scratch;
use ringpost_fuzz_bodies::json;

use super::Random;

/// How many documents.
const DOCUMENTS: u64 = 40_000;

fn blank(random: &mut Random, out: &mut String) {
    if random.below(6) == 0 {
        out.push_str(random.pick(&[" ", "\n", "\t", "\r\n", "   "]));
    }
}

fn text(random: &mut Random, out: &mut String) {
    out.push('"');
    for _ in 0..random.pick(&[0, 1, 3, 8, 40, 70]) {
        out.push_str(random.pick(&[
            "a",
            "z",
            " ",
            "é",
            "€",
            "😀",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "/",
            "\\\"",
            "\\\\",
            "\\/",
            "\\b",
            "\\f",
            "\\n",
            "\\r",
            "\\t",
            "\\u0041",
            "\\u00e9",
            "\\u20AC",
            "\\ud83d\\ude00",
            "\\u0000",
            "\u{7f}",
        ]));
    }
    // Now and then what no string may have.
    if random.below(40) == 0 {
        out.push_str(random.pick(&[
            "\\x",
            "\\u12",
            "\\ud800",
            "\\udc00",
            "\n",
            "\u{1}",
            "\\ud800\\u0041",
        ]));
    }
    out.push('"');
}

fn number(random: &mut Random, out: &mut String) {
    match random.below(8) {
        0..3 => out.push_str(&(random.word() as i64 >> random.below(64)).to_string()),
        3 => out.push_str(&random.word().to_string()),
        4 => out.push_str(
            &f64::from_bits(random.word()).to_string().replace("NaN", "0").replace("inf", "1"),
        ),
        5 => out.push_str(&format!("{}.{}", random.below(1000), random.word())),
        6 => {
            let exponent = random.below(700) as i64 - 350;
            out.push_str(&format!("{}.{}e{exponent}", random.below(10), random.below(1 << 40)));
        }
        _ => out.push_str(random.pick(&[
            "0",
            "-0",
            "-0.0",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "1e400",
            "-1e400",
            "1E+2",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "0x1",
            "5e-324",
            "2.2250738585072011e-308",
            "1.7976931348623157e308",
        ])),
    }
}

fn value(random: &mut Random, depth: usize, out: &mut String) {
    blank(random, out);
    match random.below(if depth == 0 { 6 } else { 9 }) {
        0 | 1 => text(random, out),
        2 | 3 => number(random, out),
        4 => out.push_str(random.pick(&["true", "false", "null"])),
        5 => out.push_str(random.pick(&["true", "nul", "truee", "{}", "[]", "{ }", "[ ]"])),
        6 => {
            out.push('[');
            for n in 0..random.below(4) {
                if n > 0 {
                    out.push(',');
                }
                value(random, depth - 1, out);
            }
            out.push(']');
        }
        _ => object(random, depth - 1, out),
    }
    blank(random, out);
}

fn object(random: &mut Random, depth: usize, out: &mut String) {
    out.push('{');
    // Sometimes so many that a map keeps them another way.
    let members = if random.below(30) == 0 { 60 } else { random.below(5) };
    for n in 0..members {
        if n > 0 {
            out.push(',');
        }
        blank(random, out);
        match random.below(4) {
            0 => text(random, out),
            1 => out.push_str(&format!("\"k{}\"", random.below(6))),
            _ => out.push_str(&format!("\"m{n}\"")),
        }
        blank(random, out);
        out.push(':');
        value(random, depth, out);
    }
    out.push('}');
}

#[test]
fn json_agrees_with_serde_json() {
    for seed in 0..DOCUMENTS {
        let random = &mut Random(seed);
        let mut document = String::new();
        match random.below(5) {
            0 => value(random, 3, &mut document),
            _ => object(random, 3, &mut document),
        }
        let mut bytes = document.into_bytes();
        if random.below(3) == 0 {
            random.mutate(&mut bytes);
        }
        println!("seed {seed}: {}", String::from_utf8_lossy(&bytes));
        json::run(&bytes);
    }
}

/// A payload is what serde_json takes for one, and its bytes are those of the frame, wherever it
/// stands and however often it is given: the last one counts.
#[test]
fn opaque_payloads_keep_their_bytes() {
    let mut scratch = Scratch::default();
    let mut taken = 0;
    for seed in 0..5_000 {
        let random = &mut Random(seed);
        let mut payload = String::new();
        value(random, 3, &mut payload);
        let payload = payload.trim_matches([' ', '\n', '\t', '\r']);
        let mut members = vec![
            "\"id\":\"m1\"".to_owned(),
            "\"type\" : \"c2c\"".to_owned(),
            "\"to\":\"bob\"".to_owned(),
            "\"x\":[\"payload\",{\"payload\":1}]".to_owned(),
        ];
        let at = random.below(members.len() + 1);
        members.insert(at, format!("\"payload\": {payload} "));
        if random.below(4) == 0 {
            members.insert(random.below(at + 1), "\"payload\":\"earlier\"".to_owned());
        }
        let frame = format!(" {{ {} }} ", members.join(" ,\n"));
        let peer: Result<serde_json::Value, _> = serde_json::from_str(&frame);
        match (imboy::decode(frame.as_bytes(), &mut scratch), peer) {
            (Ok(Frame::Send { payload: span, .. }), peer) => {
                assert_eq!(&frame[span], payload, "seed {seed}: {frame}");
                let out_of_range =
                    |error: &serde_json::Error| error.to_string().contains("out of range");
                assert!(peer.is_ok() || peer.is_err_and(|error| out_of_range(&error)), "{frame}");
                taken += 1;
            }
            (Ok(other), _) => panic!("seed {seed}: {other:?}"),
            (Err(refused), peer) => assert!(peer.is_err(), "seed {seed}: {refused:?}: {frame}"),
        }
    }
    assert!(taken > 3_000, "most of them are right: {taken}");
}
