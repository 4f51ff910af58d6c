//! Offers against their answers. Nothing is answered to an offer that is declined.

use super::*;
use crate::ws::handshake::parse;
use crate::ws::testing::Prng;

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What a request with these header lines agrees on.
fn agreed(lines: &[&str]) -> Option<Agreement> {
    let mut head = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        .to_owned();
    for line in lines {
        head += &format!("Sec-WebSocket-Extensions: {line}\r\n");
    }
    head += "\r\n";
    let (request, _) = parse(head.as_bytes()).expect("a proper request").expect("a whole one");
    negotiate(&request)
}

/// The answer's parameters behind those that are always there, and the window.
#[track_caller]
fn taken(lines: &[&str]) -> (String, u8) {
    let agreement = agreed(lines).unwrap_or_else(|| panic!("{lines:?} was declined"));
    let answer = agreement.answer();
    let more = answer.strip_prefix(ANSWER).unwrap_or_else(|| panic!("{answer}"));
    (more.to_owned(), agreement.window().bits())
}

#[track_caller]
fn offer(params: &str) -> (String, u8) {
    taken(&[&format!("permessage-deflate{params}")])
}

#[track_caller]
fn declined(offer: &str) {
    assert_eq!(agreed(&[offer]), None, "{offer}");
    // It does not stand in the way of what comes behind it, in the same header or another one.
    let (both, next) = (format!("{offer}, permessage-deflate"), "permessage-deflate");
    assert_eq!(taken(&[&both]), (String::new(), 15), "{both}");
    assert_eq!(taken(&[offer, next]), (String::new(), 15), "{offer}");
}

#[test]
fn section_7_1_1_context_takeover_is_declined_either_way_asked_or_not() {
    for params in [
        "",
        "; server_no_context_takeover",
        "; client_no_context_takeover",
        "; client_no_context_takeover; server_no_context_takeover",
        " ;server_no_context_takeover ; client_no_context_takeover ",
    ] {
        assert_eq!(offer(params), (String::new(), 15), "{params}");
    }
}

#[test]
fn section_7_1_2_1_the_servers_window_is_kept_to() {
    for bits in 9..=15 {
        let expected = (format!("; server_max_window_bits={bits}"), bits);
        assert_eq!(offer(&format!("; server_max_window_bits={bits}")), expected);
        assert_eq!(offer(&format!("; server_max_window_bits=\"{bits}\"")), expected);
        assert_eq!(offer(&format!(";server_max_window_bits = {bits}")), expected);
    }
    assert_eq!(offer("; server_max_window_bits=\"1\\0\"").1, 10);
    for wrong in ["8", "7", "16", "0", "", "09", "+9", "9.0", "1O", "100", "\"\"", "\"9\" 9"] {
        declined(&format!("permessage-deflate; server_max_window_bits={wrong}"));
    }
    declined("permessage-deflate; server_max_window_bits");
    for open in ["\"9", "9\"", "\"9\\\"", "\"9\\", "\""] {
        assert_eq!(agreed(&[&format!("permessage-deflate; server_max_window_bits={open}")]), None);
    }
}

#[test]
fn section_7_1_2_2_the_clients_window_is_only_answered_when_offered_with_a_value() {
    assert_eq!(offer("; client_max_window_bits"), (String::new(), 15));
    for bits in 8..=15 {
        let param = format!("; client_max_window_bits={bits}");
        assert_eq!(offer(&param), (param.clone(), 15));
        assert_eq!(offer(&format!("; client_max_window_bits=\"{bits}\"")), (param, 15));
    }
    for wrong in ["7", "16", "", "08", "x"] {
        declined(&format!("permessage-deflate; client_max_window_bits={wrong}"));
    }
}

