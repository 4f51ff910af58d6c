//! A disk that fills up, on a real file system: new messages are told to try again and readiness is
//! red with the reason; reading and acknowledging go on, over a crash too; with room again it goes
//! on by itself; nothing that was acknowledged is lost.
//!
//! The file system is a small tmpfs in a mount namespace of the test's own, which takes root. Where
//! that is not permitted, the reserve is set to all of the disk instead, and the test says so.

mod common;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{ptr, thread};

use common::client::{Client, xid};
use common::http::Http;
use common::{DEADLINE, Server};
use serde_json::json;
use tempfile::TempDir;

/// Size of the file system; 5 % of it are kept free.
const DISK_BYTES: usize = 192 << 20;
/// What another program takes of it at first.
const FILLER_BYTES: usize = 128 << 20;
/// Content of the messages that fill the rest.
const CONTENT_BYTES: usize = 32 << 10;
/// Those that are read while the disk is full.
const READ: u32 = 100;

#[test]
fn a_disk_that_fills_up_stores_nothing_and_serves_everything_else() {
    let Some(disk) = Disk::mount() else {
        eprintln!("no file system can be mounted here: the reserve is set to all of the disk");
        return a_reserve_above_what_is_free();
    };
    let filler = disk.path().join("filler");
    fill(&filler, FILLER_BYTES);
    let data = disk.path().join("store");
    std::fs::create_dir(&data).expect("made");
    let prepare = |directory: &Path| symlink(&data, directory.join("data")).expect("linked");
    let mut server = Server::start_prepared(&["--shards", "2", "--drain-s", "0"], prepare);
    Client::connect(&server, "bob", "b").close();

    let mut alice = Client::connect(&server, "alice", "a");
    let payload = json!(incompressible(CONTENT_BYTES));
    let mut stored = 0;
    loop {
        alice.send_c2c(&xid(stored), "bob", &payload);
        let answer = alice.next();
        if answer["type"] == "error" {
            assert_eq!((&answer["code"], &answer["id"]), (&json!(1), &json!(xid(stored))));
            assert_eq!(answer["payload"]["content"], "try again");
            break;
        }
        assert_eq!(answer["type"], "C2C_SERVER_ACK", "{answer}");
        stored += 1;
    }
    assert!(stored > 3 * READ, "the disk was filled by messages: {stored}");
    check_full(&server, &mut alice, "bob");
    // Somebody whose messages wait reads and acknowledges them.
    let mut bob = Client::connect(&server, "bob", "b");
    read(&mut bob, 0, READ);
    bob.close();

    // It ends and comes up in this state; what was acknowledged is not offered again.
    assert_eq!(server.sigterm_and_wait().code(), Some(0), "{}", server.log());
    server.restart(&["--shards", "2", "--drain-s", "0"]);
    read(&mut Client::connect(&server, "bob", "b"), READ, 2 * READ);
    // After a crash, the acknowledgements of the last second may be gone.
    server.kill9();
    server.restart(&["--shards", "2"]);
    let mut alice = Client::connect(&server, "alice", "a");
    check_full(&server, &mut alice, "bob");
    let mut bob = Client::connect(&server, "bob", "b");
    let again = bob.next();
    let again = (READ..=2 * READ).find(|n| again["id"] == xid(*n)).expect("one of the last");
    bob.ack(&xid(again));
    read(&mut bob, again + 1, 2 * READ + 1);

    // Room again: nobody has to do anything else.
    std::fs::remove_file(&filler).expect("removed");
    wait_until_ready(&server);
    // Each shard hears of it in its own time.
    loop {
        alice.send_c2c(&xid(stored), "bob", &json!("room again"));
        let answer = alice.next();
        if answer["type"] == "C2C_SERVER_ACK" {
            break;
        }
        assert_eq!(answer["payload"]["content"], "try again");
    }
    read(&mut bob, again.max(2 * READ) + 1, stored);
    let last = bob.next();
    assert_eq!((&last["id"], &last["payload"]), (&json!(xid(stored)), &json!("room again")));
    assert_eq!(server.http().put("/v1/users/dora", &json!({})).status, 201);
    Client::connect(&server, "carol", "c").nothing_more();
    assert!(server.log().contains("the disk has room again"), "{}", server.log());
}

/// A text that takes as much room in a table file as in the write-ahead log.
fn incompressible(bytes: usize) -> String {
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
                [(state >> 58) as usize],
        )
    };
    (0..bytes).map(|_| letter()).collect()
}

