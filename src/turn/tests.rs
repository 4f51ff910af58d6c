//! Turns, the log and the mesh together, over real sockets.

use std::time::Duration;

use ringpost_core::event::{Answer, Operation};
use ringpost_core::ids::UserId;

use crate::mesh::{Census, EndStep};
use crate::testing::{Client, Got, Shards, c2c, until};

#[test]
fn nothing_is_told_before_it_is_durable() {
    let shards = Shards::start(1);
    let (mut alice, mut bob) = (shards.connect("alice"), shards.connect("bob"));
    alice.check();
    bob.check();
    let durable = shards.log.durable();
    shards.log.stall();
    alice.send(&c2c("1", "bob", "hello"));
    alice.check();
    until(|| shards.log.written() > durable, || "it was not written".to_owned());
    bob.check();
    assert_eq!(shards.log.durable(), durable);
    shards.log.release();
    assert!(alice.text().contains("C2C_SERVER_ACK"));
    assert!(bob.text().contains("hello"));
}

#[test]
fn users_on_different_shards_reach_each_other() {
    let shards = Shards::start(2);
    let names: Vec<String> = (0..2).map(|shard| shards.user_of(shard)).collect();
    let mut clients: Vec<Client> = names.iter().map(|name| shards.connect(name)).collect();
    for (from, to) in [(0, 1), (1, 0), (0, 0)] {
        clients[from].send(&c2c(&format!("m{from}{to}"), &names[to], "across"));
        let receipt = clients[from].text();
        assert!(receipt.contains("C2C_SERVER_ACK"), "{receipt}");
        if from != to {
            let message = clients[to].text();
            assert!(message.contains("across"), "{message}");
            clients[to].say(&format!("CLIENT_ACK,C2C,m{from}{to},did"));
        }
    }
}

#[test]
fn what_memory_does_not_have_is_read_by_others() {
    let shards = Shards::start(2);
    shards.log.set_cold(true);
    let names: Vec<String> = (0..2).map(|shard| shards.user_of(shard)).collect();
    let mut sender = shards.connect(&names[0]);
    shards.connect(&names[1]).check();
    shards.until(|stats| &stats.connections, 1);
    for id in 0..50 {
        sender.send(&c2c(&format!("m{id}"), &names[1], "later"));
        assert!(sender.text().contains("C2C_SERVER_ACK"));
    }
    let mut receiver = shards.connect(&names[1]);
    for id in 0..50 {
        let message = receiver.text();
        assert!(message.contains("later"), "{id}: {message}");
        let json: serde_json::Value = serde_json::from_str(&message).expect("JSON");
        let id = json["id"].as_str().expect("an id");
        receiver.say(&format!("CLIENT_ACK,C2C,{id},did"));
    }
}

#[test]
fn the_control_plane_asks_a_users_home() {
    let shards = Shards::start(2);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for name in [shards.user_of(0), shards.user_of(1)] {
        let user = UserId::parse(&name).expect("valid");
        let get = Operation::GetUser { user: user.clone() };
        let put = Operation::PutUser { user: user.clone(), profile: "{}".to_owned() };
        let answer = runtime.block_on(shards.mesh.ask(get.clone()));
        assert_eq!(answer, Ok(Answer::NoSuchUser));
        let answer = runtime.block_on(shards.mesh.ask(put));
        assert!(matches!(answer, Ok(Answer::User { created: true, .. })), "{answer:?}");
        let answer = runtime.block_on(shards.mesh.ask(get));
        assert!(matches!(answer, Ok(Answer::User { created: false, .. })), "{answer:?}");
    }
}

#[test]
fn the_end_answers_what_is_in_progress_and_closes_what_is_left() {
    let shards = Shards::start(2);
    let names: Vec<String> = (0..2).map(|shard| shards.user_of(shard)).collect();
    let mut clients: Vec<Client> = names.iter().map(|name| shards.connect(name)).collect();
    clients.iter_mut().for_each(Client::check);
    shards.log.stall();
    let taken: u64 = shards.stats.shards().iter().map(|shard| shard.messages_in.read()).sum();
    clients[0].send(&c2c("1", &names[1], "in progress"));
    shards.until(|stats| &stats.messages_in, taken + 1);
    shards.end(EndStep::Drain);
    until(
        || shards.mesh.census() == Census { busy: 2, connections: 2 } || shards.log.written() > 1,
        || "nothing is in progress".to_owned(),
    );
    shards.log.release();
    until(|| shards.mesh.census().busy == 0, || format!("{:?}", shards.mesh.census()));
    shards.end(EndStep::Close(Duration::from_millis(20)));
    assert!(clients[0].text().contains("C2C_SERVER_ACK"));
    assert!(clients[1].text().contains("in progress"));
    for client in &mut clients {
        assert_eq!(client.next(), Got::Close(Some(1012)));
    }
    drop(clients);
    until(|| shards.mesh.census().connections == 0, || format!("{:?}", shards.mesh.census()));
    // The listeners are gone.
    std::net::TcpStream::connect(shards.addr).expect_err("nobody listens");
}