#[test]
fn section_7_1_all_parameters_in_any_order() {
    let expected = ("; server_max_window_bits=10; client_max_window_bits=11".to_owned(), 10);
    let params = [
        "; server_max_window_bits=10",
        "; client_max_window_bits=11",
        "; server_no_context_takeover",
        "; client_no_context_takeover",
    ];
    let mut prng = Prng(7692);
    for _ in 0..50 {
        let mut left = params.to_vec();
        let mut text = String::new();
        while !left.is_empty() {
            text += left.swap_remove(prng.below(left.len()));
        }
        assert_eq!(offer(&text), expected, "{text}");
    }
}

#[test]
fn section_7_1_offers_that_are_declined() {
    for wrong in [
        // Not it.
        "x-webkit-deflate-frame",
        "permessage-bzip2; server_no_context_takeover",
        "permessage-deflate2",
        "Permessage-Deflate",
        "\"permessage-deflate\"",
        "",
        // Unknown parameters.
        "permessage-deflate; x",
        "permessage-deflate; server_max_window_bits=10; level=9",
        "permessage-deflate; SERVER_NO_CONTEXT_TAKEOVER",
        // Twice the same.
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        // A value where there is none.
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover=",
        // No proper list of parameters.
        "permessage-deflate;",
        "permessage-deflate;; client_max_window_bits",
        "permessage-deflate; =10",
        "permessage-deflate client_max_window_bits",
        "permessage-deflate=1",
        "; client_max_window_bits",
    ] {
        declined(wrong);
    }
}

#[test]
fn section_5_the_first_offer_that_can_be_kept_is_taken() {
    let offers = "permessage-deflate; server_max_window_bits=8, \
        permessage-deflate; server_max_window_bits=10, permessage-deflate";
    assert_eq!(taken(&[offers]).1, 10);
    let expected = ("; server_max_window_bits=9".to_owned(), 9);
    assert_eq!(
        taken(&[
            "foo; a=\"x, permessage-deflate\", bar",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits=9, permessage-deflate",
        ]),
        expected
    );
    assert_eq!(agreed(&[]), None);
    // What stands in quotes is no offer, and an open quote hides the rest of its header.
    assert_eq!(agreed(&["foo; a=\"x, permessage-deflate\""]), None);
    assert_eq!(agreed(&["foo; a=\"\\\", permessage-deflate\""]), None);
    assert_eq!(agreed(&["foo; a=\", permessage-deflate"]), None);
    assert_eq!(taken(&["foo; a=\"\\\\\", permessage-deflate"]).1, 15);
}

#[test]
fn what_no_header_should_have_neither_panics_nor_is_agreed_to_by_halves() {
    let mut prng = Prng(9);
    let words = [
        "permessage-deflate",
        "; server_max_window_bits=",
        "; client_max_window_bits",
        "; server_no_context_takeover",
        "=",
        ";",
        ",",
        "\"",
        "\\",
        " ",
        "8",
        "9",
        "15",
        "\u{e9}",
    ];
    let mut agreements = 0;
    for _ in 0..20_000 {
        let text: String = (0..prng.below(9)).map(|_| words[prng.below(words.len())]).collect();
        let text = format!("permessage-deflate{text}");
        if let Some(agreement) = agreed(&[&text]) {
            agreements += 1;
            let answer = agreement.answer();
            assert!(answer.starts_with(ANSWER), "{answer}");
            // A client that offers just the answer's parameters gets the same answer.
            assert_eq!(agreed(&[&answer]), Some(agreement), "{text}");
        }
    }
    assert!(agreements > 1000, "{agreements}");
}

#[test]
fn a_message_within_the_window_may_use_the_largest() {
    for bits in 9..=15 {
        let window = Window::new(bits).expect("deflate can");
        assert_eq!(window.for_message(0), Window::LARGEST);
        assert_eq!(window.for_message(1 << bits), Window::LARGEST);
        assert_eq!(window.for_message((1 << bits) + 1), window);
    }
    assert_eq!([Window::new(8), Window::new(16), Window::new(0)], [None; 3]);
}
