//! Attacks on a real server. For each: the server's memory stays below a bound that the test
//! states, others are served meanwhile, and the attacker gets the documented answer
//! (protocols/README.md, README).
//!
//! A test run has small sizes. `RINGPOST_ATTACK=full` (`make attack`) has large ones, one attack
//! after the other, and prints for each what others' exchanges (a private message, its receipt,
//! its delivery and acknowledgement) took before it and during it.

mod common;
#[path = "attack/content.rs"]
mod content;
#[path = "attack/devices.rs"]
mod devices;
#[path = "attack/frames.rs"]
mod frames;
#[path = "attack/handshakes.rs"]
mod handshakes;
#[path = "attack/many.rs"]
mod many;
#[path = "attack/slow.rs"]
mod slow;
#[path = "attack/witness.rs"]
mod witness;
