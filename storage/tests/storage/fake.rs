//! The fake: crash images, stalls, failures.

use std::sync::Arc;

use ringpost_storage::{Fake, FakeSeed, Log, LogError};

use crate::support::*;

fn message(seq: u64) -> Turn {
    let turn = Turn::default().message("ann", "bob", seq, b"x").lease(0, 10 * seq as u32);
    if seq == 1 { turn.named("ann", "bob") } else { turn }
}

#[test]
fn a_crash_keeps_what_is_durable_and_some_of_the_rest() {
    let seed = FakeSeed { epoch: 1, node: [2, 3, 4], secret: 5 };
    let fake = Fake::new(seed);
    message(1).commit(&fake);
    let two = fake.append(&[message(2).batch()]);
    let three = fake.append(&[message(3).batch()]);
    assert_eq!((fake.durable(), fake.written()), (two - 1, three));
    assert_eq!(head(&fake, "ann", "bob"), 1, "only what is durable is visible");

    for (number, seq) in [(two - 1, 1), (two, 2), (three, 3)] {
        let image = fake.crash_image(number);
        assert_eq!(head(&image, "ann", "bob"), seq);
        let opening = image.opening();
        assert_eq!((opening.batch, opening.leased), (number, 10 * seq as u32));
        assert_eq!((opening.epoch, opening.node, opening.secret), (1, [2, 3, 4], 5));
        assert!(!opening.recovery.created);
        message(seq + 1).commit(&image);
        assert_eq!(image.durable(), number + 1, "numbers go on from what is left");
    }
    fake.complete(two);
    assert_eq!(head(&fake, "ann", "bob"), 2);
    assert_eq!(fake.crash_image(two).written(), two);
}

#[test]
fn a_failed_commit_may_or_may_not_be_there() {
    let fake = Fake::new(FakeSeed::default());
    message(1).commit(&fake);
    fake.fail();
    let failed = fake.commit(&[message(2).batch()]).expect_err("told to fail");
    assert!(matches!(failed, LogError::Write(_)));
    assert!(fake.sync().is_err());
    assert_eq!(head(&fake.crash_image(fake.durable()), "ann", "bob"), 1);
    assert_eq!(head(&fake.crash_image(fake.written()), "ann", "bob"), 2);
}

#[test]
fn a_stalled_commit_waits() {
    let fake = Arc::new(Fake::new(FakeSeed::default()));
    message(1).commit(&*fake);
    fake.stall();
    let durable = fake.durable();
    let writer = std::thread::spawn({
        let fake = Arc::clone(&fake);
        move || message(2).commit(&*fake)
    });
    while fake.written() == durable {
        std::thread::yield_now();
    }
    assert_eq!((fake.durable(), head(&*fake, "ann", "bob")), (durable, 1), "handed over, not done");
    fake.release();
    writer.join().expect("the commit came back");
    assert_eq!(head(&*fake, "ann", "bob"), 2);
}

#[test]
fn cold_means_a_reader_thread_is_needed() {
    let fake = Fake::new(FakeSeed::default());
    message(1).commit(&fake);
    let load = page("ann", "bob", 1, 1, 100);
    assert!(fake.load_cached(&load).expect("no error").is_some());
    fake.set_cold(true);
    assert!(fake.load_cached(&load).expect("no error").is_none());
    assert_eq!(contents(&fake, &load).len(), 1);
}
