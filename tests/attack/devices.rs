//! With a token that is not for it, and acknowledgements of what never came.

use serde_json::json;

use super::common::client::{Client, xid};
use super::common::{Server, wall_s};
use super::witness::{SLACK, Witness, size};

#[test]
fn a_token_for_another_device() {
    let server = Server::start_with(&["--shards", "2"]);
    let claims = json!({"sub": "alice", "exp": wall_s() + 3_600, "did": "phone"});
    let token = server.token_of(&claims);
    let connect = |did: &str| {
        let headers = [("authorization", token.clone()), ("did", did.to_owned())];
        Client::with_headers(&server, "/imboy/ws", &headers).expect("upgraded").0
    };
    let mut alice = connect("phone");
    alice.nothing_more();
    let witness = Witness::new(&server, "a token for another device", SLACK);
    witness.during(|| {
        for n in 0..size(20, 3_000) {
            let mut thief = connect(&format!("tablet-{n}"));
            let error = thief.next();
            assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(706)));
            assert_eq!(thief.closed(), Some(4006));
        }
    });
    // She was not told of another device, and has none.
    alice.nothing_more();
    let connections = server.http().get("/v1/users/alice/connections").json();
    assert_eq!(connections["items"].as_array().map(Vec::len), Some(1), "{connections}");
}

/// Acknowledgements of messages that a device never got: of others' conversations, of ids that
/// nobody has, of messages that will come, of another type. None of them moves anything.
#[test]
fn acknowledgements_of_what_never_came() {
    let server = Server::start_with(&["--shards", "2"]);
    let mut alice = Client::connect(&server, "alice", "a");
    Client::connect(&server, "bob", "b").close();
    let waiting = 50;
    for n in 0..waiting {
        alice.send_stored(&xid(n), "bob", &json!(n));
    }
    let witness = Witness::new(&server, "acknowledgements of what never came", SLACK);
    witness.during(|| {
        let mut mallory = Client::connect(&server, "mallory", "m");
        for round in 0..size(20, 1_000) {
            for n in 0..waiting {
                for kind in ["C2C", "C2G", "S2C", "WEBRTC"] {
                    // Bob's messages, and what nobody ever had.
                    for id in [xid(n), xid(1_000_000 + round * waiting + n), String::new()] {
                        let text = format!("CLIENT_ACK,{kind},{id},m");
                        mallory.queue_text(&text).expect("connected");
                    }
                }
            }
            mallory.flush().expect("connected");
            mallory.nothing_more();
        }
        // Another device's name is refused, whoever's it is.
        mallory.send_text(&format!("CLIENT_ACK,C2C,{},b", xid(0))).expect("connected");
        assert_eq!(mallory.next()["code"], 1);
    });
    // Bob's device acknowledges what is not sent to it yet: the first is in flight, the others are
    // not, or not for long; nothing that it was not sent counts as acknowledged before it came.
    let mut bob = Client::connect(&server, "bob", "b");
    for n in 0..waiting {
        bob.queue_text(&format!("CLIENT_ACK,C2C,{},b", xid(500 + n))).expect("connected");
        bob.queue_text(&format!("CLIENT_ACK,S2C,{},b", xid(n))).expect("connected");
        bob.queue_text(&format!("CLIENT_ACK,C2G,{},b", xid(n))).expect("connected");
    }
    bob.flush().expect("connected");
    for n in 0..waiting {
        let message = bob.next();
        assert_eq!((&message["id"], &message["payload"]), (&json!(xid(n)), &json!(n)));
        bob.ack(&xid(n));
    }
    bob.nothing_more();
    // What he acknowledged before it was sent comes all the same.
    alice.send_stored(&xid(500), "bob", &json!("later"));
    assert_eq!(bob.next()["payload"], "later");
    bob.ack(&xid(500));
    bob.nothing_more();
}