/// The same without a file system of our own: less is seen of it.
fn a_reserve_above_what_is_free() {
    let mut server = Server::start();
    for user in ["alice", "bob"] {
        Client::connect(&server, user, "d").close();
    }
    let mut alice = Client::connect(&server, "alice", "a");
    for n in 0..5 {
        alice.send_stored(&xid(n), "bob", &json!(n));
    }
    server.kill9();
    server.restart(&["--reserve-percent", "100", "--reserve-bytes", "1125899906842624"]);
    let mut alice = Client::connect(&server, "alice", "a");
    alice.send_c2c(&xid(9), "bob", &json!(9));
    assert_eq!(alice.next()["code"], 1);
    check_full(&server, &mut alice, "bob");
    read(&mut Client::connect(&server, "bob", "d"), 0, 5);
    server.kill9();
    server.restart(&[]);
    wait_until_ready(&server);
    Client::connect(&server, "alice", "a").send_stored(&xid(9), "bob", &json!(9));
}

/// What a full disk refuses, and what it does not.
fn check_full(server: &Server, alice: &mut Client, to: &str) {
    let open = Http::new(server.api_addr());
    let ready = open.get("/readyz");
    assert_eq!((ready.status, ready.error_code().as_str()), (503, "unavailable"));
    assert!(ready.body.contains("the disk is down to its reserve"), "{}", ready.body);
    assert_eq!(open.get("/healthz").status, 200);
    let api = server.http();
    let put = api.put("/v1/users/dora", &json!({}));
    assert_eq!((put.status, put.header("retry-after")), (503, Some("1")), "{put:?}");
    assert_eq!(api.get(&format!("/v1/users/{to}")).status, 200);
    assert!(api.get("/metrics").body.contains("ringpost_ready 0\n"));
    let headers = [("authorization", server.token("carol")), ("did", "c".to_owned())];
    let new_user = Client::with_headers(server, "/imboy/ws", &headers).map(|_| ());
    assert_eq!(new_user, Err(503), "a user who would have to be created");
    // A resend of what was stored has its receipt.
    alice.send_c2c(&xid(0), to, &json!("whatever"));
    assert_eq!(alice.next()["type"], "C2C_SERVER_ACK");
    alice.nothing_more();
}

/// Takes messages `from..to` in order and acknowledges them.
fn read(client: &mut Client, from: u32, to: u32) {
    for n in from..to {
        let message = client.next();
        assert_eq!((&message["type"], &message["id"]), (&json!("C2C"), &json!(xid(n))));
        client.ack(&xid(n));
    }
}

fn wait_until_ready(server: &Server) {
    let deadline = Instant::now() + DEADLINE;
    let open = Http::new(server.api_addr());
    while open.get("/readyz").status != 200 {
        assert!(Instant::now() < deadline, "it does not get ready:\n{}", server.log());
        thread::sleep(Duration::from_millis(20));
    }
}

fn fill(path: &Path, bytes: usize) {
    let mut file = File::create(path).expect("made");
    let block = vec![0x5a; 1 << 20];
    for _ in 0..bytes / block.len() {
        file.write_all(&block).expect("there is room");
    }
}

/// A small file system of the test's own.
struct Disk {
    directory: TempDir,
    place: CString,
}

impl Disk {
    /// Mounts it where only this thread, and what it starts, can see it: it goes with them. `None`:
    /// that is not permitted.
    fn mount() -> Option<Disk> {
        let directory = TempDir::new().expect("a directory");
        let place = CString::new(directory.path().to_str()?).ok()?;
        // SAFETY: no memory is passed; only this thread's view of the mounts becomes its own.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        let (none, private) = (ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: the string ends with a zero byte; the others may be null for these flags.
        check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, ptr::null()) })?;
        let options = CString::new(format!("size={DISK_BYTES}")).expect("no zero byte");
        let (kind, options) = (c"tmpfs".as_ptr(), options.as_ptr().cast());
        // SAFETY: all strings end with a zero byte and live until the call has returned.
        check(unsafe { libc::mount(kind, place.as_ptr(), kind, 0, options) })?;
        Some(Disk { directory, place })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: the string ends with a zero byte. It may be in use, so it is only detached.
        check(unsafe { libc::umount2(self.place.as_ptr(), libc::MNT_DETACH) });
    }
}

fn check(result: i32) -> Option<()> {
    if result != 0 {
        eprintln!("{}", io::Error::last_os_error());
    }
    (result == 0).then_some(())
}
