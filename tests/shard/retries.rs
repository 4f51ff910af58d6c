//! When what is not acknowledged is sent again, beside other things that are not either.

use ringpost_core::command::NoticeOperation;
use ringpost_core::event::{Answer, Operation};
use ringpost_core::happened::Happened;
use ringpost_core::ids::UserId;

use super::world::World;
use super::xid;

/// A notice is due again after 1,000 s, a message after 5 s.
#[test]
fn a_message_does_not_wait_for_the_notice_before_it() {
    let mut world = World::new(2);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    let happened = Happened::Noticed {
        stream: String::new(),
        kind: "note".to_owned(),
        title: String::new(),
        content: "1".to_owned(),
        data: None,
    };
    let mut content = Vec::new();
    happened.encode(&mut content);
    let user = UserId::parse("bob").expect("a valid id");
    let notice = Box::new(NoticeOperation { id: "n".into(), content: content.into() });
    let told = world.ask(Operation::Notice { user, notice });
    assert!(matches!(told, Some(Answer::Stored(_))), "{told:?}");
    world.send(alice, &xid(1), "bob", "hi");
    assert_eq!(world.take(bob).len(), 2, "both come at once");
    let mut again = Vec::new();
    for second in 1..=30 {
        world.advance_ms(1_000);
        let frames = world.take(bob).into_iter();
        again.extend(frames.map(|frame| (second, frame["payload"].to_string())));
    }
    let message = |second| (second, r#""hi""#.to_owned());
    assert_eq!(again, [5, 12, 23].map(message));
}
